"""Where the tools come from: a tool that is missing is an error, not a gap."""

import shutil
import subprocess

# The Debian package of each tool that has another name than its package, or
# that is one of many in it; scripts/packages installs them all.
PACKAGES = {
    **dict.fromkeys(
        "cat chmod chown cp dd df du install ln ls mv rm sha256sum sort stat tee touch "
        "truncate".split(),
        "coreutils",
    ),
    "awk": "mawk",
    "emacs": "emacs-nox",
    "ex": "vim",
    "diff": "diffutils",
    "fallocate": "util-linux",
    "find": "findutils",
    "flock": "util-linux",
    "node": "nodejs",
    "python3": "python3",
    "setfacl": "acl",
    "setfattr": "attr",
    "sponge": "moreutils",
}


class MissingTools(Exception):
    """Tools of the table that are not installed."""


def package_of(tool):
    return PACKAGES.get(tool, tool)


def require(tools, path):
    """Raises MissingTools, with the packages to install, unless all are found
    on `path`."""
    missing = sorted({tool for tool in tools if not shutil.which(tool, path=path)})
    if missing:
        packages = " ".join(sorted({package_of(tool) for tool in missing}))
        raise MissingTools(f"no {', '.join(missing)}: apt-get install {packages}")


def versions(tools, path):
    """The versions of the tools' packages; what does not come from a Debian
    package is asked itself."""
    found = {}
    for tool in sorted(tools):
        package = package_of(tool)
        query = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package],
            capture_output=True,
            text=True,
        )
        status, _, version = query.stdout.partition(" ")
        if status != "installed":
            asked = subprocess.run(
                [shutil.which(tool, path=path), "--version"], capture_output=True, text=True
            )
            package, version = tool, (asked.stdout.splitlines() or ["?"])[0].removeprefix("v")
        found[package] = version
    return found
