//! How many saves are under way: what an orderly end waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts of saves, shared by all writers of a mount.
#[derive(Debug, Default)]
pub(super) struct Activity {
    counts: Mutex<Counts>,
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

impl Activity {
    /// The end has begun: nobody is to begin a wait for another writer, or to
    /// go on with one.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// Whether it has.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// A writer has changed something that is not saved.
    pub(super) fn staged(&self) {
        self.add(|counts| &mut counts.staged);
    }

    /// It is saved or abandoned.
    pub(super) fn settled(&self) {
        self.subtract(|counts| &mut counts.staged);
    }

    /// Something begins that must not be cut off, a commit for the most part;
    /// it ends when the value is dropped.
    pub(super) fn busy(&self) -> Counted<'_> {
        self.add(|counts| &mut counts.busy);
        Counted {
            activity: self,
            what: |counts| &mut counts.busy,
        }
    }

    /// The writers that have changed something, and what must not be cut off.
    pub(super) fn now(&self) -> (usize, usize) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.staged, counts.busy)
    }

    /// Waits for the end of all commits, and until `timeout` has passed for
    /// the open writers. Answers whether nothing is left.
    pub(super) fn drain(&self, timeout: Duration) -> bool {
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
