//! Locks of open files: see [`flock`](super).

use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::flock::ask::{Ask, Flock, Locked};
use crate::fs::flock::queue::{Answer, Due};
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::Role;
use crate::fs::request::{Caller, Patience};
use crate::fs::session::writer::Writer;
use crate::repo::Checkpoint;
use crate::sys;

impl Fs {
    /// Locks an open file, or unlocks it, if that takes no waiting.
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

    /// Puts off the answer until the lock can be had, or will not be.
    pub fn wait_for_flock(&self, ask: Ask, answer: Answer) {
        match self.lasting.handles.get(ask.handle) {
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
        if matches!(
            &*self.lasting.handles.get(due.ask.handle)?,
            Handle::Writer(_)
        ) {
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
        match (handle, self.lasting.nodes.role(node)) {
            (Handle::Writer(writer), _) => writer.session_node(),
            (_, Some(Role::Checkpoint)) => self.lasting.nodes.session(node).unwrap_or(node),
            _ => node,
        }
    }

    /// Moves a writer that has changed nothing, and has just been given the lock, to
    /// the checkpoint that stands now (DESIGN 2.9): it was replaced while it waited.
    ///
    /// A reader stays with the checkpoint that it has opened, locked or not (2.1).
    fn follow(&self, ask: &Ask, patience: Patience) -> Result<()> {
        let handle = self.lasting.handles.get(ask.handle)?;
        let Handle::Writer(writer) = &*handle else {
            return Ok(());
        };
        // That one is open for reading.
        if matches!(self.lasting.nodes.role(ask.node), Some(Role::Empty)) {
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
