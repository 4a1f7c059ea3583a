//! Counts of saves in progress, for which an orderly end waits, and of changes that wait
//! for another writer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How many changes of one user may wait for another writer, each on a thread of its own.
const MOST_WAITING: usize = 128;

/// Counts of the saves of a mount.
#[derive(Debug, Default)]
pub(in crate::fs) struct Activity {
    counts: Mutex<Counts>,
    /// The number of changes that wait for another writer, by user.
    waiting: Mutex<HashMap<u32, usize>>,
    changed: Condvar,
    is_ending: AtomicBool,
    on_wait: OnceLock<fn(bool)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    staged: usize,
    busy: usize,
}

/// One unit of a count, until it is dropped.
#[derive(Debug)]
pub struct Counted<'a> {
    activity: &'a Activity,
    what: fn(&mut Counts) -> &mut usize,
}

/// A change that waits for another writer; it is counted until this is dropped.
#[derive(Debug)]
pub(in crate::fs) struct WaitingChange<'a> {
    activity: &'a Activity,
    user: u32,
}

impl Activity {
    /// The end of the mount has begun: no change may begin to wait for another writer,
    /// nor go on waiting.
    pub(in crate::fs) fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// Whether the end has begun.
    pub(in crate::fs) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// A writer has unsaved changes from now on.
    pub(in crate::fs) fn staged(&self) {
        self.add(|counts| &mut counts.staged);
    }

    /// Its changes are saved or abandoned.
    pub(in crate::fs) fn settled(&self) {
        self.subtract(|counts| &mut counts.staged);
    }

    /// Something begins that must not be cut off, normally a commit. It ends when the
    /// returned value is dropped.
    pub(in crate::fs) fn busy(&self) -> Counted<'_> {
        self.add(|counts| &mut counts.busy);
        Counted {
            activity: self,
            what: |counts| &mut counts.busy,
        }
    }

    /// The number of writers with unsaved changes, and of things that must not be cut
    /// off.
    pub(in crate::fs) fn now(&self) -> (usize, usize) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.staged, counts.busy)
    }

    /// Sets a function that is told when this thread begins to wait for another writer
    /// (true), and when the wait is over (false).
    pub(in crate::fs) fn on_wait(&self, call: fn(bool)) {
        // It is set only once.
        let _ = self.on_wait.set(call);
    }

    fn tell(&self, waits: bool) {
        if let Some(on_wait) = self.on_wait.get() {
            on_wait(waits);
        }
    }

    /// Counts a change that is about to wait for another writer; `None` if too many of
    /// this user wait already.
    pub(in crate::fs) fn begin_wait(&self, user: u32) -> Option<WaitingChange<'_>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = waiting.entry(user).or_default();
        if *own >= MOST_WAITING {
            return None;
        }
        *own += 1;
        drop(waiting);
        self.tell(true);
        Some(WaitingChange {
            activity: self,
            user,
        })
    }

    /// Waits for the end of all commits, and until `timeout` has passed for the open
    /// writers. Returns whether nothing is left.
    pub(in crate::fs) fn drain(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if counts.staged == 0 && counts.busy == 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && counts.busy == 0 {
                return false;
            }
            // A commit is waited for however long the disk takes.
            let patience = left.max(Duration::from_millis(100));
            (counts, _) = self
                .changed
                .wait_timeout(counts, patience)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, what: fn(&mut Counts) -> &mut usize) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *what(&mut counts) += 1;
    }

    fn subtract(&self, what: fn(&mut Counts) -> &mut usize) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = what(&mut counts);
        *count = count.saturating_sub(1);
        self.changed.notify_all();
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.activity.subtract(self.what);
    }
}

impl Drop for WaitingChange<'_> {
    fn drop(&mut self) {
        self.activity.tell(false);
        let waiting = self.activity.waiting.lock();
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = waiting.get_mut(&self.user) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn rule_13_3_the_waiting_changes_of_one_user_are_bounded_and_others_have_their_own() {
        let activity = Activity::default();
        let mut waiting: Vec<_> = (0..MOST_WAITING)
            .map(|_| activity.begin_wait(7).unwrap())
            .collect();
        assert!(activity.begin_wait(7).is_none());
        let other = activity.begin_wait(8).unwrap();
        waiting.pop();
        waiting.push(activity.begin_wait(7).unwrap());
        assert!(activity.begin_wait(7).is_none());
        drop((waiting, other));
        assert!(activity.waiting.lock().unwrap().is_empty());
    }
}
