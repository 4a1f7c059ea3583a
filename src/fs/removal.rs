//! Removals of a checkpoint (DESIGN 2.12).
//!
//! Programs that replace a file by removing it first and making it anew (`mv`
//! across filesystems, `install`, `tar`) are to make one save of it. So a
//! removal is only promised at first: the process that asked for it finds
//! nothing any more, and all others the old checkpoint, until that process
//! has made a new one, or has ended. A process that goes on for long without
//! making one has meant a removal.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::asker::{Asker, Askers, OF_ASKER, wait_for_end_of_any};
use super::shares::Share;
use crate::proc::syscall::Call;
use crate::repo::{self, Checkpoint, Kind, Session};

/// How long a process may take to make a new checkpoint.
const TIME_TO_REPLACE: Duration = Duration::from_secs(60);

/// How many sessions are remembered. Beyond that a removal is done at once.
const CAPACITY: usize = 1024;

/// The descriptors of a removal for the process that asks for it first: of its
/// session, of the checkpoint, and of the process.
pub(super) const OF_REMOVAL: u64 = 2 + OF_ASKER;

/// How often it is tried again if the session is locked, and how long a removal
/// that was promised meanwhile may go unwatched.
const RETRY: Duration = Duration::from_millis(50);

/// After how many attempts a lock is taken for one that stays.
const STUCK: u32 = 20;
const WATCH_TICK: Duration = Duration::from_millis(100);

/// The removals of a mount, by the node of their session.
#[derive(Debug, Default)]
pub(super) struct Removals {
    by_session: Mutex<HashMap<u64, Arc<Removal>>>,
    promised: Condvar,
}

/// One removal, promised or done.
#[derive(Debug)]
pub(super) struct Removal {
    session: Session,
    /// The inode number of the checkpoint.
    ino: u64,
    /// What is to be removed; held, so that its number stays its own.
    checkpoint: Mutex<Option<Checkpoint>>,
    is_done: AtomicBool,
    /// How often a lock has been in the way, without an end.
    blocked: AtomicU32,
    since: Instant,
    askers: Askers,
    /// The last rename that has found the checkpoint by another name.
    rename: Mutex<Option<Call>>,
    /// Of its descriptors; none of one that is done at once.
    _share: Option<Share>,
}

/// What comes of asking for a removal.
#[derive(Debug)]
pub(super) enum Asked {
    /// It is promised.
    Promised,
    /// It is to be done now: two processes agree on it, or the one that asks
    /// cannot be watched.
    Due(Arc<Removal>),
}

impl Removals {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Removal>>> {
        self.by_session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of thread `tid` wants this checkpoint removed. Nothing is kept
    /// without a share of [`OF_REMOVAL`].
    pub(super) fn ask(
        &self,
        node: u64,
        session: Session,
        checkpoint: Checkpoint,
        tid: u32,
        share: Option<Share>,
    ) -> Asked {
        let ino = checkpoint.stat().stx_ino;
        let (asker, share) = shared(tid, share);
        let is_watched = asker.is_some();
        let mut removals = self.lock();
        if let Some(known) = removals.get(&node).filter(|known| known.is_of(ino)) {
            if let Some(asker) = asker {
                known.askers.add(asker);
            }
            return Asked::Due(known.clone());
        }
        let is_kept = share.is_some() && make_room(&mut removals);
        let removal = Arc::new(Removal {
            session,
            ino,
            checkpoint: Mutex::new(Some(checkpoint)),
            is_done: AtomicBool::new(false),
            blocked: AtomicU32::new(0),
            since: Instant::now(),
            askers: Askers::new(asker),
            rename: Mutex::default(),
            _share: share,
        });
        if !is_kept {
            return Asked::Due(removal);
        }
        removals.insert(node, removal.clone());
        drop(removals);
        if !is_watched {
            return Asked::Due(removal);
        }
        self.promised.notify_all();
        Asked::Promised
    }

    /// The process of thread `tid` has removed what was not there: it is not
    /// to find it again, unless its user's share is used up.
    pub(super) fn note_absence(&self, node: u64, session: Session, tid: u32, share: Option<Share>) {
        let (Some(asker), Some(share)) = shared(tid, share) else {
            return;
        };
        let mut removals = self.lock();
        if let Some(known) = removals.get(&node) {
            known.askers.add(asker);
        } else if make_room(&mut removals) {
            let removal = Removal {
                session,
                ino: 0,
                checkpoint: Mutex::new(None),
                is_done: AtomicBool::new(true),
                blocked: AtomicU32::new(0),
                since: Instant::now(),
                askers: Askers::new(Some(asker)),
                rename: Mutex::default(),
                _share: Some(share),
            };
            removals.insert(node, Arc::new(removal));
        }
    }

    /// The removal that the process of thread `tid` has asked for.
    pub(super) fn asked_by(&self, tid: u32, node: u64) -> Option<Arc<Removal>> {
        self.find(node, |removal| removal.askers.has(tid))
    }

    /// A promised removal whose time has come.
    pub(super) fn due(&self, node: u64) -> Option<Arc<Removal>> {
        self.find(node, Removal::is_due)
    }

    /// The removal that is promised of this checkpoint, by its inode number.
    pub(super) fn promised(&self, node: u64, ino: u64) -> Option<Arc<Removal>> {
        self.find(node, |removal| removal.is_of(ino))
    }

