"""Runs a row on both sides, and compares."""

import os
import pty
import select
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import scene, snapshot
from .observer import ABSENT, Observer, Wholes, digest, look

# Seconds that a command, or an answer on a terminal, may take.
PATIENCE = 60

PROGRAMS = Path(__file__).parent / "programs"

# Debian's tools first, not those of whoever runs this.
PATH = "/usr/bin:/bin:/usr/sbin:/sbin:" + os.environ.get("PATH", "")


@dataclass
class Side:
    """What a command did in one of the two places."""

    status: str
    output: bytes
    before: dict
    trees: dict
    """By what they are called: the tree as seen, the repository behind it,
    and what is on the other filesystem."""
    old: str
    contents: list
    """The watched file after each step: digests, or ABSENT."""
    final: bytes | str
    seen: list
    log: str = ""


@dataclass
class Result:
    row: object
    native: Side
    mount: Side
    reasons: list
    """Why the sides are not equal, or what a reader should not have seen;
    empty if all is well."""
    seen_on_mount: list
    seen_natively: list

    @property
    def left(self):
        """The entries that came (+) and went (-) natively, in short."""
        tree = self.native.trees["here"]
        came = sorted(tree.keys() - self.native.before.keys())
        went = sorted(self.native.before.keys() - tree.keys())
        return [f"+{path}" for path in _tops(came)] + [f"-{path}" for path in _tops(went)]


def _tops(paths):
    """Leaves out what is below another one of them."""
    tops = []
    for path in paths:
        if not any(path.startswith(f"{top}/") for top in tops):
            tops.append(path)
    return [path.removeprefix("main.session/") for path in tops]


class Runner:
    """Runs rows, each with fresh directories and a mount of its own."""

    def __init__(self, sessionfs, work, outside):
        self.sessionfs = sessionfs
        self.work = work
        self.outside = outside
        self._compile()

    def _compile(self):
        """Programs are compiled beside their sources' copies, out of the tree."""
        self.programs = self.outside / "programs"
        shutil.copytree(PROGRAMS, self.programs)
        for source in self.programs.glob("*.c"):
            scene.call("gcc", "-O2", "-o", source.with_suffix(""), source)

    def run(self, row):
        between = self._between(row)
        native = self._natively(row)
        mount = self._on_mount(row)
        reasons = list(_differences(row, native, mount))
        wholes = Wholes(native.old, between, native.contents)
        natively = wholes.names(native.seen)
        wholes.as_on_mount()
        on_mount = wholes.names(mount.seen)
        if not wholes.all_whole(mount.seen):
            reasons.append("a reader saw: " + ", ".join(on_mount))
        return Result(row, native, mount, reasons, on_mount, natively)

    def _between(self, row):
        """Digests of the contents that are saved on the way."""
        if not row.between:
            return []
        root = self.work / "native"
        with self._prepared(row, root) as out:
            return [digest(self._execute(command, "bash", root, out)[1])
                    for command in row.between]

    def _natively(self, row):
        root = self.work / "native"
        with self._prepared(row, root) as out:
            return self._watched(row, root, root, out)

    def _on_mount(self, row):
        repository, mountpoint = self.work / "repository", self.work / "mnt"
        log = self.work / "log"
        with self._prepared(row, repository) as out:
            scene.call(self.sessionfs, "mount", "--log-file", log, repository, mountpoint)
            try:
                side = self._watched(row, mountpoint, repository, out)
            finally:
                scene.call(self.sessionfs, "umount", mountpoint)
                text = log.read_text()
                log.unlink()
                mountpoint.rmdir()
        side.log = text
        return side

    @contextmanager
    def _prepared(self, row, root):
        out = self.outside / "out"
        root.mkdir()
        scene.incoming(out)
        try:
            scene.sessions(root)
            scene.age(root)
            if row.prepare:
                status, output = self._execute(row.prepare, "bash", root, out)
                if status != 0:
                    raise SystemExit(f"{row.name}: its preparation failed: {output}")
                scene.age(root)
                scene.age(out)
            yield out
        finally:
            shutil.rmtree(root)
            shutil.rmtree(out)

    def _watched(self, row, root, behind, out):
        """Runs the steps in `root`, of which the files are kept in `behind`."""
        watched = root / "main.session" / row.watch
        before = snapshot.entries_of(behind)
        old = _key(look(watched if root == behind else behind / "main.session" / row.watch))
        statuses, output, contents = [], b"", []
        with Observer(watched) as observer:
            for command in row.commands:
                status, text = self._execute(command, row.shell, root, out, row.keys)
                statuses.append(status)
                output += text
                final = look(watched)
                contents.append(_key(final))
        trees = {"here": snapshot.entries_of(root), "outside": snapshot.entries_of(out)}
        if root != behind:
            trees["repository"] = snapshot.entries_of(behind)
        # What is on a terminal depends on the moment.
        output = b"" if row.keys else output.replace(str(root).encode(), b"ROOT")
        # One for all steps if they agree.
        status = ", ".join(map(str, dict.fromkeys(statuses)))
        return Side(status, output, before, trees, old, contents, final, observer.seen)

    def _execute(self, command, shell, root, out, keys=()):
        """The exit status of a command, and what it wrote to stdout and stderr."""
        environment = {
            "PATH": PATH,
            "HOME": str(out / "home"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TERM": "xterm",
            "OUT": str(out),
            "PROGRAMS": str(self.programs),
            "TMPDIR": str(out),
            "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_AUTHOR_DATE": "1600000000 +0000",
            "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
            "GIT_COMMITTER_DATE": "1600000000 +0000",
        }
        arguments = {
            "args": [shell, "-c", command],
            "cwd": root / "main.session",
            "env": environment,
            "start_new_session": True,
            "umask": 0o022,
        }
        if keys:
            return _typed(arguments, keys)
        process = subprocess.Popen(
            **arguments, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        try:
            output, _ = process.communicate(timeout=PATIENCE)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "timeout", process.communicate()[0]


def _typed(arguments, keys):
    """Runs a command on a terminal and types: what comes before the program
    has set up its terminal would be lost, so it waits for the screen."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(**arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen, deadline, waiting = b"", time.monotonic() + PATIENCE, list(keys)
    while time.monotonic() < deadline:
        if waiting and waiting[0][0] in screen:
            screen = b""
            os.write(terminal, waiting.pop(0)[1])
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            screen += os.read(terminal, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            break
    else:
        os.killpg(process.pid, signal.SIGKILL)
    os.close(terminal)
    status = process.wait()
    return (status if status >= 0 and not waiting else f"{status}, with {waiting}"), screen


def _key(content):
    return digest(content) if isinstance(content, bytes) else content


def _differences(row, native, mount):
    if mount.status != native.status:
        yield f"exit status {mount.status}, natively {native.status}"
    if mount.output != native.output:
        yield f"it printed {_brief(mount.output)}, natively {_brief(native.output)}"
    repository = mount.trees["repository"]
    trees = {
        "on the mount": (
            "here",
            snapshot.without_empty_checkpoints(mount.trees["here"], repository),
        ),
        "in the repository": ("here", repository),
        "outside": ("outside", mount.trees["outside"]),
    }
    for place, (natively, tree) in trees.items():
        varies = {f"main.session/{path}" for path in row.varies} | row.varies.keys()
        for what in snapshot.differences(native.trees[natively], tree, mount.before, varies):
            yield f"{place}: {what}"
    for line in mount.log.splitlines():
        if "WARN" in line or "ERROR" in line:
            yield f"logged: {line}"


def _brief(output):
    text = output.decode(errors="replace").strip()
    return repr(text if len(text) < 200 else f"{text[:200]}…")
