"""Runs a command to its end, on a terminal if it needs one."""

import os
import pty
import select
import signal
import subprocess
import time
from contextlib import contextmanager

# Seconds that a command may take.
PATIENCE = 60

# Debian's tools first, not those of whoever runs this.
PATH = "/usr/bin:/bin:/usr/sbin:/sbin:" + os.environ.get("PATH", "")

# Nothing of the caller's settings, and nothing that changes with the day.
ENVIRONMENT = {
    "PATH": PATH,
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "TERM": "xterm",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "1600000000 +0000",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_COMMITTER_DATE": "1600000000 +0000",
}


def run(arguments, directory, variables, keys=()):
    """The exit status of a command, and what it wrote to stdout and stderr.

    With `keys` it runs on a terminal: see `Row.keys`.
    """
    out = variables["OUT"]
    environment = {
        **ENVIRONMENT,
        **{name: str(value) for name, value in variables.items()},
        "HOME": str(out / "home"),
        "TMPDIR": str(out),
    }
    options = {"cwd": directory, "env": environment, "umask": 0o022}
    return _typed(arguments, keys, options) if keys else _piped(arguments, options)


@contextmanager
def _started(arguments, options):
    """A process, which is gone with all its children after an early end."""
    process = subprocess.Popen(arguments, start_new_session=True, **options)
    try:
        yield process
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _piped(arguments, options):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        with _started(arguments, {**options, **pipes}) as process:
            output, _ = process.communicate(timeout=PATIENCE)
            return process.returncode, output
    except subprocess.TimeoutExpired as late:
        return "timeout", late.output or b""


def _typed(arguments, keys, options):
    """What is typed before a program has set up its terminal is lost, so each
    text waits for what the screen shows before it."""
    terminal, theirs = pty.openpty()
    pipes = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    try:
        with _started(arguments, {**options, **pipes}) as process:
            os.close(theirs)
            screen = _type(terminal, list(keys))
            return process.wait(timeout=PATIENCE), screen
    except TimeoutError as late:
        return f"timeout: {late}", b""
    finally:
        os.close(terminal)


def _type(terminal, keys):
    screen, deadline = b"", time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if keys and keys[0][0] in screen:
            screen = b""
            os.write(terminal, keys.pop(0)[1])
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            screen += os.read(terminal, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            if keys:
                raise TimeoutError(f"the end came before {keys[0][0]}") from None
            return screen
    raise TimeoutError(f"waited for {keys[0][0] if keys else 'the end'}, saw {screen[-200:]}")
