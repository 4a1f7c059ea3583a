//! That a thread has just found a file: it may be the first of two names that one
//! call is about (DESIGN 2.11).

use std::time::{Duration, Instant};

/// How long a call may take from the first of its two names to the second.
const CALL_TIME: Duration = Duration::from_secs(1);

/// When a file, but no directory, was found.
#[derive(Debug, Clone, Copy)]
pub(in crate::fs) struct Found(Instant);

impl Found {
    pub(in crate::fs) fn now() -> Self {
        Self(Instant::now())
    }

    /// Whether the call that found it may still be going on.
    pub(in crate::fs) fn is_recent(self) -> bool {
        self.is_recent_at(Instant::now())
    }

    fn is_recent_at(self, now: Instant) -> bool {
        now.saturating_duration_since(self.0) <= CALL_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_recent_for_a_moment() {
        let found = Found::now();
        assert!(found.is_recent_at(found.0 + CALL_TIME));
        assert!(!found.is_recent_at(found.0 + CALL_TIME + Duration::from_millis(1)));
    }
}
