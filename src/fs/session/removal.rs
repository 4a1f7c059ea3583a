//! Removals of a checkpoint (DESIGN 2.12).
//!
//! Some programs replace a file by removing it and making it anew (`mv` across
//! filesystems, `install`, `tar`). Together that must be one save. So a removal is
//! deferred at first: the process that removed the checkpoint sees none, and all others
//! see the old one. It ends in one of three ways:
//!
//! - The process makes a new checkpoint: the removal is cancelled, as part of the save.
//! - The process ends, or makes none for [`TIME_TO_REPLACE`]: the removal is due, and is
//!   carried out.
//! - The removal is needed at once: it is carried out for that request.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::errno::Result;
use crate::fs::request::Patience;
use crate::fs::session::remover::{OF_REMOVER, Removers};
use crate::fs::shares::Share;
use crate::proc::syscall::Call;
use crate::repo::{self, Checkpoint, Kind, Session};

/// How long a process may take to make a new checkpoint before the removal is due.
const TIME_TO_REPLACE: Duration = Duration::from_secs(60);

/// How many descriptors of the daemon a removal takes with its first process: the
/// session, the checkpoint, and the pidfd.
pub(in crate::fs) const OF_REMOVAL: u64 = 2 + OF_REMOVER;

/// How long to wait before a removal is tried again that met a locked session.
const RETRY: Duration = Duration::from_millis(50);

/// After how many attempts the lock counts as one that stays.
const STUCK: u32 = 20;

/// One removal, deferred or done.
#[derive(Debug)]
pub(in crate::fs) struct Removal {
    pub(super) session: Session,
    /// The inode number of the checkpoint.
    pub(super) ino: u64,
    /// The checkpoint to be removed, kept open so that its inode number is not reused.
    pub(super) checkpoint: Mutex<Option<Checkpoint>>,
    pub(super) is_done: AtomicBool,
    /// How often in a row it has met a lock.
    pub(super) blocked: AtomicU32,
    pub(super) since: Instant,
    pub(super) removers: Removers,
    /// The last rename that has looked up the checkpoint by another name.
    pub(super) rename: Mutex<Option<Call>>,
    /// Its descriptors in its user's share; `None` if the removal is carried out at once.
    pub(super) share: Option<Share>,
}

impl Removal {
    pub(super) fn rename(&self) -> MutexGuard<'_, Option<Call>> {
        self.rename.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::fs) fn note_rename(&self, call: Call) {
        *self.rename() = Some(call);
    }

    pub(in crate::fs) fn is_noted_rename(&self, call: &Call) -> bool {
        self.rename().as_ref() == Some(call)
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Whether it waits for a lock to go. A caller that only looks need not wait, too.
    pub(in crate::fs) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire) > 0
    }

    /// Whether it has just met a lock that stays, longer than any save lasts. True for
    /// one attempt, so that it is logged once.
    pub(in crate::fs) fn is_stuck(&self) -> bool {
        self.blocked.load(Ordering::Acquire) == STUCK
    }

    pub(super) fn is_due(&self) -> bool {
        !self.is_done() && (!self.removers.is_any_alive() || self.since.elapsed() > TIME_TO_REPLACE)
    }

    /// Whether it is deferred for the checkpoint with this inode number.
    pub(in crate::fs) fn is_of(&self, ino: u64) -> bool {
        self.ino == ino && !self.is_done()
    }

    /// Carries out a removal that was found due, unless it has been cancelled since.
    ///
    /// Between the caller's look and this call, the process may have made a new
    /// checkpoint, or have been refused, and have ended. It cancels before it ends: so
    /// whoever sees it due because of that end finds it cancelled here.
    ///
    /// # Errors
    /// As of [`carry_out`](Self::carry_out).
    pub(in crate::fs) fn carry_out_due(&self) -> repo::Result<()> {
        if self.is_done() {
            return Ok(());
        }
        self.carry_out()
    }

    /// As [`carry_out_due`](Self::carry_out_due), but waits for a save in progress.
    ///
    /// # Errors
    /// As of [`carry_out`](Self::carry_out).
    pub(in crate::fs) fn carry_out_patiently(&self) -> repo::Result<()> {
        for _ in 0..STUCK {
            match self.carry_out_due() {
                Err(e) if e.kind() == Kind::Locked => wait_to_retry(),
                other => return other,
            }
        }
        self.carry_out_due()
    }

    /// Removes the checkpoint, unless it has been replaced. Waits for the disk, but for
    /// no lock: the caller may hold the directory's lock in the kernel. As with any
    /// removed file, the removal is durable after the next sync.
    ///
    /// # Errors
    /// [`Kind::Locked`] if the session is locked; it may be tried again then. Those of
    /// unlink(2).
    pub(in crate::fs) fn carry_out(&self) -> repo::Result<()> {
        let mut checkpoint = self.checkpoint();
        let Some(which) = checkpoint.as_ref().filter(|_| !self.is_done()) else {
            return Ok(());
        };
        let removed = self.session.unlink_this_checkpoint(which);
        if removed.as_ref().is_err_and(|e| e.kind() == Kind::Locked) {
            self.blocked.fetch_add(1, Ordering::AcqRel);
            return removed.map(drop);
        }
        self.blocked.store(0, Ordering::Release);
        *checkpoint = None;
        self.is_done.store(true, Ordering::Release);
        removed.map(drop)
    }

    /// As [`carry_out`](Self::carry_out), for a request that needs it done.
    ///
    /// # Errors
    /// Those of unlink(2); `WouldBlock` if the request must not wait.
    pub(in crate::fs) fn carry_out_for_request(&self, patience: Patience) -> Result<()> {
        patience.must_wait()?;
        Ok(self.carry_out()?)
    }

    /// Cancels the removal by `take_back`, which renames the checkpoint's other name back
    /// to `session`. Anything that finds the removal due meanwhile waits, and then finds
    /// it cancelled: `session` is the only name left. It is cancelled also if `take_back`
    /// fails, except with [`Kind::Locked`]: then nothing was changed.
    ///
    /// # Errors
    /// Those of `take_back`.
    pub(in crate::fs) fn cancel_by(
        &self,
        take_back: impl FnOnce() -> repo::Result<()>,
    ) -> repo::Result<()> {
        let mut checkpoint = self.checkpoint();
        let taken = take_back();
        if !taken.as_ref().is_err_and(|e| e.kind() == Kind::Locked) {
            *checkpoint = None;
            self.is_done.store(true, Ordering::Release);
        }
        taken
    }

    /// The lock under which the removal is carried out or cancelled.
    fn checkpoint(&self) -> MutexGuard<'_, Option<Checkpoint>> {
        self.checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits before the next attempt.
pub(in crate::fs) fn wait_to_retry() {
    std::thread::sleep(RETRY);
}
