//! A writer that has changed nothing yet, and starts from another checkpoint than
//! the one it was opened on (DESIGN 2.9).

use std::sync::atomic::Ordering;

use crate::fs::errno::Result;
use crate::fs::request::Patience;
use crate::fs::session::writer::state::{State, Writer};
use crate::repo::Checkpoint;
use crate::sys;

impl Writer {
    /// The node of its session's directory.
    pub(in crate::fs) fn session_node(&self) -> u64 {
        self.directory
    }

    /// Whether it has changed something that is not saved.
    ///
    /// # Errors
    /// Only that it would wait.
    pub(in crate::fs) fn is_unsaved(&self, patience: Patience) -> Result<bool> {
        Ok(self.lock(patience)?.staged.is_some())
    }

    /// After a save point it keeps others from saving until it is closed; but not
    /// after it has unlocked the session (DESIGN 2.16).
    ///
    /// # Errors
    /// Only that it would wait.
    pub(in crate::fs) fn rest(&self, patience: Patience) -> Result<()> {
        let mut state = self.lock(patience)?;
        if state.is_clean() && state.published {
            // Nothing is staged, so nothing can fail.
            let _ = self.finish(&mut state);
        }
        Ok(())
    }

    /// The checkpoint that has replaced the one it starts from, if it has changed
    /// nothing.
    ///
    /// # Errors
    /// That it would wait: others may be looking at it, for a moment. As of
    /// [`Session::checkpoint`](crate::repo::Session::checkpoint).
    pub(in crate::fs) fn newer(&self, patience: Patience) -> Result<Option<Checkpoint>> {
        let state = self.lock(patience)?;
        if !state.is_clean() || self.is_nameless() {
            return Ok(None);
        }
        // Its number is no other file's while the base is held.
        let is_other = |current: &Checkpoint| {
            let base = state.base.as_ref();
            base.is_none_or(|base| !is_same(base, current))
        };
        Ok(self.session.checkpoint()?.filter(is_other))
    }

    /// It has been opened otherwise than to append.
    pub(in crate::fs) fn does_more_than_append(&self) {
        self.only_appends.store(false, Ordering::Relaxed);
    }

    /// A writer that only appends, and has its turn now, goes on from the checkpoint
    /// that it finds: it has read nothing of the one that it was opened on, and all
    /// that it writes goes to the end, whatever the kernel takes for that.
    pub(super) fn follow_in_turn(&self, state: &mut State) -> Result<()> {
        let may_follow = self.only_appends.load(Ordering::Relaxed)
            && state.is_clean()
            && !state.published
            && !self.is_nameless();
        if !may_follow || state.base.is_none() {
            return Ok(());
        }
        let Some(current) = self.session.checkpoint()? else {
            // It is gone, which the commit tells.
            return Ok(());
        };
        if state
            .base
            .as_ref()
            .is_some_and(|base| is_same(base, &current))
        {
            return Ok(());
        }
        // He was let in to another one (DESIGN 13.1).
        {
            let _acting = self.credentials.begin()?;
            sys::access(current.as_path_fd(), libc::W_OK)?;
        }
        self.start_from(state, current);
        Ok(())
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
        self.start_from(&mut state, newer);
        true
    }

    fn start_from(&self, state: &mut State, newer: Checkpoint) {
        state.has_followed = true;
        state.shown_base = None;
        let number = newer.stat().stx_ino;
        state.set_base(Some(newer));
        if !self.is_shared() {
            // Which the kernel knows until it asks for attributes.
            self.shown_before.store(self.shown(), Ordering::Relaxed);
            self.show_as(number);
        }
    }
}

/// Whether two checkpoints that are both held are one.
fn is_same(one: &Checkpoint, other: &Checkpoint) -> bool {
    one.stat().stx_ino == other.stat().stx_ino
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
