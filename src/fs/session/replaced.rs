//! Checkpoints that a save has replaced while somebody watches them.
//!
//! inotify(7) says that a file is gone when the kernel drops the last name of a
//! file without links. A save by writing gives it no such moment: the name of
//! the old checkpoint is dropped when the writer is looked up in its place
//! (DESIGN 4), and it has its link still. So the old checkpoint is shown once
//! more, to one thread that looks the name up twice: first it finds the old
//! one, now without a link, then what is there. Seen on Linux 6.18
//! (dentry_unlink_inode, fs/dcache.c): that drops the name again, and whoever
//! watches the file is told `IN_DELETE_SELF`, as of any file that is replaced.
//!
//! Nobody tells us who watches. But the kernel forgets a file that has neither
//! a name nor an open descriptor, unless something else holds it.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fs::lasting::node::{Nodes, empty_id};
use crate::repo::Checkpoint;
use crate::sys;

/// How many are remembered at the most. Each holds the blocks of its file.
pub(super) const CAPACITY: usize = 64;

/// How long the kernel may take to forget what nobody uses.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// How often a replaced checkpoint is looked at that is still being read.
pub(super) const READING_TICK: Duration = Duration::from_secs(1);

/// What saves have replaced, and the kernel still knows.
#[derive(Debug, Default)]
pub(in crate::fs) struct Replacements {
    nodes: Arc<Nodes>,
    noted: Mutex<VecDeque<Replaced>>,
    filled: Condvar,
    /// The thread that is to find what is no more; 0 for none.
    pub(super) thread: AtomicU32,
    shown: Mutex<Option<Arc<Replaced>>>,
}

/// A checkpoint that a save has replaced.
#[derive(Debug)]
pub struct Replaced {
    /// The node of its session.
    pub(super) session: u64,
    pub(super) id: u64,
    /// Held, so that no other file gets its number; `None` where there was no
    /// checkpoint, and an empty one was shown.
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

    /// A save through a writer has replaced this checkpoint, or none.
    pub(in crate::fs) fn note(&self, session: u64, checkpoint: Option<Checkpoint>) {
        let id = (checkpoint.as_ref()).map_or(empty_id(session), |old| old.stat().stx_ino);
        // Of nearly every one the kernel has forgotten by now.
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
        // Its blocks may go with it: not under the lock.
        drop(oldest);
    }

    /// Whoever has come to it by its path may open it without one.
    pub(in crate::fs) fn keep(&self, old: &Checkpoint) {
        // Without a descriptor left, it is gone for those.
        if let Ok(file) = old.as_path_fd().try_clone_to_owned() {
            self.nodes.keep(old.stat().stx_ino, Arc::new(file));
        }
    }

    /// Takes what has been noted, as soon as there is something.
    pub(in crate::fs) fn take(&self) -> Vec<Replaced> {
        let noted = self
            .filled
            .wait_while(self.noted(), |noted| noted.is_empty());
        let mut noted = noted.unwrap_or_else(PoisonError::into_inner);
        noted.drain(..).collect()
    }

    /// Whether the kernel knows a node although nobody has it open: it has a
    /// name still, or is watched.
    pub(in crate::fs) fn is_unused(&self, replaced: &Replaced) -> bool {
        self.nodes.is_known(replaced.id) && self.nodes.open_file(replaced.id).is_none()
    }
}

impl Replaced {
    /// Whether it has no name any more. One that has been kept under another
    /// name is not gone for those who watch it.
    pub(in crate::fs) fn is_gone(&self) -> bool {
        let links = |fd: BorrowedFd<'_>| sys::fstat(fd).map_or(0, |stat| stat.stx_nlink);
        (self.checkpoint.as_ref()).is_none_or(|old| links(old.as_path_fd()) == 0)
    }
}
