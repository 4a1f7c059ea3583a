"""The reader that polls a file in a tight loop, and what it saw."""

import hashlib
import multiprocessing
import os
import signal

# Several reads for a checkpoint: a reader has to get one whole content to the
# end even if a save comes between them.
CHUNK = 256 * 1024

# Forked, because starting another interpreter takes longer than many a row.
_FORK = multiprocessing.get_context("fork")


def digest(content):
    return hashlib.sha256(content).hexdigest()


EMPTY = digest(b"")
ABSENT = "absent"


def look(path):
    """What a reader gets: a content, ABSENT, or the error as a string."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError as error:
        return f"open: {error.strerror}"
    try:
        size = os.fstat(descriptor).st_size
        chunks = []
        while chunk := os.read(descriptor, CHUNK):
            chunks.append(chunk)
        content = b"".join(chunks)
        return content if len(content) == size else f"{len(content)} bytes of {size}"
    except OSError as error:
        return f"read: {error.strerror}"
    finally:
        os.close(descriptor)


def _poll(path, pipe):
    # A signal to all of us is for the one who waits for this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seen, last, ended = [], None, False
    while not ended:
        # Asked before the look: the final one begins after the command ended.
        ended = pipe.poll()
        content = look(path)
        # Nearly always the same as before, which is cheaper to compare than
        # to hash.
        if content != last:
            key = digest(content) if isinstance(content, bytes) else content
            if key not in seen:
                seen.append(key)
            if last is None:
                pipe.send("looked")
            last = content
    pipe.send(seen)


class Observer:
    """Polls `path` from before the `with` block begins until after it ended."""

    def __init__(self, path):
        self.seen = []
        """Digests of the distinct contents, ABSENT, or errors; by first sight."""
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_poll, args=(path, theirs), daemon=True)

    def __enter__(self):
        self._process.start()
        self._pipe.recv()
        return self

    def __exit__(self, *_):
        self._pipe.send("end")
        self.seen = self._pipe.recv()
        self._process.join()


class Wholes:
    """The contents that a reader may see, and what they are called."""

    def __init__(self, old, between, steps, on_mount):
        """Digests (or ABSENT): the old content, those saved on the way, and
        those after each step. On the mount a missing checkpoint is shown as
        an empty file."""
        self._names = {}
        for number, content in enumerate(between, 1):
            self._names[content] = f"save {number}"
        for number, content in enumerate(steps[:-1], 1):
            self._names[content] = f"step {number}"
        self._names[steps[-1]] = "new"
        self._names[old] = "old"
        if ABSENT in self._names:
            self._names[ABSENT] = "none"
            if on_mount:
                self._names.setdefault(EMPTY, "none")

    def name(self, content):
        """What a content is called, and whether it is a whole one."""
        if content in self._names:
            return self._names[content], True
        if content in (ABSENT, EMPTY):
            return "empty" if content == EMPTY else "absent", False
        if content.startswith(("open", "read")):
            return content, False
        return "torn", False

    def names(self, seen):
        """The distinct names, by first sight."""
        return list(dict.fromkeys(self.name(content)[0] for content in seen))

    def all_whole(self, seen):
        return all(self.name(content)[1] for content in seen)
