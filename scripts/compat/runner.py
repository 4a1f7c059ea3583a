"""Runs a row on both sides, and compares."""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import command, scene, snapshot
from .observer import ABSENT, EMPTY, Observer, Wholes, digest, look

PROGRAMS = Path(__file__).parent / "programs"


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
        whole = (native.old, between, native.contents)
        seen_natively = Wholes(*whole, on_mount=False).names(native.seen)
        wholes = Wholes(*whole, on_mount=True)
        seen_on_mount = wholes.names(mount.seen)
        if not wholes.all_whole(mount.seen):
            reasons.append("a reader saw: " + ", ".join(seen_on_mount))
        return Result(row, native, mount, reasons, seen_on_mount, seen_natively)

    def _between(self, row):
        """Digests of the contents that are saved on the way."""
        return [self._content_between(row, text) for text in row.between]

    def _content_between(self, row, text):
        root = self.work / "native"
        with self._prepared(row, root) as out:
            return digest(self._execute(text, "bash", root, out)[1])

    def _natively(self, row):
        root = self.work / "native"
        with self._prepared(row, root) as out:
            return self._watched(row, root, root, out)

    def _on_mount(self, row):
        repository, mountpoint = self.work / "repository", self.work / "mnt"
        log = self.work / "log"
        with self._prepared(row, repository) as out:
            with scene.mount(self.sessionfs, repository, mountpoint, log):
                side = self._watched(row, mountpoint, repository, out)
        side.log = log.read_text()
        log.unlink()
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
            for text in row.commands:
                status, printed = self._execute(text, row.shell, root, out, row.keys)
                statuses.append(status)
                output += printed
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

    def _execute(self, text, shell, root, out, keys=()):
        variables = {"OUT": out, "PROGRAMS": self.programs}
        return command.run([shell, "-c", text], root / "main.session", variables, keys)


def _key(content):
    return digest(content) if isinstance(content, bytes) else content


def _differences(row, native, mount):
    if mount.status != native.status:
        yield f"exit status {mount.status}, natively {native.status}"
    if mount.output != native.output:
        yield f"it printed {_brief(mount.output)}, natively {_brief(native.output)}"
    for number, (a, b) in enumerate(zip(native.contents, mount.contents), 1):
        if a != b and not (a == ABSENT and b == EMPTY):
            yield f"{row.watch} after step {number}: {b[:8]}, natively {a[:8]}"
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
        if " warning: " in line or " error: " in line:
            yield f"logged: {line}"


def _brief(output):
    text = output.decode(errors="replace").strip()
    return repr(text if len(text) < 200 else f"{text[:200]}…")
