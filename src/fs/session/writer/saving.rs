//! Saves by a writer: at a save point, and at its last close (DESIGN 2.5, 13.1).

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::fs::errno::{Fail, Result};
use crate::fs::request::Patience;
use crate::fs::session::slot::Published;
use crate::fs::session::writer::close::Who;
use crate::fs::session::writer::state::{Writer, WriterState};
use crate::proc::identity::Process;
use crate::repo::{Base, Checkpoint, Commit, Committed, Kind, Permit};
use crate::sys;

impl Writer {
    /// A save point: what has been written so far becomes the checkpoint, and writing may
    /// go on (DESIGN 2.5).
    pub(in crate::fs) fn sync(&self, patience: Patience) -> Result<()> {
        if patience == Patience::None {
            return Err(Fail::WouldBlock);
        }
        // Without the lock: see `Author::end`.
        let killed = self.other_killed(Process::UNKNOWN, Who::Writers);
        let mut state = self.lock(patience)?;
        if self.is_nameless() {
            return Ok(());
        }
        if state.staged.is_some() {
            state.killed = state.killed.take().or(killed);
        }
        if let Some(errno) = state.failed.or(state.unreported.take()) {
            return Err(Fail::Errno(errno));
        }
        if state.killed.is_some() || state.is_void {
            return Err(Fail::Errno(libc::ECANCELED));
        }
        match &state.base {
            _ if state.staged.is_some() => {
                let committed = self.commit(&mut state);
                self.keep_failure(&mut state, committed)
            }
            // Nothing of this writer to save; but the base may be the unsynced save of
            // another program.
            Some(base) => Ok(sys::fsync(base.open()?)?),
            None => Ok(()),
        }
    }

    /// Publishes what is staged. Afterwards nothing is staged.
    pub(super) fn commit(&self, state: &mut WriterState) -> Result<()> {
        let Some(staged) = state.staged.take() else {
            return Ok(());
        };
        let committing = self.activity.busy();
        self.activity.settled();
        match self.lost.swap(0, Ordering::SeqCst) {
            0 => {}
            lost => return Err(Fail::Errno(lost)),
        }
        let how = self.how(state);
        let start = Instant::now();
        let result = staged.replace(&how);
        let took = start.elapsed();
        drop(committing);
        match result {
            Ok(Committed { new, replaced }) => {
                state.has_data = false;
                state.is_written_back = false;
                // Watchers of a removed checkpoint have been told of the removal.
                if state.removed.take().is_none() {
                    state.replaced = Some(replaced);
                }
                self.publish(state, new);
                state.published = true;
                // Every caller finds it by its path now, including its opener.
                self.is_new.store(false, Ordering::Relaxed);
                self.statistics.saved(self.session.name(), took);
                Ok(())
            }
            Err(error) => {
                self.log_failure(&error);
                if error.kind() == Kind::NotDurable {
                    let now = self.session.checkpoint().ok().flatten();
                    // Unless another program has replaced it by now.
                    state.set_base(now.filter(|now| self.credentials.may_write(now).is_ok()));
                }
                Err(Fail::of(&error))
            }
        }
    }

    /// What its last save has replaced; returned once.
    pub(in crate::fs) fn take_replaced(&self) -> Option<Option<Checkpoint>> {
        let state = self.state.lock();
        state
            .unwrap_or_else(PoisonError::into_inner)
            .replaced
            .take()
    }

    /// How a save of it is made: what it may replace, and the attributes it sets.
    pub(super) fn how<'a>(&'a self, state: &'a WriterState) -> Commit<'a> {
        Commit {
            base: if self.replaces {
                Base::Any
            } else {
                Base::Only(state.removed.as_ref().or(state.base.as_ref()))
            },
            removed: state.removed.as_ref(),
            permit: &self.credentials,
            keeps_privileges: state.keeps_privileges,
            first_mode: self.first_mode,
            first_umask: self.first_umask,
            first_owner: Some(self.first_owner),
        }
    }

    /// Records a save point. The opener goes on seeing the number it saw.
    fn publish(&self, state: &mut WriterState, checkpoint: Checkpoint) {
        self.slot.publish(Published {
            checkpoint: checkpoint.stat().stx_ino,
            writer: self.ino,
            shown: self.shown(),
            process: self.opener,
        });
        let old = state.base.take();
        if old
            .as_ref()
            .is_some_and(|old| old.stat().stx_ino == self.shown())
        {
            state.shown_base = old;
        }
        state.set_base(Some(checkpoint));
    }
}
