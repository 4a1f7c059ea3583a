//! What a writer's first change does: it takes the session's slot, and stages.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{State, Writer, staged};
use crate::fs::errno::{Fail, Patience, Result};
use crate::fs::signals;
use crate::fs::slot::Owner;
use crate::repo::{Checkpoint, Staged};

/// Copies of more than this, in bytes, are not made on a thread that takes
/// requests.
pub(in crate::fs) const QUICK_COPY: u64 = 64 << 10;

/// How often who waits for another writer looks at anything else.
const LOOK: Duration = Duration::from_millis(100);

/// How often a foreign `session.next` is looked at while waiting for it: it
/// tells nobody when it goes.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// What of the base is to be in the staged file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// Its first bytes, so many at the most.
    most: u64,
    /// The thread that waits for it; the copy ends with that.
    tid: u32,
}

impl Keep {
    /// Nothing.
    pub(super) const NOTHING: Self = Self { most: 0, tid: 0 };

    /// All of it, for a thread.
    pub(super) fn all(tid: u32) -> Self {
        Self {
            most: u64::MAX,
            tid,
        }
    }
}

impl Writer {
    /// Cuts or extends the content, for the thread `tid`.
    pub(super) fn truncate(
        &self,
        state: &mut State,
        size: u64,
        tid: u32,
        patience: Patience,
    ) -> Result<()> {
        if size == 0 {
            // A fresh start: nothing of what was lost is in it.
            state.failed = None;
            state.is_void = false;
            self.lost.store(0, Ordering::SeqCst);
        }
        self.change(state, Keep { most: size, tid }, patience)?;
        let _acting = self.credentials.begin()?;
        self.log_if_failed(staged(state)?.set_len(size))
    }

    /// Makes sure that there is a staged file, with the content of the base
    /// if that is needed.
    pub(super) fn change(&self, state: &mut State, keep: Keep, patience: Patience) -> Result<()> {
        if let Some(errno) = state.failed {
            return Err(Fail::Errno(errno));
        }
        if state.is_void {
            return Err(Fail::Errno(libc::ECANCELED));
        }
        if state.staged.is_some() {
            return Ok(());
        }
        let len = state.base.as_ref().map_or(0, Checkpoint::len);
        if patience == Patience::None && len.min(keep.most) > QUICK_COPY {
            return Err(Fail::WouldBlock);
        }
        self.take_slot(patience)?;
        let has_privileges = |base: &Checkpoint| base.stat().stx_mode & 0o6000 != 0;
        state.keeps_privileges =
            state.base.as_ref().is_some_and(has_privileges) && self.caller.keeps_privileges();
        match self.stage(state, keep) {
            Ok(staged) => {
                state.staged = Some(staged);
                self.activity.staged();
                Ok(())
            }
            Err(fail) => {
                if !state.published {
                    self.slot.free(self.ino);
                }
                Err(fail)
            }
        }
    }

    fn stage(&self, state: &State, keep: Keep) -> Result<Staged> {
        let base = state.base.as_ref();
        let mut staged = self.log_if_failed(self.session.stage())?;
        self.log_if_failed(staged.begin(base, &self.how(state)))?;
        if let Some(base) = base.filter(|_| keep.most > 0) {
            let from = self.log_if_failed(base.open_to_copy())?;
            // As who writes it: what he has no room for is not copied.
            let _acting = self.credentials.begin()?;
            let copied = staged.copy(&from, keep.most, &signals::lives(keep.tid));
            self.log_if_failed(copied)?;
        }
        Ok(staged)
    }

    /// Takes back the staging of a change that was not made.
    pub(super) fn unstage(&self, state: &mut State) {
        if state.staged.take().is_some() {
            self.activity.settled();
        }
        if !state.published {
            self.slot.free(self.ino);
        }
    }

    /// Takes the session's slot, and makes sure that no foreign
    /// `session.next` is in the way.
    fn take_slot(&self, patience: Patience) -> Result<()> {
        let busy = Fail::Errno(libc::EBUSY);
        let refused = match patience {
            Patience::None if !self.lock_wait.is_zero() => Fail::WouldBlock,
            _ => busy,
        };
        let deadline = (patience == Patience::Wait && !self.lock_wait.is_zero())
            .then(|| Instant::now() + self.lock_wait);
        let owner = Owner {
            writer: self.ino,
            process: self.opener,
        };
        // A look now and then whether the mount is at its end.
        while !self
            .slot
            .take(owner, deadline.map(|at| at.min(Instant::now() + LOOK)))
        {
            if self.activity.is_ending() || deadline.is_none_or(|at| Instant::now() >= at) {
                if refused == busy {
                    self.slot.tell_owner(self.session.name());
                }
                return Err(refused);
            }
        }
        loop {
            match self.session.is_locked() {
                Ok(false) => return Ok(()),
                Ok(true)
                    if deadline.is_some_and(|at| Instant::now() < at)
                        && !self.activity.is_ending() =>
                {
                    std::thread::sleep(LOCK_POLL);
                }
                locked => {
                    if let Ok(true) = locked
                        && refused == busy
                    {
                        log::warn!(
                            "{}: EBUSY: session.next of another program is in the way \
                             (sessionfs break-lock, if that has ended)",
                            self.session.name()
                        );
                    }
                    self.slot.free(self.ino);
                    return Err(locked.map_or_else(Fail::from, |_| refused));
                }
            }
        }
    }
}