    /// The same, whatever session it is of.
    pub(super) fn promised_anywhere(&self, ino: u64) -> Option<Arc<Removal>> {
        let removals = self.lock();
        removals
            .values()
            .find(|removal| removal.is_of(ino))
            .cloned()
    }

    /// A removal whose checkpoint a rename has found by another name.
    pub(super) fn renamed_back(&self, node: u64) -> Option<Arc<Removal>> {
        self.find(node, |removal| {
            !removal.is_done() && removal.rename().is_some()
        })
    }

    /// The removal of a session, if it is such a one; not under the lock.
    fn find(&self, node: u64, is_such: impl FnOnce(&Removal) -> bool) -> Option<Arc<Removal>> {
        let removal = self.lock().get(&node)?.clone();
        is_such(&removal).then_some(removal)
    }

    /// The session has another checkpoint, or the one that was to be removed
    /// stays: the promise is void, also for who has just found it due.
    pub(super) fn forget(&self, node: u64) {
        let forgotten = self.lock().remove(&node);
        if let Some(removal) = &forgotten {
            removal.is_done.store(true, Ordering::Release);
        }
        // Its end may call the system: not under the lock.
        drop(forgotten);
    }

    /// Lets go of what has been done for processes that have ended: each keeps
    /// descriptors.
    pub(super) fn forget_ended(&self) {
        let mut ended = Vec::new();
        self.lock().retain(|_, removal| {
            let has_ended = removal.is_done() && !removal.askers.is_any_alive();
            if has_ended {
                ended.push(removal.clone());
            }
            !has_ended
        });
        // Not under the lock.
        drop(ended);
    }

    /// All that are promised and not done.
    pub(super) fn pending(&self) -> Vec<Arc<Removal>> {
        let removals = self.lock();
        let pending = removals.values().filter(|removal| !removal.is_done());
        pending.cloned().collect()
    }

    /// Waits until some removals are due.
    pub(super) fn wait_for_due(&self) -> Vec<Arc<Removal>> {
        loop {
            let mut removals = self.lock();
            while removals.values().all(|removal| removal.is_done()) {
                removals = self
                    .promised
                    .wait(removals)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(removals);
            let (due, waiting): (Vec<_>, Vec<_>) =
                (self.pending().into_iter()).partition(|removal| removal.is_due());
            if !due.is_empty() {
                return due;
            }
            let askers: Vec<_> = waiting.iter().flat_map(|r| r.askers.pidfds()).collect();
            wait_for_end_of_any(&askers, WATCH_TICK);
        }
    }

    /// Waits before what could not be done is tried again.
    pub(super) fn wait_to_retry() {
        std::thread::sleep(RETRY);
    }
}

/// The process of a thread, with its part of a share, and the rest.
fn shared(tid: u32, share: Option<Share>) -> (Option<Asker>, Option<Share>) {
    let Some(mut rest) = share else {
        return (None, None);
    };
    (Asker::of(tid, rest.split(OF_ASKER)), Some(rest))
}

/// Forgets what nobody needs any more. Answers whether there is room then.
fn make_room(removals: &mut HashMap<u64, Arc<Removal>>) -> bool {
    // Now and then: each that is left keeps descriptors.
    if removals.len() >= CAPACITY || removals.len() >= 16 && removals.len().is_power_of_two() {
        removals.retain(|_, removal| !removal.is_done() || removal.askers.is_any_alive());
    }
    removals.len() < CAPACITY
}

impl Removal {
    fn rename(&self) -> MutexGuard<'_, Option<Call>> {
        self.rename.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_rename(&self, call: Call) {
        *self.rename() = Some(call);
    }

    pub(super) fn is_noted_rename(&self, call: &Call) -> bool {
        self.rename().as_ref() == Some(call)
    }

    fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Whether it waits for somebody to break a lock: who only looks need not
    /// wait as well.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire) > 0
    }

    /// Whether that lasts for as long as no save does: it is to be told once.
    pub(super) fn is_stuck(&self) -> bool {
        self.blocked.load(Ordering::Acquire) == STUCK
    }

    fn is_due(&self) -> bool {
        !self.is_done() && (!self.askers.is_any_alive() || self.since.elapsed() > TIME_TO_REPLACE)
    }

    /// Whether it is promised for the checkpoint with this inode number.
    pub(super) fn is_of(&self, ino: u64) -> bool {
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
    pub(super) fn carry_out_due(&self) -> repo::Result<()> {
        if self.is_done() {
            return Ok(());
        }
        self.carry_out()
    }

    /// The same, with patience for a save in progress.
    ///
    /// # Errors
    /// As of [`carry_out`](Self::carry_out).
    pub(super) fn carry_out_at_last(&self) -> repo::Result<()> {
        for _ in 0..STUCK {
            match self.carry_out_due() {
                Err(e) if e.kind() == Kind::Locked => Removals::wait_to_retry(),
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
    pub(super) fn carry_out(&self) -> repo::Result<()> {
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

    /// Makes the checkpoint that is to be removed, under its other name, the one
    /// that stays. Who finds the removal due meanwhile waits, and finds it void:
    /// `session` is the only name then. That is so as well if it fails, unless
    /// nothing has been done.
    ///
    /// # Errors
    /// Those of `take_back`.
    pub(super) fn instead(&self, take_back: impl FnOnce() -> repo::Result<()>) -> repo::Result<()> {
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

#[cfg(test)]
mod tests;
