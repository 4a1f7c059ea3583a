//! The deferred removals of the sessions in use (DESIGN 2.12): see `removal`. Each user
//! has a share of them (DESIGN 13.3): those of one user displace no others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::session::removal::Removal;
use crate::fs::session::remover::{OF_REMOVER, Remover, Removers, wait_for_end_of_any};
use crate::fs::session::sessions::{Known, Sessions};
use crate::fs::shares::Share;
use crate::repo::{Checkpoint, Session};

/// How many removals of one user are remembered. Beyond that the user's oldest one that is
/// done is forgotten; if none is, the new removal is carried out at once.
const CAPACITY: usize = 1024;

/// The longest time before a removal that was deferred meanwhile is watched.
const WATCH_TICK: Duration = Duration::from_millis(100);

/// What becomes of a removal that is asked for.
#[derive(Debug)]
pub(in crate::fs) enum Deferral {
    /// It is deferred.
    Deferred,
    /// It must be carried out now: a second process has removed the same checkpoint, or
    /// the end of the process cannot be watched.
    Due(Arc<Removal>),
}

impl Sessions {
    /// Defers the removal of this checkpoint by the process of thread `tid`. Nothing is
    /// remembered without a share of [`OF_REMOVAL`](super::removal::OF_REMOVAL).
    pub(in crate::fs) fn defer_removal(
        &self,
        node: u64,
        session: Session,
        checkpoint: Checkpoint,
        tid: u32,
        share: Option<Share>,
    ) -> Deferral {
        let ino = checkpoint.stat().stx_ino;
        let (remover, share) = shared(tid, share);
        let is_watched = remover.is_some();
        let mut forgotten = Vec::new();
        let mut sessions = self.lock();
        let known = sessions.get(&node).and_then(|known| known.removal.as_ref());
        if let Some(known) = known.filter(|known| known.is_of(ino)) {
            if let Some(remover) = remover {
                known.removers.add(remover);
            }
            return Deferral::Due(known.clone());
        }
        let is_kept =
            (share.as_ref()).is_some_and(|share| make_room(&mut sessions, share, &mut forgotten));
        let removal = Arc::new(Removal {
            session,
            ino,
            checkpoint: Mutex::new(Some(checkpoint)),
            is_done: AtomicBool::new(false),
            blocked: AtomicU32::new(0),
            since: Instant::now(),
            removers: Removers::new(remover),
            rename: Mutex::default(),
            share,
        });
        if !is_kept {
            return Deferral::Due(removal);
        }
        let known = sessions.entry(node).or_default();
        forgotten.extend(known.removal.replace(removal.clone()));
        drop(sessions);
        // Dropping them may make system calls: not under the lock.
        drop(forgotten);
        if !is_watched {
            return Deferral::Due(removal);
        }
        self.deferred.notify_all();
        Deferral::Deferred
    }

    /// The process of thread `tid` has removed an empty `session` that was only shown. It
    /// is not shown to it any more, unless its user's share is used up.
    pub(in crate::fs) fn note_absence(
        &self,
        node: u64,
        session: Session,
        tid: u32,
        share: Option<Share>,
    ) {
        let (Some(remover), Some(share)) = shared(tid, share) else {
            return;
        };
        // Dropped after the lock.
        let mut forgotten = Vec::new();
        let mut sessions = self.lock();
        if let Some(known) = sessions.get(&node).and_then(|known| known.removal.as_ref()) {
            known.removers.add(remover);
        } else if make_room(&mut sessions, &share, &mut forgotten) {
            let removal = Removal {
                session,
                ino: 0,
                checkpoint: Mutex::new(None),
                is_done: AtomicBool::new(true),
                blocked: AtomicU32::new(0),
                since: Instant::now(),
                removers: Removers::new(Some(remover)),
                rename: Mutex::default(),
                share: Some(share),
            };
            sessions.entry(node).or_default().removal = Some(Arc::new(removal));
        }
    }

    /// The removal by the process of thread `tid`.
    pub(in crate::fs) fn removed_by(&self, tid: u32, node: u64) -> Option<Arc<Removal>> {
        self.removal(node, |removal| removal.removers.has(tid))
    }

    /// The deferred removal of this session, if it is due.
    pub(in crate::fs) fn due(&self, node: u64) -> Option<Arc<Removal>> {
        self.removal(node, Removal::is_due)
    }

    /// The deferred removal of the checkpoint with this inode number, in this session.
    pub(in crate::fs) fn deferred(&self, node: u64, ino: u64) -> Option<Arc<Removal>> {
        self.removal(node, |removal| removal.is_of(ino))
    }

    /// As [`deferred`](Self::deferred), in any session.
    pub(in crate::fs) fn deferred_anywhere(&self, ino: u64) -> Option<Arc<Removal>> {
        let sessions = self.lock();
        let mut removals = sessions
            .values()
            .filter_map(|session| session.removal.as_ref());
        removals.find(|removal| removal.is_of(ino)).cloned()
    }

