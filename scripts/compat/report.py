"""The table as Markdown, and its place in tests/compatibility.md."""

import os
import platform
import re

from .observer import digest

BEGIN = "<!-- made by scripts/compatibility --write -->"
END = "<!-- end of what scripts/compatibility made -->"


def table(results):
    lines = [
        f"<details><summary>All {len(results)} rows</summary>",
        "",
        "| tool | way of saving | status | `session` | came, went | mount and directory "
        "| a reader on the mount saw | and in the directory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = (
            result.row.tool,
            result.row.way,
            result.native.status,
            _content(result.native.final),
            ", ".join(f"`{name}`" for name in result.left) or "–",
            "**differ**" if result.reasons else "equal",
            ", ".join(result.seen_on_mount),
            ", ".join(result.seen_natively),
        )
        lines.append("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")
    return "\n".join([*lines, "", "</details>"])


def _content(content):
    if isinstance(content, str):
        return content
    size = len(content)
    scale = f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size} B"
    return f"{scale}, {digest(content)[:8]}"


def how(results, filesystem, versions):
    """How the table was made: a paragraph."""
    equal = sum(not result.reasons for result in results)
    tools = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{equal} of {len(results)} rows equal, on Linux {platform.release()} "
        f"and {filesystem}, with {tools}."
    )


def filesystem_of(path):
    """The type of the filesystem that a path is on."""
    found = ""
    longest = -1
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, place, kind, *_ = line.split()
            if os.path.commonpath([place, path]) == place and len(place) >= longest:
                found, longest = kind, len(place)
    return found


def write(document, text):
    """Puts the text between the markers of the document."""
    old = document.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    new, count = pattern.subn(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", old)
    if count != 1:
        raise SystemExit(f"{document} must have the markers once: {BEGIN} and {END}")
    document.write_text(new)
