//! A writer that has changed nothing yet, and starts from another checkpoint than
//! the one it was opened on (DESIGN 2.9).

use std::sync::atomic::Ordering;

use super::{State, Writer};
use crate::fs::errno::Patience;
use crate::repo::{self, Checkpoint};

impl Writer {
    /// The node of its session's directory.
    pub(in crate::fs) fn session_node(&self) -> u64 {
        self.directory
    }

    /// Whether it has changed something that is not saved.
    pub(in crate::fs) fn is_unsaved(&self) -> bool {
        // Busy is changing, or saving.
        self.lock(Patience::None)
            .map_or(true, |state| state.staged.is_some())
    }

    /// After a save point it keeps others from saving until it is closed; but not
    /// after it has unlocked the session (DESIGN 2.16).
    pub(in crate::fs) fn rest(&self) {
        if let Ok(mut state) = self.lock(Patience::None)
            && state.is_clean()
            && state.published
        {
            // Nothing is staged, so nothing can fail.
            let _ = self.finish(&mut state);
        }
    }

    /// The checkpoint that has replaced the one it starts from, if it has changed
    /// nothing.
    ///
    /// # Errors
    /// As of [`Session::checkpoint`](crate::repo::Session::checkpoint).
    pub(in crate::fs) fn newer(&self) -> repo::Result<Option<Checkpoint>> {
        let Ok(state) = self.lock(Patience::None) else {
            return Ok(None);
        };
        if !state.is_clean() || self.is_nameless() {
            return Ok(None);
        }
        // Its number is no other file's while the base is held.
        let is_other = |current: &Checkpoint| {
            let base = state.base.as_ref();
            base.is_none_or(|base| base.stat().stx_ino != current.stat().stx_ino)
        };
        Ok(self.session.checkpoint()?.filter(is_other))
    }

    /// Starts from this checkpoint. Answers whether it does: not if it has changed
    /// something meanwhile.
    pub(in crate::fs) fn follow(&self, newer: Checkpoint) -> bool {
        let Ok(mut state) = self.lock(Patience::Wait) else {
            return false;
        };
        if !state.is_clean() {
            return false;
        }
        state.has_followed = true;
        state.shown_base = None;
        let number = newer.stat().stx_ino;
        state.set_base(Some(newer));
        if !self.is_shared() {
            // Which the kernel knows until it asks for attributes.
            self.shown_before.store(self.shown(), Ordering::Relaxed);
            self.show_as(number);
        }
        true
    }
}

impl State {
    /// Nothing has been changed since the last save, and nothing has gone wrong.
    fn is_clean(&self) -> bool {
        self.staged.is_none()
            && self.failed.is_none()
            && self.removed.is_none()
            && self.killed.is_none()
            && !self.is_void
    }
}
