"""The algorithm that the storage has always had: `session.next`, made
exclusively, becomes `session`; a leftover one is a lock, until it is removed."""

import os
import sys


def save(data):
    directory = os.open(".", os.O_DIRECTORY)
    file = os.open("session.next", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(file)
    os.rename("session.next", "session", src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)
    os.close(directory)


match sys.argv[1]:
    case "save":
        try:
            save(sys.stdin.buffer.read())
        except FileExistsError as error:
            sys.exit(f"locked: {error}")
    case "break-lock":
        os.unlink("session.next")
