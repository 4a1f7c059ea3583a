"""Where the commands run: a filesystem, two places on it, and what is there."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

# Natively a file of this size takes long enough to write for a reader to see
# a piece of it.
OLD = b"".join(b"old %08d %s\n" % (n, b"x" * 50) for n in range(2 << 14))
NEW = b"".join(b"new %08d %s\n" % (n, b"y" * 50) for n in range(3 << 14))
OTHER = b"".join(b"other %06d %s\n" % (n, b"z" * 50) for n in range(1 << 14))

# The time of the oldest file of a starting state, seconds since the epoch.
LONG_AGO = 1_577_836_800  # 2020-01-01

# What `sessionfs umount` exits with when the mount is in use.
BUSY = 6

# Seconds that it may be.
PATIENCE = 5

FILESYSTEMS = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}


def call(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


@contextmanager
def disk(kind):
    """A private directory, on a filesystem of its own if `kind` names one."""
    work = Path(tempfile.mkdtemp(prefix="sessionfs-compatibility-"))
    try:
        if kind is None:
            yield work
            return
        place = work / "disk"
        place.mkdir()
        if kind == "tmpfs":
            call("mount", "-t", "tmpfs", "none", place)
        else:
            image = work / "image"
            with open(image, "wb") as file:
                file.truncate(1 << 30)
            call(*FILESYSTEMS[kind], image)
            call("mount", "-o", "loop", image, place)
        try:
            yield place
        finally:
            call("umount", place)
    finally:
        shutil.rmtree(work)


@contextmanager
def elsewhere(work):
    """A private directory on another filesystem than `work`."""
    place = Path(tempfile.mkdtemp(prefix="sessionfs-compatibility-", dir="/dev/shm"))
    try:
        if place.stat().st_dev == work.stat().st_dev:
            raise SystemExit("/dev/shm has to be another filesystem than TMPDIR")
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def mount(sessionfs, repository, mountpoint, log):
    """Mounts a repository."""
    call(sessionfs, "mount", "--log-file", log, repository, mountpoint)
    try:
        yield
    finally:
        # Whoever looks around in temporary directories keeps it busy: that
        # is nothing that the row has done.
        deadline = time.monotonic() + PATIENCE
        while (busy := _busy(sessionfs, mountpoint)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if busy:
            print(f"{mountpoint}: in use by others, detached", file=sys.stderr)
            call(sessionfs, "umount", "--lazy", mountpoint)
        mountpoint.rmdir()


def _busy(sessionfs, mountpoint):
    """Unmounts; whether somebody is in the way."""
    done = subprocess.run([sessionfs, "umount", mountpoint], capture_output=True)
    if done.returncode not in (0, BUSY):
        raise SystemExit(f"umount: {done.stderr.decode()}")
    return done.returncode == BUSY


def sessions(root):
    """Makes the two sessions of the starting state."""
    for name, checkpoint in (("main.session", OLD), ("other.session", OTHER)):
        session = root / name
        deep = session / "io-logs" / "deep"
        deep.mkdir(parents=True)
        (session / "session").write_bytes(checkpoint)
        (session / "draft").write_bytes(NEW)
        (session / "current").symlink_to("session")
        (session / "io-logs" / "one").write_bytes(b"one\n" * 1000)
        (session / "io-logs" / "draft").write_bytes(NEW)
        (deep / "two").write_bytes(b"two\n")
        # Not the modes that a new file gets: who keeps them shows.
        os.chmod(session / "session", 0o640)
        os.chmod(session / "io-logs" / "one", 0o600)
        os.setxattr(session / "session", "user.origin", b"the starting state")


def incoming(out):
    """Makes what is on the other filesystem."""
    out.mkdir()
    (out / "incoming").write_bytes(NEW)
    (out / "home").mkdir()
    age(out)


def age(root):
    """Gives every entry a time of its own, long ago and the same in each run."""
    paths = sorted(Path(directory, name) for directory, dirs, files in os.walk(root)
                   for name in dirs + files)
    for number, path in enumerate([*paths, root]):
        moment = (LONG_AGO + 1000 * number) * 10**9 + 123_456_789
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
