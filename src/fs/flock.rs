//! flock(2): of `session` it is a lock of the session, whichever checkpoint a
//! descriptor is of (DESIGN 2.16); of any other file, of that file.
//!
//! The kernel leaves it to us (`FUSE_FLOCK_LOCKS`), and fcntl locks to itself.
//! What it would do (fs/locks.c, Linux 6.18) is done here: a lock belongs to an
//! open file, which is a handle here, with all its duplicates; to ask for the
//! other kind of lock gives the first one up; whoever asks for what is free gets it
//! at once.
//!
//! Two things differ, as a close is more than a close here:
//! - Who unlocks what it has changed and not saved yet keeps the lock until that is
//!   saved, for a bounded time: the next one would not see the change, and would be
//!   refused its own.
//! - RELEASE, which drops the lock, comes after the last close has returned, and on
//!   a thread that may be late. So a request that does not wait is refused only
//!   after the holder has had a moment to be released.
//!
//! Nobody waits on a thread of its own: the answers to those who wait are kept
//! (`queue`), and given by one thread that serves no requests, and waits for
//! nothing else.

mod queue;

use super::request::Patience;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};

pub(super) use self::queue::Flocks;
pub use self::queue::{Answer, Due};
use super::errno::{Fail, Result};
use super::handle::Handle;
use super::node::Role;
use super::writer::Writer;
use super::{Caller, Fs};
use crate::repo::Checkpoint;
use crate::sys;

/// What flock(2) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flock {
    /// `LOCK_SH`
    Shared,
    /// `LOCK_EX`
    Exclusive,
    /// `LOCK_UN`
    Unlock,
}

/// A request for a lock, or for its end.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The node of the open file.
    pub node: u64,
    /// Its handle.
    pub handle: u64,
    /// What for.
    pub what: Flock,
    /// Without `LOCK_NB`.
    pub waits: bool,
    /// Who.
    pub caller: Caller,
}

/// Whether a lock has been had at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It has, or has been given back.
    Now,
    /// Somebody else has it: see [`Fs::wait_for_flock`].
    NotYet,
}

impl Fs {
    /// Locks an open file, or unlocks it, if that takes no waiting.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn flock(&self, ask: &Ask, patience: Patience) -> Result<Locked> {
        let handle = self.handles.get(ask.handle)?;
        match (ask.what, &*handle) {
            (Flock::Unlock, Handle::Writer(writer)) if writer.is_unsaved(patience)? => {
                self.flocks.unlock_when_saved(ask.handle);
                Ok(Locked::Now)
            }
            (Flock::Unlock, handle) => {
                if let Handle::Writer(writer) = handle {
                    writer.rest(patience)?;
                }
                self.flocks.release(ask.handle);
                Ok(Locked::Now)
            }
            (_, handle) if self.flocks.take(self.locked(ask.node, handle), ask) => {
                self.follow(ask, patience)?;
                Ok(Locked::Now)
            }
            _ => Ok(Locked::NotYet),
        }
    }

    /// Puts off the answer until the lock can be had, or will not be.
    pub fn wait_for_flock(&self, ask: Ask, answer: Answer) {
        match self.handles.get(ask.handle) {
            Ok(handle) => self
                .flocks
                .wait(self.locked(ask.node, &handle), ask, answer),
            Err(fail) => answer(Err(fail)),
        }
    }

    /// Waits for those who have got the lock that they have waited for, or will
    /// not get it. To be called again and again, by one thread.
    pub fn due_flocks(&self) -> Vec<Due> {
        self.flocks.due()
    }

    /// What is to be told to one who has waited.
    ///
    /// # Errors
    /// That it would wait: a writer is moved. `EWOULDBLOCK`, `EINTR`, `ENOLCK`.
    pub fn settle_flock(&self, due: &Due, patience: Patience) -> Result<()> {
        due.result?;
        if matches!(&*self.handles.get(due.ask.handle)?, Handle::Writer(_)) {
            // Even to look whether it has to be is to ask the disk.
            patience.must_wait()?;
        }
        self.follow(&due.ask, patience)
    }

    /// From now on the kernel can be told what it must not believe any more. Never
    /// by a thread that takes requests: it may wait for one of them.
    pub fn notify_by(&self, notifier: Notifier) {
        // Once and for all.
        let _ = self.notifier.set(notifier);
    }

    /// What a lock of an open file is a lock of: the node of a session's directory,
    /// or of the file.
    fn locked(&self, node: u64, handle: &Handle) -> u64 {
        match (handle, self.nodes.role(node)) {
            (Handle::Writer(writer), _) => writer.session_node(),
            (_, Some(Role::Checkpoint)) => self.nodes.session(node).unwrap_or(node),
            _ => node,
        }
    }

    /// Moves a writer that has changed nothing, and has just been given the lock, to
    /// the checkpoint that stands now (DESIGN 2.9): it was replaced while it waited.
    ///
    /// A reader stays with the checkpoint that it has opened, locked or not (2.1).
    fn follow(&self, ask: &Ask, patience: Patience) -> Result<()> {
        let handle = self.handles.get(ask.handle)?;
        let Handle::Writer(writer) = &*handle else {
            return Ok(());
        };
        // That one is open for reading.
        if matches!(self.nodes.role(ask.node), Some(Role::Empty)) {
            return Ok(());
        }
        let newer = match writer.newer(patience) {
            Ok(Some(newer)) => newer,
            Ok(None) => return Ok(()),
            Err(Fail::WouldBlock) => return Err(Fail::WouldBlock),
            // The lock is had all the same. A save ends as it would without.
            Err(Fail::Errno(_)) => return Ok(()),
        };
        patience.must_wait()?;
        if self.may_have(&newer, ask.caller) {
            self.replace_base(ask.node, writer, newer);
        }
        Ok(())
    }

    /// Whether the caller, who was let in to another checkpoint, may read and write
    /// this one (DESIGN 13.1).
    fn may_have(&self, checkpoint: &Checkpoint, caller: Caller) -> bool {
        let may = |mask| sys::access(checkpoint.as_path_fd(), mask);
        if self.options.allow_other {
            caller.act(|| may(libc::R_OK | libc::W_OK)).is_ok()
        } else {
            may(libc::W_OK).is_ok()
        }
    }

    /// The page cache must have nothing of the old content, and the kernel has to
    /// know a size that an append can go by. Seen on Linux 6.18: the invalidation
    /// of an inode writes back what is mapped there, and leaves its size alone, which
    /// the write(2) of an `O_APPEND` descriptor goes by without asking; what is
    /// stored beyond the end makes it larger.
    fn replace_base(&self, node: u64, writer: &Arc<Writer>, newer: Checkpoint) {
        // What has been written to a mapping is a change.
        self.forget_content(node);
        let last = newer.len().checked_sub(1);
        if !writer.follow(newer) {
            return;
        }
        self.forget_content(node);
        let mut byte = [0];
        if let Some(at) = last
            && let Ok(1) = writer.read(&mut byte, at, Patience::Wait)
            && let Some(notifier) = self.notifier.get()
            && let Err(e) = notifier.store(INodeNo(node), at, &byte)
        {
            log::warn!("the kernel does not hear of a new size: {e}");
        }
    }

    fn forget_content(&self, node: u64) {
        if let Some(notifier) = self.notifier.get()
            && let Err(e) = notifier.inval_inode(INodeNo(node), 0, 0)
        {
            log::warn!("the kernel does not forget what it has read: {e}");
        }
    }
}
