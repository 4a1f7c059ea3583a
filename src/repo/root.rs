//! The directory of a repository: held open, made if it is missing, and durable
//! before anything in it is said to be.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{During, Result};
use super::session;
use crate::sys::{self, Errno, Mode};

/// A place for the directory, and the directory once it is there.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: Arc<Path>,
    /// Permission bits of the directory, if it has to be made.
    pub(super) mode: u32,
    held: Mutex<Option<Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    fd: Arc<OwnedFd>,
    /// Whether its link count is that of a directory that exists even when it
    /// has been removed.
    hides_removal: bool,
    /// Whether its name is known to survive a power cut.
    is_durable: bool,
}

impl Held {
    /// Whether it has been removed, and perhaps made anew: then it is another
    /// directory. One that has been moved is the same still.
    fn is_removed(&self) -> sys::Result<bool> {
        match sys::fstat(&*self.fd) {
            Ok(stat) if stat.stx_nlink == 0 => Ok(true),
            // One link: it does not count them. Asked there only, as this is on
            // the way of every request.
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
            held: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory, `None` while there is none.
    pub(super) fn get(&self) -> Result<Option<Arc<OwnedFd>>> {
        Ok(self.find()?.map(|held| held.fd))
    }

    fn find(&self) -> Result<Option<Held>> {
        let mut current = self.lock();
        if let Some(held) = &*current {
            if !held.is_removed().during("stat the repository")? {
                return Ok(Some(held.clone()));
            }
            *current = None;
        }
        match sys::open_root(&self.path) {
            Ok(fd) => {
                let held = Held {
                    hides_removal: sys::is_overlay(&fd),
                    fd: Arc::new(fd),
                    is_durable: false,
                };
                Ok(Some(current.insert(held).clone()))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).during("open the repository"),
        }
    }

    /// The directory, made with its parents if it is missing. Its name survives,
    /// whoever made it and died before he had synced it (I2).
    pub(super) fn get_or_make(&self) -> Result<Arc<OwnedFd>> {
        loop {
            if let Some(held) = self.find()? {
                if !held.is_durable && sync_name(&held.fd)? {
                    let mut current = self.lock();
                    if let Some(current) = current.as_mut()
                        && Arc::ptr_eq(&current.fd, &held.fd)
                    {
                        current.is_durable = true;
                    }
                }
                return Ok(held.fd);
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
            // Before anything gets a name in a directory, that of the directory is
            // durable.
            match sys::open_root(if here { Path::new(".") } else { parent }) {
                Ok(parent) => sync_name(&parent).map(drop)?,
                // May be entered, not read.
                Err(Errno::ACCESS) => {}
                Err(errno) => return Err(errno).during("open the repository's parent"),
            }
            let mode = Mode::from_raw_mode(self.mode);
            match sys::mkdir(sys::CWD, path.as_os_str(), mode) {
                // Somebody was faster.
                Err(Errno::EXIST) if path.is_dir() => {}
                other => other.during("make the repository")?,
            }
        }
        Ok(())
    }
}

/// Makes the name of a directory durable, as far as it is in a directory of the
/// same filesystem. Answers false if nobody can tell: the parent may be entered
/// and not read.
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
        // There is no session yet that might not survive.
        .map_err(|e| Errno::from_raw_os_error(e.errno()))
        .during("sync the repository's parent")?;
    Ok(true)
}
