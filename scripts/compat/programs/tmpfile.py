"""Copies a file over another by O_TMPFILE and a link, as careful programs do:
where the filesystem has no O_TMPFILE, by a temporary name."""

import errno
import os
import sys

source, target = sys.argv[1:]
name = f".{target}.tmp"
try:
    file = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o644)
    unnamed = True
except OSError as error:
    if error.errno != errno.EOPNOTSUPP:
        raise
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    unnamed = False
with open(source, "rb") as stream:
    os.write(file, stream.read())
os.fsync(file)
if unnamed:
    # With a directory given, python asks for AT_SYMLINK_FOLLOW.
    os.link(f"/proc/self/fd/{file}", name, src_dir_fd=file, follow_symlinks=True)
os.rename(name, target)
os.close(file)
