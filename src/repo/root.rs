//! The directory of a repository: kept open, made if it is missing, and durable before
//! anything in it is reported as durable.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{During, Result};
use super::session;
use crate::sys::{self, Errno, Mode};

/// The path of the directory, and the directory once it exists.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: Arc<Path>,
    /// Permission bits of the directory, if it has to be made.
    pub(super) mode: u32,
    open: Mutex<Option<OpenRoot>>,
}

#[derive(Clone, Debug)]
struct OpenRoot {
    fd: Arc<OwnedFd>,
    /// Whether its link count stays the same when it is removed.
    hides_removal: bool,
    /// Whether its name is known to survive a power cut.
    is_durable: bool,
}

impl OpenRoot {
    /// Whether it has been removed; if it was made again, that is another directory. One
    /// that has been moved is still the same.
    fn is_removed(&self) -> sys::Result<bool> {
        match sys::fstat(&*self.fd) {
            Ok(stat) if stat.stx_nlink == 0 => Ok(true),
            // A count of one: the filesystem does not count links. Only then the path is
            // asked for, as this is part of every request.
            Ok(stat) if stat.stx_nlink == 1 && self.hides_removal => sys::is_nameless(&*self.fd),
            Ok(_) => Ok(false),
            Err(Errno::STALE) => Ok(true),
            Err(errno) => Err(errno),
        }
    }
}

impl Root {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            mode: 0o755,
            open: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OpenRoot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory; `None` if it does not exist.
    pub(super) fn get(&self) -> Result<Option<Arc<OwnedFd>>> {
        Ok(self.find()?.map(|open| open.fd))
    }

    fn find(&self) -> Result<Option<OpenRoot>> {
        let mut current = self.lock();
        if let Some(open) = &*current {
            if !open.is_removed().during("stat the repository")? {
                return Ok(Some(open.clone()));
            }
            *current = None;
        }
        match sys::open_root(&self.path) {
            Ok(fd) => {
                let open = OpenRoot {
                    hides_removal: sys::is_overlay(&fd),
                    fd: Arc::new(fd),
                    is_durable: false,
                };
                Ok(Some(current.insert(open).clone()))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).during("open the repository"),
        }
    }

    /// The directory, made with its parents if it is missing. Its name is durable, even
    /// if another process made it and died before it had synced it (I2).
    pub(super) fn get_or_make(&self) -> Result<Arc<OwnedFd>> {
        loop {
            if let Some(open) = self.find()? {
                if !open.is_durable && sync_name(&open.fd)? {
                    let mut current = self.lock();
                    if let Some(current) = current.as_mut()
                        && Arc::ptr_eq(&current.fd, &open.fd)
                    {
                        current.is_durable = true;
                    }
                }
                return Ok(open.fd);
            }
            self.make()?;
        }
    }

    fn make(&self) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Err(Errno::NOENT).during("make the repository");
        }
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<_> = self.path.ancestors().take_while(missing).collect();
        for path in missing.into_iter().rev() {
            let parent = path.parent().unwrap_or(path);
            let here = parent.as_os_str().is_empty();
            // The name of a directory is made durable before a file gets a name in it.
            match sys::open_root(if here { Path::new(".") } else { parent }) {
                Ok(parent) => sync_name(&parent).map(drop)?,
                // The parent may be entered but not read.
                Err(Errno::ACCESS) => {}
                Err(errno) => return Err(errno).during("open the repository's parent"),
            }
            let mode = Mode::from_raw_mode(self.mode);
            match sys::mkdir(sys::CWD, path.as_os_str(), mode) {
                // Another process was faster.
                Err(Errno::EXIST) if path.is_dir() => {}
                other => other.during("make the repository")?,
            }
        }
        Ok(())
    }
}

/// Makes the name of a directory durable, if its parent is on the same filesystem.
/// Returns false if that is unknown: the parent may be entered but not read.
fn sync_name(directory: impl AsFd) -> Result<bool> {
    let parent = match sys::open_dir(&directory, OsStr::new("..")) {
        Err(Errno::ACCESS) => return Ok(false),
        other => other.during("open the repository's parent")?,
    };
    let stat = |fd: BorrowedFd<'_>| sys::fstat(fd).during("stat the repository");
    if sys::device(&stat(directory.as_fd())?) != sys::device(&stat(parent.as_fd())?) {
        return Ok(true);
    }
    session::sync_directory(parent.as_fd())
        // There is no session yet that could be lost.
        .map_err(|e| Errno::from_raw_os_error(e.errno()))
        .during("sync the repository's parent")?;
    Ok(true)
}
