//! Checkpoints that a save has replaced, and that a program watches by inotify(7).
//!
//! inotify(7) reports `IN_DELETE_SELF` when the kernel drops the last dentry of an inode
//! without links. A save by a writer does not cause that: the dentry of the old
//! checkpoint is dropped when the writer is looked up in its place (DESIGN 4), and the
//! old checkpoint still has its link then. So after the save one thread of the daemon
//! looks the name up twice. First it is shown the old checkpoint, now without a link, and
//! then the current one. At the second lookup the kernel drops the old dentry again, and
//! watchers get `IN_DELETE_SELF`, as for any file that is replaced (dentry_unlink_inode,
//! fs/dcache.c, Linux 6.18).
//!
//! The daemon is not told which files are watched. But the kernel forgets an inode that
//! has neither a dentry nor an open descriptor, unless something else uses it, such as a
//! watch.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fs::lasting::node::{Nodes, empty_id};
use crate::repo::Checkpoint;
use crate::sys;

/// How many replaced checkpoints are remembered. Each keeps the disk space of its file.
pub(super) const CAPACITY: usize = 64;

/// How long the kernel may take to forget an inode that nothing uses.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// How often to look at a replaced checkpoint that is still being read.
pub(super) const READING_TICK: Duration = Duration::from_secs(1);

/// The replaced checkpoints that the kernel still knows.
#[derive(Debug, Default)]
pub(in crate::fs) struct Replacements {
    nodes: Arc<Nodes>,
    noted: Mutex<VecDeque<Replaced>>,
    filled: Condvar,
    /// The id of the thread that is shown the replaced checkpoint; 0 for none.
    pub(super) thread: AtomicU32,
    shown: Mutex<Option<Arc<Replaced>>>,
}

/// A checkpoint that a save has replaced.
#[derive(Debug)]
pub struct Replaced {
    /// The node of its session.
    pub(super) session: u64,
    pub(super) id: u64,
    /// Kept open, so that its inode number is not reused; `None` if there was no
    /// checkpoint and an empty one was shown.
    pub(super) checkpoint: Option<Checkpoint>,
}

impl Replacements {
    pub(in crate::fs) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            nodes,
            ..Self::default()
        }
    }

    pub(in crate::fs) fn noted(&self) -> MutexGuard<'_, VecDeque<Replaced>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::fs) fn shown(&self) -> MutexGuard<'_, Option<Arc<Replaced>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer's save has replaced this checkpoint; `None` if there was none.
    pub(in crate::fs) fn note(&self, session: u64, checkpoint: Option<Checkpoint>) {
        let id = (checkpoint.as_ref()).map_or(empty_id(session), |old| old.stat().stx_ino);
        // The kernel has forgotten nearly all of them by now.
        if !self.nodes.is_known(id) {
            return;
        }
        if let Some(old) = &checkpoint {
            self.keep(old);
        }
        let mut noted = self.noted();
        noted.push_back(Replaced {
            session,
            id,
            checkpoint,
        });
        let oldest = (noted.len() > CAPACITY).then(|| noted.pop_front());
        drop(noted);
        self.filled.notify_all();
        // This may free its disk blocks: not under the lock.
        drop(oldest);
    }

    /// Keeps a replaced checkpoint open for callers that have looked it up, and open it
    /// without a path later.
    pub(in crate::fs) fn keep(&self, old: &Checkpoint) {
        // If no descriptor is left, those callers get ESTALE.
        if let Ok(file) = old.as_path_fd().try_clone_to_owned() {
            self.nodes.keep(old.stat().stx_ino, Arc::new(file));
        }
    }

    /// Waits until something has been noted, and takes it.
    pub(in crate::fs) fn take(&self) -> Vec<Replaced> {
        let noted = self
            .filled
            .wait_while(self.noted(), |noted| noted.is_empty());
        let mut noted = noted.unwrap_or_else(PoisonError::into_inner);
        noted.drain(..).collect()
    }

    /// Whether the kernel knows a node although no process has it open: it still has a
    /// dentry, or is watched.
    pub(in crate::fs) fn is_unused(&self, replaced: &Replaced) -> bool {
        self.nodes.is_known(replaced.id) && self.nodes.open_file(replaced.id).is_none()
    }
}

impl Replaced {
    /// Whether it has no link left. A checkpoint that lives on under another name is not
    /// gone for its watchers.
    pub(in crate::fs) fn is_gone(&self) -> bool {
        let links = |fd: BorrowedFd<'_>| sys::fstat(fd).map_or(0, |stat| stat.stx_nlink);
        (self.checkpoint.as_ref()).is_none_or(|old| links(old.as_path_fd()) == 0)
    }
}