    /// A deferred removal whose checkpoint has been looked up by a rename under its other
    /// name.
    pub(in crate::fs) fn renamed_back(&self, node: u64) -> Option<Arc<Removal>> {
        self.removal(node, |removal| {
            !removal.is_done() && removal.rename().is_some()
        })
    }

    /// The removal of a session, if `is_such` holds for it, which is asked outside the
    /// lock.
    fn removal(&self, node: u64, is_such: impl FnOnce(&Removal) -> bool) -> Option<Arc<Removal>> {
        let removal = self.lock().get(&node)?.removal.clone()?;
        is_such(&removal).then_some(removal)
    }

    /// Cancels the removal of a session: it has a new checkpoint, or keeps the old one. A
    /// thread that has just found the removal due finds it cancelled.
    pub(in crate::fs) fn cancel_removal(&self, node: u64) {
        let forgotten = self
            .lock()
            .get_mut(&node)
            .and_then(|known| known.removal.take());
        if let Some(removal) = &forgotten {
            removal.is_done.store(true, Ordering::Release);
        }
        // Dropping it may make system calls: not under the lock.
        drop(forgotten);
    }

    /// Forgets removals that are done and whose processes have ended: each keeps
    /// descriptors.
    pub(in crate::fs) fn forget_ended(&self) {
        let mut sessions = self.lock();
        let ended = take_ended(&mut sessions);
        sessions.retain(|_, known| known.is_in_use());
        drop(sessions);
        // Dropping them may make system calls: not under the lock.
        drop(ended);
    }

    /// All that are deferred and not done.
    pub(in crate::fs) fn pending(&self) -> Vec<Arc<Removal>> {
        let sessions = self.lock();
        let removals = sessions
            .values()
            .filter_map(|session| session.removal.as_ref());
        removals
            .filter(|removal| !removal.is_done())
            .cloned()
            .collect()
    }

    /// Waits until removals are due, and returns them.
    pub(in crate::fs) fn wait_for_due(&self) -> Vec<Arc<Removal>> {
        loop {
            let is_nothing = |sessions: &mut HashMap<u64, Known>| {
                let mut removals = sessions.values().filter_map(|known| known.removal.as_ref());
                removals.all(|removal| removal.is_done())
            };
            let waited = self.deferred.wait_while(self.lock(), is_nothing);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            let (due, waiting): (Vec<_>, Vec<_>) =
                (self.pending().into_iter()).partition(|removal| removal.is_due());
            if !due.is_empty() {
                return due;
            }
            let removers: Vec<_> = waiting.iter().flat_map(|r| r.removers.pidfds()).collect();
            wait_for_end_of_any(&removers, WATCH_TICK);
        }
    }
}

/// Splits a share: one part goes to the process of the thread, the rest is for the
/// removal.
fn shared(tid: u32, share: Option<Share>) -> (Option<Remover>, Option<Share>) {
    let Some(mut rest) = share else {
        return (None, None);
    };
    (Remover::of(tid, rest.split(OF_REMOVER)), Some(rest))
}

/// Makes room for another removal of the user of this share. What is forgotten for that is
/// put into `forgotten`, as dropping it may make system calls. Returns whether there is room.
fn make_room(
    sessions: &mut HashMap<u64, Known>,
    share: &Share,
    forgotten: &mut Vec<Arc<Removal>>,
) -> bool {
    let removals = || sessions.values().filter_map(|known| known.removal.as_ref());
    let is_own = |removal: &Removal| {
        let own = removal.share.as_ref();
        own.is_some_and(|own| own.is_of_same_user(share))
    };
    if removals().filter(|removal| is_own(removal)).count() < CAPACITY {
        let all = removals().count();
        // From time to time, as each that is left keeps descriptors.
        if all >= 16 && all.is_power_of_two() {
            forgotten.extend(take_ended(sessions));
        }
        return true;
    }
    // Whether their processes live is not asked: that is a system call for each.
    let oldest = sessions
        .values_mut()
        .filter(|known| {
            let removal = known.removal.as_deref();
            removal.is_some_and(|removal| is_own(removal) && removal.is_done())
        })
        .min_by_key(|known| known.removal.as_ref().map(|removal| removal.since));
    let oldest = oldest.and_then(|known| known.removal.take());
    let is_room = oldest.is_some();
    forgotten.extend(oldest);
    is_room
}

/// The removals that are done and whose processes have ended.
fn take_ended(sessions: &mut HashMap<u64, Known>) -> Vec<Arc<Removal>> {
    let has_ended =
        |removal: &mut Arc<Removal>| removal.is_done() && !removal.removers.is_any_alive();
    let removals = sessions.values_mut();
    removals
        .filter_map(|known| known.removal.take_if(has_ended))
        .collect()
}

#[cfg(test)]
mod tests;
