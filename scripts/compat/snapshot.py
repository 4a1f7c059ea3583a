"""What is left of a directory tree: everything that can be seen of its entries."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

# Everything in a starting state is older than this; what is younger was made
# or changed by the command.
FRESH = 1_609_459_200 * 10**9  # 2021-01-01, nanoseconds

CHECKPOINT = "session"


@dataclass(frozen=True)
class Entry:
    kind: str
    mode: int
    owner: str
    size: int | None
    content: str | None
    target: str | None
    xattrs: tuple
    links: int
    same_file: tuple
    """All names of this file in the tree: what hard links are."""
    mtime: int
    inode: int

    @property
    def fresh(self):
        return self.mtime >= FRESH


def entries_of(root):
    """All entries of a tree by their paths, the root's own attributes left out."""
    stats = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = Path(directory, name)
            stats[str(path.relative_to(root))] = path.lstat()
    names_of = {}
    for path, status in sorted(stats.items()):
        names_of.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {
        path: _entry(Path(root, path), status, tuple(names_of[status.st_dev, status.st_ino]))
        for path, status in stats.items()
    }


def _entry(path, status, names):
    mode = status.st_mode
    file = stat.S_ISREG(mode)
    directory = stat.S_ISDIR(mode)
    return Entry(
        kind=stat.filemode(mode)[0],
        mode=stat.S_IMODE(mode),
        owner=f"{status.st_uid}:{status.st_gid}",
        # A directory's size tells of the names it once had.
        size=None if directory else status.st_size,
        content=digest_of(path) if file else None,
        target=os.readlink(path) if stat.S_ISLNK(mode) else None,
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        links=status.st_nlink,
        same_file=names,
        mtime=status.st_mtime_ns,
        inode=status.st_ino,
    )


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(native, other, start, varies=()):
    """What is different in `other`, a tree of the mount or its repository, from
    the native one. `start` is `other` as it was before the command.

    The contract itself makes two differences, and no others are allowed:

    * a missing checkpoint is shown as an empty file (DESIGN 1, load), so the
      caller hands the mount's view through `without_empty_checkpoints`;
    * a save gives the checkpoint a new inode under its name (DESIGN 3), which
      the times of modification tell: the directory's, where a native save in
      place leaves it alone, and its own, where a native mapping does (tmpfs).
      See `_told_of_save`.
    """
    found = []
    for path in sorted(native.keys() | other.keys()):
        if path not in other:
            found.append(f"{path} is missing")
        elif path not in native:
            found.append(f"{path} is left")
        else:
            a, b = native[path], other[path]
            for what in _different(a, b, path in varies):
                if not (what == "mtime" and _told_of_save(path, a, b, other, start)):
                    found.append(f"{path}: {what} {_shown(b, what)}, natively {_shown(a, what)}")
    return found


def _different(a, b, varies):
    for what in ("kind", "mode", "owner", "target", "xattrs", "links", "same_file"):
        if getattr(a, what) != getattr(b, what):
            yield what
    for what in ("size", "content"):
        if not varies and getattr(a, what) != getattr(b, what):
            yield what
    # Two runs are never at the same time, but what a tool preserved or set is
    # the same to the nanosecond.
    if a.fresh != b.fresh or (not a.fresh and a.mtime != b.mtime):
        yield "mtime"


def _told_of_save(path, native, entry, other, start):
    own = path.endswith(f".session/{CHECKPOINT}")
    checkpoint = path if own else f"{path}/{CHECKPOINT}"
    if native.fresh or not entry.fresh or not checkpoint.endswith(f".session/{CHECKPOINT}"):
        return False
    if checkpoint not in start or checkpoint not in other:
        return False
    before, after = start[checkpoint], other[checkpoint]
    return before.content != after.content or (after.fresh and not own)


def _shown(entry, what):
    value = getattr(entry, what)
    match what:
        case "mode":
            return f"{value:04o}"
        case "content":
            return str(value)[:8]
        case "mtime":
            return "now" if entry.fresh else str(value)
        case _:
            return str(value)


def without_empty_checkpoints(view, repository):
    """The mount's view, less the empty files that stand for checkpoints which
    the repository does not have. Another look would not be one moment with the
    first, so nothing may be running by now."""
    return {
        path: entry
        for path, entry in view.items()
        if path in repository
        or not (
            path.endswith(f".session/{CHECKPOINT}")
            and path.count("/") == 1
            and entry.kind == "-"
            and entry.size == 0
        )
    }
