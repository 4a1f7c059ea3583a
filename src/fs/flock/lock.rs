//! Locks and unlocks open files: see [`flock`](super).

use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::flock::ask::{Ask, Flock, Locked};
use crate::fs::flock::queue::{Answer, Due};
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::{Exact, Role};
use crate::fs::request::{Caller, Patience};
use crate::fs::session::writer::Writer;
use crate::repo::Checkpoint;
use crate::sys;

impl Fs {
    /// Locks or unlocks an open file, if it can be done without waiting.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn flock(&self, ask: &Ask, patience: Patience) -> Result<Locked> {
        let handle = self.lasting.handles.get(ask.handle)?;
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

    /// Answers later: when the lock is granted, or refused.
    pub fn wait_for_flock(&self, ask: Ask, answer: Answer) {
        match self.lasting.handles.get(ask.handle) {
            Ok(handle) => self
                .flocks
                .wait(self.locked(ask.node, &handle), ask, answer),
            Err(fail) => answer(Err(fail)),
        }
    }

    /// Waits until waiting requests have been granted or refused, and returns them. To be
    /// called again and again, by one thread.
    pub fn due_flocks(&self) -> Vec<Due> {
        self.flocks.due()
    }

    /// The final result for a request that has waited.
    ///
    /// # Errors
    /// `WouldBlock`, if a writer may have to be moved to a newer checkpoint;
    /// `EWOULDBLOCK`, `EINTR`, `ENOLCK`.
    pub fn settle_flock(&self, due: &Due, patience: Patience) -> Result<()> {
        due.result?;
        if matches!(
            &*self.lasting.handles.get(due.ask.handle)?,
            Handle::Writer(_)
        ) {
            // Even the check whether it must be moved may wait for the disk.
            patience.must_wait()?;
        }
        self.follow(&due.ask, patience)
    }

    /// Sets how to tell the kernel to drop what it has cached. A thread that takes
    /// requests must never do that: the kernel may wait for one of them.
    pub fn notify_by(&self, notifier: Notifier) {
        // It is set only once.
        let _ = self.notifier.set(notifier);
    }

    /// What a lock of an open file locks: the node of the session's directory for a
    /// checkpoint, and the node itself for any other file. Its number is not enough: a
    /// checkpoint may be open for longer than its session's directory exists.
    fn locked(&self, node: u64, handle: &Handle) -> Exact {
        let nodes = &self.lasting.nodes;
        match (handle, nodes.role(node)) {
            (Handle::Writer(writer), _) => nodes.exact(writer.session_node()),
            (_, Some(Role::Checkpoint)) => {
                let session = nodes.exact_session(node);
                session.unwrap_or_else(|| nodes.exact(node))
            }
            _ => nodes.exact(node),
        }
    }

    /// Moves a writer that has changed nothing, and has just got the lock, to the current
    /// checkpoint (DESIGN 2.9), which may be newer than its own after the wait.
    ///
    /// A reader stays with the checkpoint that it has opened, locked or not (2.1).
    fn follow(&self, ask: &Ask, patience: Patience) -> Result<()> {
        let handle = self.lasting.handles.get(ask.handle)?;
        let Handle::Writer(writer) = &*handle else {
            return Ok(());
        };
        // The writer of an absent checkpoint was opened for reading.
        if matches!(self.lasting.nodes.role(ask.node), Some(Role::Empty)) {
            return Ok(());
        }
        let newer = match writer.newer(patience) {
            Ok(Some(newer)) => newer,
            Ok(None) => return Ok(()),
            Err(Fail::WouldBlock) => return Err(Fail::WouldBlock),
            // The lock is granted in spite of that; a later save has the same result as
            // without the lock.
            Err(Fail::Errno(_)) => return Ok(()),
        };
        patience.must_wait()?;
        if self.may_have(&newer, ask.caller) {
            self.replace_base(ask.node, writer, newer);
        }
        Ok(())
    }

    /// Whether the caller, which has opened another checkpoint, may read and write this
    /// one (DESIGN 13.1).
    fn may_have(&self, checkpoint: &Checkpoint, caller: Caller) -> bool {
        let may = |mask| sys::access(checkpoint.as_path_fd(), mask);
        if self.options.allow_other {
            caller.act(|| may(libc::R_OK | libc::W_OK)).is_ok()
        } else {
            may(libc::W_OK).is_ok()
        }
    }

    /// Moves a writer to a newer checkpoint. The page cache must then contain nothing of
    /// the old content, and the kernel must know the new size, at which an `O_APPEND`
    /// descriptor writes without asking. Seen on Linux 6.18: invalidating an inode writes
    /// back mapped pages and leaves its size alone; storing data beyond the end makes it
    /// larger.
    fn replace_base(&self, node: u64, writer: &Arc<Writer>, newer: Checkpoint) {
        // Pages written through a mapping are written back now, and count as a change.
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
            log::warn!("the kernel could not be told the new size of a checkpoint: {e}");
        }
    }

    fn forget_content(&self, node: u64) {
        if let Some(notifier) = self.notifier.get()
            && let Err(e) = notifier.inval_inode(INodeNo(node), 0, 0)
        {
            log::warn!("the kernel could not be told to drop its cached content: {e}");
        }
    }
}
