//! A file between its lookup and its open (DESIGN 2.1, 4).
//!
//! A save in between must not fail the open, and the inode number must not
//! become another file's: the kernel, told of the new one, answers `EIO` to an
//! open of the old one, or, told of the old one last, to a process that has the
//! new one open (fuse_make_bad, fs/fuse/inode.c, Linux 6.18; both seen under
//! load). So each thread holds the file that it has looked up last, until it has
//! opened it or looks up another one. What is held keeps its blocks though it is
//! replaced: so all let go when the kernel forgets the inode, which it does when
//! a newer checkpoint is found and nothing is about to open this one; and a
//! thread that has asked for the attributes only lets go after a while.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file (an `O_PATH` descriptor), for all threads that hold it.
#[derive(Debug)]
pub(in crate::fs) struct Held(Mutex<Option<Arc<OwnedFd>>>);

impl Held {
    pub(in crate::fs) fn new(file: OwnedFd) -> Self {
        Self(Mutex::new(Some(Arc::new(file))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its descriptor, unless it has been let go of.
    pub(in crate::fs) fn file(&self) -> Option<Arc<OwnedFd>> {
        self.lock().clone()
    }

    /// The kernel has forgotten it: no open of it comes any more.
    pub(in crate::fs) fn let_go(&self) {
        let file = self.lock().take();
        drop(file);
    }
}
