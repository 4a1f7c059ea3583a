//! How many saves are under way: what an orderly end waits for; and how many wait
//! for another writer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many changes of one user's writers wait for another writer at the most, each
/// on a thread of its own.
const MOST_WAITING: usize = 512;

/// Counts of saves, shared by all writers of a mount.
#[derive(Debug, Default)]
pub(in crate::fs) struct Activity {
    counts: Mutex<Counts>,
    /// Those who wait for another writer, by user.
    waiting: Mutex<HashMap<u32, usize>>,
    changed: Condvar,
    is_ending: AtomicBool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    staged: usize,
    busy: usize,
}

/// One of the counted, for as long as it lives.
#[derive(Debug)]
pub struct Counted<'a> {
    activity: &'a Activity,
    what: fn(&mut Counts) -> &mut usize,
}

/// A place among those who wait for another writer, for as long as it lives.
#[derive(Debug)]
pub(in crate::fs) struct Place<'a> {
    activity: &'a Activity,
    user: u32,
}

impl Activity {
    /// The end has begun: nobody is to begin a wait for another writer, or to
    /// go on with one.
    pub(in crate::fs) fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// Whether it has.
    pub(in crate::fs) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// A writer has changed something that is not saved.
    pub(in crate::fs) fn staged(&self) {
        self.add(|counts| &mut counts.staged);
    }

    /// It is saved or abandoned.
    pub(in crate::fs) fn settled(&self) {
        self.subtract(|counts| &mut counts.staged);
    }

    /// Something begins that must not be cut off, a commit for the most part;
    /// it ends when the value is dropped.
    pub(in crate::fs) fn busy(&self) -> Counted<'_> {
        self.add(|counts| &mut counts.busy);
        Counted {
            activity: self,
            what: |counts| &mut counts.busy,
        }
    }

    /// The writers that have changed something, and what must not be cut off.
    pub(in crate::fs) fn now(&self) -> (usize, usize) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.staged, counts.busy)
    }

    /// A place for one who is about to wait for another writer; `None` if the user
    /// has no more.
    pub(in crate::fs) fn place(&self, user: u32) -> Option<Place<'_>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = waiting.entry(user).or_default();
        (*own < MOST_WAITING).then(|| {
            *own += 1;
            Place {
                activity: self,
                user,
            }
        })
    }

    /// Waits for the end of all commits, and until `timeout` has passed for
    /// the open writers. Answers whether nothing is left.
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

impl Drop for Place<'_> {
    fn drop(&mut self) {
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
    fn rule_13_3_one_user_has_so_many_places_and_others_have_theirs() {
        let activity = Activity::default();
        let mut places: Vec<_> = (0..MOST_WAITING)
            .map(|_| activity.place(7).unwrap())
            .collect();
        assert!(activity.place(7).is_none());
        let other = activity.place(8).unwrap();
        places.pop();
        places.push(activity.place(7).unwrap());
        assert!(activity.place(7).is_none());
        drop((places, other));
        assert!(activity.waiting.lock().unwrap().is_empty());
    }
}
