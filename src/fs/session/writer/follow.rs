//! Moves a writer that has changed nothing from the checkpoint it was opened on to a
//! newer one (DESIGN 2.9).

use std::sync::atomic::Ordering;

use crate::fs::errno::Result;
use crate::fs::request::Patience;
use crate::fs::session::writer::state::{Writer, WriterState};
use crate::repo::Checkpoint;
use crate::sys;

impl Writer {
    /// The node of its session's directory.
    pub(in crate::fs) fn session_node(&self) -> u64 {
        self.directory
    }

    /// Whether it has changes that are not saved.
    ///
    /// # Errors
    /// Only `WouldBlock`.
    pub(in crate::fs) fn is_unsaved(&self, patience: Patience) -> Result<bool> {
        Ok(self.lock(patience)?.staged.is_some())
    }

    /// Frees the slot after a save point, which otherwise keeps it until the close. For a
    /// writer that has unlocked the session (DESIGN 2.16).
    ///
    /// # Errors
    /// Only `WouldBlock`.
    pub(in crate::fs) fn rest(&self, patience: Patience) -> Result<()> {
        let mut state = self.lock(patience)?;
        if state.is_clean() && state.published {
            // Nothing is staged, so nothing can fail.
            let _ = self.finish(&mut state);
        }
        Ok(())
    }

    /// The checkpoint that has replaced its base, if it has changed nothing itself.
    ///
    /// # Errors
    /// `WouldBlock` if other threads use the writer at the moment. Those of
    /// [`Session::checkpoint`](crate::repo::Session::checkpoint).
    pub(in crate::fs) fn newer(&self, patience: Patience) -> Result<Option<Checkpoint>> {
        let state = self.lock(patience)?;
        if !state.is_clean() || self.is_nameless() {
            return Ok(None);
        }
        // The base is kept open, so its number is not reused.
        let is_other = |current: &Checkpoint| {
            let base = state.base.as_ref();
            base.is_none_or(|base| !is_same(base, current))
        };
        Ok(self.session.checkpoint()?.filter(is_other))
    }

    /// Notes that it was opened for more than appending.
    pub(in crate::fs) fn does_more_than_append(&self) {
        self.only_appends.store(false, Ordering::Relaxed);
    }

    /// A writer that only appends starts from the current checkpoint when it takes its
    /// turn. It has read nothing of its old base, and all that it writes goes to the end,
    /// whatever end the kernel knows.
    pub(super) fn follow_in_turn(&self, state: &mut WriterState) -> Result<()> {
        let may_follow = self.only_appends.load(Ordering::Relaxed)
            && state.is_clean()
            && !state.published
            && !self.is_nameless();
        if !may_follow || state.base.is_none() {
            return Ok(());
        }
        let Some(current) = self.session.checkpoint()? else {
            // The checkpoint is gone, and the commit will say so.
            return Ok(());
        };
        if state
            .base
            .as_ref()
            .is_some_and(|base| is_same(base, &current))
        {
            return Ok(());
        }
        // Access was checked for another checkpoint (DESIGN 13.1).
        {
            let _acting = self.credentials.begin()?;
            sys::access(current.as_path_fd(), libc::W_OK)?;
        }
        self.start_from(state, current);
        Ok(())
    }

    /// Makes this checkpoint the base. Returns whether it did: not if the writer has
    /// changed something meanwhile.
    pub(in crate::fs) fn follow(&self, newer: Checkpoint) -> bool {
        let Ok(mut state) = self.lock(Patience::Wait) else {
            return false;
        };
        if !state.is_clean() {
            return false;
        }
        self.start_from(&mut state, newer);
        true
    }

    fn start_from(&self, state: &mut WriterState, newer: Checkpoint) {
        state.has_followed = true;
        state.shown_base = None;
        let number = newer.stat().stx_ino;
        state.set_base(Some(newer));
        if !self.is_shared() {
            // The kernel knows the old number until it asks for attributes.
            self.shown_before.store(self.shown(), Ordering::Relaxed);
            self.show_as(number);
        }
    }
}

/// Whether two checkpoints are the same. Both are open, so the number suffices.
fn is_same(one: &Checkpoint, other: &Checkpoint) -> bool {
    one.stat().stx_ino == other.stat().stx_ino
}

impl WriterState {
    /// Nothing has changed since the last save, and nothing has failed.
    fn is_clean(&self) -> bool {
        self.staged.is_none()
            && self.failed.is_none()
            && self.removed.is_none()
            && self.killed.is_none()
            && !self.is_void
    }
}
