//! The first change of a writer: it takes the session's slot, and stages.

use std::sync::atomic::Ordering;

use crate::fs::errno::{Fail, Result};
use crate::fs::request::Patience;
use crate::fs::session::writer::state::{Writer, WriterState, staged};
use crate::fs::session::writer::wait::Wait;
use crate::proc::signals;
use crate::repo::{Checkpoint, Staged};

/// The most bytes that a thread that takes requests may copy.
pub(in crate::fs) const QUICK_COPY: u64 = 64 << 10;

/// What to copy from the base to the staged file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// The most bytes of its beginning.
    most: u64,
    /// Whether to wait for another writer, and for which thread. The copy is given up
    /// when that thread ends.
    wait: Wait,
}

impl Keep {
    /// Nothing, for a thread.
    pub(super) fn nothing(tid: u32) -> Self {
        Self {
            most: 0,
            wait: Wait::For(tid),
        }
    }

    /// Everything, for a thread.
    pub(super) fn all(tid: u32) -> Self {
        Self {
            most: u64::MAX,
            wait: Wait::For(tid),
        }
    }
}

impl Writer {
    /// Sets the length of the content.
    pub(super) fn truncate(
        &self,
        state: &mut WriterState,
        size: u64,
        wait: Wait,
        patience: Patience,
    ) -> Result<()> {
        let keep = Keep { most: size, wait };
        if size > 0 {
            return self.set_len(state, size, keep, patience);
        }
        // A fresh start: earlier failures do not matter to it. But if it is not made,
        // they remain.
        let failed = state.failed.take();
        let is_void = std::mem::take(&mut state.is_void);
        let lost = self.lost.swap(0, Ordering::SeqCst);
        let done = self.set_len(state, 0, keep, patience);
        if let Err(fail) = done {
            // Any other error has become the error of this save.
            let tried_only = matches!(fail, Fail::WouldBlock | Fail::Errno(libc::EINTR));
            state.failed = state.failed.or(failed.filter(|_| tried_only));
            state.is_void |= is_void;
            let _ = (self.lost).compare_exchange(0, lost, Ordering::SeqCst, Ordering::SeqCst);
        }
        done
    }

    fn set_len(
        &self,
        state: &mut WriterState,
        size: u64,
        keep: Keep,
        patience: Patience,
    ) -> Result<()> {
        self.change(state, keep, patience)?;
        let _acting = self.credentials.begin()?;
        self.log_if_failed(staged(state)?.set_len(size))
    }

    /// Makes sure that there is a staged file, with the content of the base as far as
    /// `keep` says.
    pub(super) fn change(
        &self,
        state: &mut WriterState,
        keep: Keep,
        patience: Patience,
    ) -> Result<()> {
        if let Some(errno) = state.failed {
            return Err(Fail::Errno(errno));
        }
        if state.is_void {
            return Err(Fail::Errno(libc::ECANCELED));
        }
        if state.staged.is_some() {
            return Ok(());
        }
        if !self.is_nameless() {
            self.take_slot(keep.wait, patience)?;
        }
        let begun = self.begin(state, keep, patience);
        // A request that would have to wait comes again, and keeps the slot.
        if begun.is_err_and(|fail| fail != Fail::WouldBlock) && !state.published {
            self.slot.free(self.ino);
        }
        begun
    }

    /// Stages; the slot is taken.
    fn begin(&self, state: &mut WriterState, keep: Keep, patience: Patience) -> Result<()> {
        self.follow_in_turn(state)?;
        let len = state.base.as_ref().map_or(0, Checkpoint::len);
        if patience == Patience::None && len.min(keep.most) > QUICK_COPY {
            return Err(Fail::WouldBlock);
        }
        let has_privileges = |base: &Checkpoint| base.stat().stx_mode & 0o6000 != 0;
        state.keeps_privileges =
            state.base.as_ref().is_some_and(has_privileges) && self.caller.keeps_privileges();
        state.staged = Some(self.stage(state, keep)?);
        self.activity.staged();
        Ok(())
    }

    fn stage(&self, state: &WriterState, keep: Keep) -> Result<Staged> {
        let base = state.base.as_ref();
        let mut staged = self.log_if_failed(self.session.stage())?;
        self.log_if_failed(staged.begin(base, &self.how(state)))?;
        if let Some(base) = base.filter(|_| keep.most > 0) {
            let from = self.log_if_failed(base.open_to_copy())?;
            // With the opener's credentials, so that the copy counts against the quota of
            // its user.
            let _acting = self.credentials.begin()?;
            let copied = staged.copy(&from, keep.most, &signals::lives(keep.wait.thread()));
            self.log_if_failed(copied)?;
        }
        Ok(staged)
    }

    /// Undoes the staging for a change that was not made.
    pub(super) fn unstage(&self, state: &mut WriterState) {
        if state.staged.take().is_some() {
            self.activity.settled();
        }
        if !state.published {
            self.slot.free(self.ino);
        }
    }
}
