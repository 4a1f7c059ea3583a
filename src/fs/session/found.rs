//! Which threads have just found a file: the first of two names that one call is
//! about (DESIGN 2.11).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Which threads have just found a file, but no directory: a few of them, and for a
/// moment.
#[derive(Debug)]
pub(in crate::fs) struct Found {
    /// A thread and the time, in milliseconds, each.
    slots: [AtomicU64; 64],
    start: Instant,
}

/// How long a call may take from the first of its two names to the second, in
/// milliseconds.
const CALL_TIME: u64 = 1000;

impl Default for Found {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
            start: Instant::now(),
        }
    }
}

impl Found {
    fn slot(&self, tid: u32) -> &AtomicU64 {
        &self.slots[tid as usize % self.slots.len()]
    }

    fn now(&self) -> u64 {
        // Three weeks, and then a year of them.
        self.start.elapsed().as_millis() as u64 & 0xffff_ffff
    }

    pub(in crate::fs) fn note(&self, tid: u32) {
        let value = u64::from(tid) << 32 | self.now();
        self.slot(tid).store(value, Ordering::Relaxed);
    }

    pub(in crate::fs) fn forget(&self, tid: u32) {
        self.slot(tid).store(0, Ordering::Relaxed);
    }

    pub(in crate::fs) fn is_recent(&self, tid: u32) -> bool {
        let value = self.slot(tid).load(Ordering::Relaxed);
        let age = self.now().wrapping_sub(value & 0xffff_ffff);
        tid != 0 && value >> 32 == u64::from(tid) && age <= CALL_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_has_found_is_known_for_a_moment() {
        let found = Found::default();
        found.note(5);
        assert!(found.is_recent(5));
        assert!(!found.is_recent(6) && !found.is_recent(5 + 64));
        found.note(5 + 64);
        assert!(!found.is_recent(5));
        found.forget(5 + 64);
        assert!(!found.is_recent(5 + 64) && !found.is_recent(0));
    }
}
