//! The threads that take requests: one of them is always free (DESIGN 13.4).
//!
//! Nearly every call can block for as long as it pleases a disk: each on a
//! filesystem that is frozen (fsfreeze(8)) or whose disk does not answer, also
//! close(2), which frees the blocks of a file that was replaced. So a thread
//! that takes a request while all others are inside of one hands it over to a
//! worker, and takes the next.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads there are, and how many are inside of a request.
#[derive(Debug)]
pub(super) struct Threads {
    all: usize,
    inside: AtomicUsize,
}

/// A thread that is inside of a request, until this is dropped.
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Threads);

impl Threads {
    pub(super) fn new(all: usize) -> Self {
        Self {
            all,
            inside: AtomicUsize::new(0),
        }
    }

    /// This thread goes into a request; `None` if no other would be left.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        let before = self.inside.fetch_add(1, Ordering::Relaxed);
        let inside = Inside(self);
        (before + 1 < self.all).then_some(inside)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_13_4_one_thread_stays_free() {
        let threads = Threads::new(3);
        let first = threads.enter();
        let second = threads.enter();
        assert!(first.is_some() && second.is_some());
        assert!(threads.enter().is_none() && threads.enter().is_none());
        drop(first);
        assert!(threads.enter().is_some());
        assert!(Threads::new(1).enter().is_none());
    }
}
