//! Removals of a checkpoint (DESIGN 2.12).
//!
//! Programs that replace a file by removing it first and making it anew (`mv`
//! across filesystems, `install`, `tar`) are to make one save of it. So a
//! removal is only promised at first: the process that asked for it finds
//! nothing any more, and all others the old checkpoint, until that process
//! has made a new one, or has ended. A process that goes on for long without
//! making one has meant a removal.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::errno::Result;
use crate::fs::request::Patience;
use crate::fs::session::asker::{Askers, OF_ASKER};
use crate::fs::shares::Share;
use crate::proc::syscall::Call;
use crate::repo::{self, Checkpoint, Kind, Session};

/// How long a process may take to make a new checkpoint.
const TIME_TO_REPLACE: Duration = Duration::from_secs(60);

/// The descriptors of a removal for the process that asks for it first: of its
/// session, of the checkpoint, and of the process.
pub(in crate::fs) const OF_REMOVAL: u64 = 2 + OF_ASKER;

/// How often it is tried again if the session is locked.
const RETRY: Duration = Duration::from_millis(50);

/// After how many attempts a lock is taken for one that stays.
const STUCK: u32 = 20;

/// One removal, promised or done.
#[derive(Debug)]
pub(in crate::fs) struct Removal {
    pub(super) session: Session,
    /// The inode number of the checkpoint.
    pub(super) ino: u64,
    /// What is to be removed; held, so that its number stays its own.
    pub(super) checkpoint: Mutex<Option<Checkpoint>>,
    pub(super) is_done: AtomicBool,
    /// How often a lock has been in the way, without an end.
    pub(super) blocked: AtomicU32,
    pub(super) since: Instant,
    pub(super) askers: Askers,
    /// The last rename that has found the checkpoint by another name.
    pub(super) rename: Mutex<Option<Call>>,
    /// Of its descriptors; none of one that is done at once.
    pub(super) _share: Option<Share>,
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

    /// Whether it waits for somebody to break a lock: who only looks need not
    /// wait as well.
    pub(in crate::fs) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire) > 0
    }

    /// Whether that lasts for as long as no save does: it is to be told once.
    pub(in crate::fs) fn is_stuck(&self) -> bool {
        self.blocked.load(Ordering::Acquire) == STUCK
    }

    pub(super) fn is_due(&self) -> bool {
        !self.is_done() && (!self.askers.is_any_alive() || self.since.elapsed() > TIME_TO_REPLACE)
    }

    /// Whether it is promised for the checkpoint with this inode number.
    pub(in crate::fs) fn is_of(&self, ino: u64) -> bool {
        self.ino == ino && !self.is_done()
    }

    /// Does a removal that was found due, unless the promise is void by now.
    ///
    /// Who found it may have had it in hand since before its process made a new
    /// checkpoint, or was refused, and ended: only then is it seen as due, and
    /// then this sees it as void.
    ///
    /// # Errors
    /// As of [`carry_out`](Self::carry_out).
    pub(in crate::fs) fn carry_out_due(&self) -> repo::Result<()> {
        if self.is_done() {
            return Ok(());
        }
        self.carry_out()
    }

    /// The same, with patience for a save in progress.
    ///
    /// # Errors
    /// As of [`carry_out`](Self::carry_out).
    pub(in crate::fs) fn carry_out_at_last(&self) -> repo::Result<()> {
        for _ in 0..STUCK {
            match self.carry_out_due() {
                Err(e) if e.kind() == Kind::Locked => wait_to_retry(),
                other => return other,
            }
        }
        self.carry_out_due()
    }

    /// Does what was promised, unless the checkpoint has been replaced. Waits
    /// for the disk, and for no lock: whoever asks may hold that of the session's
    /// directory in the kernel. As of any file that is removed, it is durable when
    /// somebody syncs.
    ///
    /// # Errors
    /// [`Kind::Locked`] if the session stays locked; it may be tried again
    /// then. Those of unlink(2).
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

    /// The same for a request, which relies on it.
    ///
    /// # Errors
    /// Those of unlink(2); that it would wait.
    pub(in crate::fs) fn complete(&self, patience: Patience) -> Result<()> {
        patience.must_wait()?;
        Ok(self.carry_out()?)
    }

    /// Makes the checkpoint that is to be removed, under its other name, the one
    /// that stays. Who finds the removal due meanwhile waits, and finds it void:
    /// `session` is the only name then. That is so as well if it fails, unless
    /// nothing has been done.
    ///
    /// # Errors
    /// Those of `take_back`.
    pub(in crate::fs) fn instead(
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

    /// Held for as long as something is done about it.
    fn checkpoint(&self) -> MutexGuard<'_, Option<Checkpoint>> {
        self.checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits before what could not be done is tried again.
pub(in crate::fs) fn wait_to_retry() {
    std::thread::sleep(RETRY);
}
