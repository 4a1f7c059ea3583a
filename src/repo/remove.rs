//! Removing everything in a session.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::checkpoint::FileId;
use crate::sys::{self, Errno};

/// How many directories, counted from the lowest, are kept open on the way.
const KEPT: usize = 32;

/// Removes the directory `name` and everything in it, without following symlinks or
/// crossing into another filesystem. `warn` is told of each entry that cannot be removed,
/// with its path below `name`, and the rest is still removed.
///
/// Returns whether everything is gone.
pub(super) fn remove_tree(
    parent: impl AsFd,
    name: &OsStr,
    warn: &mut dyn FnMut(PathBuf, Errno),
) -> bool {
    let top = match Level::open(&parent, name, None) {
        Ok(top) => top,
        Err(Errno::NOENT) => return true,
        Err(errno) => {
            warn(PathBuf::new(), errno);
            return false;
        }
    };
    let device = top.id.device();
    let mut complete = true;
    // A stack on the heap: a session may be deeper than a thread's stack.
    let mut stack = vec![top];
    while let Some(level) = stack.last_mut() {
        let Some(dir) = level.dir.as_ref() else {
            // Happens only if the way back up failed, which has been reported.
            return false;
        };
        let Some(entry) = level.entries.pop() else {
            let done = std::mem::take(&mut level.name);
            if let Err(errno) = ascend(&mut stack) {
                warn(path_of(&stack, OsStr::new("..")), errno);
                return false;
            }
            let above = stack
                .last()
                .and_then(|level| level.dir.as_ref())
                .map_or(parent.as_fd(), |dir| dir.as_fd());
            match sys::rmdir(above, &done) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    complete = false;
                    // Its entries have been reported already.
                    if errno != Errno::NOTEMPTY {
                        warn(path_of(&stack, &done), errno);
                    }
                }
            }
            continue;
        };
        let result = match sys::unlink(dir, &entry) {
            // EISDIR on Linux, EPERM by POSIX.
            Err(unlinked @ (Errno::ISDIR | Errno::PERM)) => {
                match Level::open(dir, &entry, Some(device)) {
                    Ok(below) => {
                        stack.push(below);
                        if let Some(far) = stack.len().checked_sub(KEPT + 1) {
                            stack[far].dir = None;
                        }
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
    id: FileId,
    /// `None` if it is far above: a session may be deeper than the limit of open files.
    dir: Option<OwnedFd>,
    entries: Vec<OsString>,
}

impl Level {
    fn open(parent: impl AsFd, name: &OsStr, device: Option<(u32, u32)>) -> sys::Result<Self> {
        let dir = sys::open_dir(parent, name)?;
        let id = FileId::of(&sys::fstat(&dir)?);
        if device.is_some_and(|device| device != id.device()) {
            return Err(Errno::XDEV);
        }
        let entries = sys::read_dir(&dir)?;
        Ok(Self {
            name: name.to_owned(),
            id,
            dir: Some(dir),
            entries,
        })
    }
}

/// Leaves the lowest directory, and reopens the one above if it was closed.
fn ascend(stack: &mut Vec<Level>) -> sys::Result<()> {
    let below = stack.pop().and_then(|level| level.dir);
    let (Some(below), Some(above)) = (below, stack.last_mut()) else {
        return Ok(());
    };
    if above.dir.is_none() {
        let dir = sys::open_dir(below, OsStr::new(".."))?;
        // The directory below was moved: ".." is not where we came from.
        if FileId::of(&sys::fstat(&dir)?) != above.id {
            return Err(Errno::STALE);
        }
        above.dir = Some(dir);
    }
    Ok(())
}

/// The path of an entry of the lowest directory, below the one that is being removed;
/// empty for that one itself, which is not in the stack.
fn path_of(stack: &[Level], name: &OsStr) -> PathBuf {
    if stack.is_empty() {
        return PathBuf::new();
    }
    stack
        .iter()
        .skip(1)
        .map(|level| level.name.as_os_str())
        .chain([name])
        .collect()
}
