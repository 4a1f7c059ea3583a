//! Removing everything that is in a session.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::sys::{self, Errno};

/// Removes the directory `name` and all that is in it, without following a
/// symlink or crossing into another filesystem. What cannot be removed is
/// told to `warn`, with its path below `name`, and the rest still goes.
///
/// Answers whether everything is gone.
pub(super) fn remove_tree(
    parent: impl AsFd,
    name: &OsStr,
    warn: &mut dyn FnMut(PathBuf, Errno),
) -> bool {
    let opened = sys::open_dir(&parent, name)
        .and_then(|dir| sys::fstat(&dir).map(|stat| (dir, stat)))
        .and_then(|(dir, stat)| Level::new(name.to_owned(), dir).map(|level| (level, stat)));
    let (top, stat) = match opened {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return true,
        Err(errno) => {
            warn(PathBuf::new(), errno);
            return false;
        }
    };
    let device = (stat.stx_dev_major, stat.stx_dev_minor);
    let mut complete = true;
    // A stack of our own: a session may be deeper than a thread's stack.
    let mut stack = vec![top];
    while let Some(level) = stack.last_mut() {
        let Some(entry) = level.entries.pop() else {
            let done = stack.pop().map(|level| level.name).unwrap_or_default();
            let above = stack.last().map_or(parent.as_fd(), |l| l.dir.as_fd());
            match sys::rmdir(above, &done) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    complete = false;
                    // Its entries have been told of already.
                    if errno != Errno::NOTEMPTY {
                        warn(path_of(&stack, &done), errno);
                    }
                }
            }
            continue;
        };
        let result = match sys::unlink(&level.dir, &entry) {
            // EISDIR on Linux, EPERM by POSIX.
            Err(unlinked @ (Errno::ISDIR | Errno::PERM)) => {
                match descend(&level.dir, &entry, device) {
                    Ok(below) => {
                        stack.push(below);
                        continue;
                    }
                    Err(Errno::NOTDIR) => Err(unlinked),
                    Err(errno) => Err(errno),
                }
            }
            other => other,
        };
        match result {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                complete = false;
                warn(path_of(&stack, &entry), errno);
            }
        }
    }
    complete
}

/// One directory on the way down.
struct Level {
    name: OsString,
    dir: OwnedFd,
    entries: Vec<OsString>,
}

impl Level {
    fn new(name: OsString, dir: OwnedFd) -> sys::Result<Self> {
        let entries = sys::read_dir(&dir)?;
        Ok(Self {
            name,
            dir,
            entries,
        })
    }
}

fn descend(dir: &OwnedFd, name: &OsStr, device: (u32, u32)) -> sys::Result<Level> {
    let below = sys::open_dir(dir, name)?;
    let stat = sys::fstat(&below)?;
    if (stat.stx_dev_major, stat.stx_dev_minor) != device {
        return Err(Errno::XDEV);
    }
    Level::new(name.to_owned(), below)
}

fn path_of(stack: &[Level], name: &OsStr) -> PathBuf {
    stack
        .iter()
        .skip(1)
        .map(|level| level.name.as_os_str())
        .chain([name])
        .collect()
}
