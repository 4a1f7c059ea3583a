//! The removals that are promised of the sessions in use (DESIGN 2.12): see `removal`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::session::asker::{Asker, Askers, OF_ASKER, wait_for_end_of_any};
use crate::fs::session::removal::Removal;
use crate::fs::session::sessions::{Known, Sessions};
use crate::fs::shares::Share;
use crate::repo::{Checkpoint, Session};

/// How many removals are remembered. Beyond that a removal is done at once.
const CAPACITY: usize = 1024;

/// How long a removal that was promised meanwhile may go unwatched.
const WATCH_TICK: Duration = Duration::from_millis(100);

/// What comes of asking for a removal.
#[derive(Debug)]
pub(in crate::fs) enum Asked {
    /// It is promised.
    Promised,
    /// It is to be done now: two processes agree on it, or the one that asks
    /// cannot be watched.
    Due(Arc<Removal>),
}

impl Sessions {
    /// The process of thread `tid` wants this checkpoint removed. Nothing is kept
    /// without a share of [`OF_REMOVAL`](crate::fs::session::removal::OF_REMOVAL).
    pub(in crate::fs) fn ask(
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
        let mut sessions = self.lock();
        let known = sessions.get(&node).and_then(|known| known.removal.as_ref());
        if let Some(known) = known.filter(|known| known.is_of(ino)) {
            if let Some(asker) = asker {
                known.askers.add(asker);
            }
            return Asked::Due(known.clone());
        }
        let is_kept = share.is_some() && make_room(&mut sessions);
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
        let earlier = sessions
            .entry(node)
            .or_default()
            .removal
            .replace(removal.clone());
        drop(sessions);
        // Its end may call the system: not under the lock.
        drop(earlier);
        if !is_watched {
            return Asked::Due(removal);
        }
        self.promised.notify_all();
        Asked::Promised
    }

    /// The process of thread `tid` has removed what was not there: it is not
    /// to find it again, unless its user's share is used up.
    pub(in crate::fs) fn note_absence(
        &self,
        node: u64,
        session: Session,
        tid: u32,
        share: Option<Share>,
    ) {
        let (Some(asker), Some(share)) = shared(tid, share) else {
            return;
        };
        let mut sessions = self.lock();
        if let Some(known) = sessions.get(&node).and_then(|known| known.removal.as_ref()) {
            known.askers.add(asker);
        } else if make_room(&mut sessions) {
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
            sessions.entry(node).or_default().removal = Some(Arc::new(removal));
        }
    }

    /// The removal that the process of thread `tid` has asked for.
    pub(in crate::fs) fn asked_by(&self, tid: u32, node: u64) -> Option<Arc<Removal>> {
        self.removal(node, |removal| removal.askers.has(tid))
    }

    /// A promised removal whose time has come.
    pub(in crate::fs) fn due(&self, node: u64) -> Option<Arc<Removal>> {
        self.removal(node, Removal::is_due)
    }

    /// The removal that is promised of this checkpoint, by its inode number.
    pub(in crate::fs) fn promised(&self, node: u64, ino: u64) -> Option<Arc<Removal>> {
        self.removal(node, |removal| removal.is_of(ino))
    }

    /// The same, whatever session it is of.
    pub(in crate::fs) fn promised_anywhere(&self, ino: u64) -> Option<Arc<Removal>> {
        let sessions = self.lock();
        let mut removals = sessions
            .values()
            .filter_map(|session| session.removal.as_ref());
        removals.find(|removal| removal.is_of(ino)).cloned()
    }

    /// A removal whose checkpoint a rename has found by another name.
    pub(in crate::fs) fn renamed_back(&self, node: u64) -> Option<Arc<Removal>> {
        self.removal(node, |removal| {
            !removal.is_done() && removal.rename().is_some()
        })
    }

    /// The removal of a session, if it is such a one; not under the lock.
    fn removal(&self, node: u64, is_such: impl FnOnce(&Removal) -> bool) -> Option<Arc<Removal>> {
        let removal = self.lock().get(&node)?.removal.clone()?;
        is_such(&removal).then_some(removal)
    }

    /// The session has another checkpoint, or the one that was to be removed
    /// stays: the promise is void, also for who has just found it due.
    pub(in crate::fs) fn forget(&self, node: u64) {
        let forgotten = self
            .lock()
            .get_mut(&node)
            .and_then(|known| known.removal.take());
        if let Some(removal) = &forgotten {
            removal.is_done.store(true, Ordering::Release);
        }
        // Its end may call the system: not under the lock.
        drop(forgotten);
    }

    /// Lets go of what has been done for processes that have ended: each keeps
    /// descriptors.
    pub(in crate::fs) fn forget_ended(&self) {
        let mut sessions = self.lock();
        let ended = take_ended(&mut sessions);
        sessions.retain(|_, known| known.is_in_use());
        drop(sessions);
        // Not under the lock.
        drop(ended);
    }

    /// All that are promised and not done.
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

    /// Waits until some removals are due.
    pub(in crate::fs) fn wait_for_due(&self) -> Vec<Arc<Removal>> {
        loop {
            let is_nothing = |sessions: &mut HashMap<u64, Known>| {
                let mut removals = sessions.values().filter_map(|known| known.removal.as_ref());
                removals.all(|removal| removal.is_done())
            };
            let waited = self.promised.wait_while(self.lock(), is_nothing);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            let (due, waiting): (Vec<_>, Vec<_>) =
                (self.pending().into_iter()).partition(|removal| removal.is_due());
            if !due.is_empty() {
                return due;
            }
            let askers: Vec<_> = waiting.iter().flat_map(|r| r.askers.pidfds()).collect();
            wait_for_end_of_any(&askers, WATCH_TICK);
        }
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
fn make_room(sessions: &mut HashMap<u64, Known>) -> bool {
    let count = |sessions: &HashMap<u64, Known>| {
        let removals = sessions.values().filter(|known| known.removal.is_some());
        removals.count()
    };
    let kept = count(sessions);
    // Now and then: each that is left keeps descriptors.
    if kept >= CAPACITY || kept >= 16 && kept.is_power_of_two() {
        drop(take_ended(sessions));
        return count(sessions) < CAPACITY;
    }
    true
}

/// The removals that are done, of processes that have ended.
fn take_ended(sessions: &mut HashMap<u64, Known>) -> Vec<Arc<Removal>> {
    let has_ended =
        |removal: &mut Arc<Removal>| removal.is_done() && !removal.askers.is_any_alive();
    let removals = sessions.values_mut();
    removals
        .filter_map(|known| known.removal.take_if(has_ended))
        .collect()
}

#[cfg(test)]
mod tests;
