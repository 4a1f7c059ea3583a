//! How a mount behaves: what its options set.

use std::time::Duration;

/// What a session without a checkpoint shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// An empty `session`.
    #[default]
    Empty,
    /// No `session`.
    Absent,
}

/// How a mount behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Let the kernel read checkpoints, and read and write other files, on the
    /// backing filesystem by itself, where it can and we are allowed to.
    pub passthrough: bool,
    /// How long a writer waits for another one, or for a foreign
    /// `session.next`, before it gets `EBUSY`. Zero: not at all.
    pub lock_wait: Duration,
    /// Other users get in: the kernel checks their permissions.
    pub allow_other: bool,
    /// How long the kernel may believe the name of a directory without asking.
    /// One that has been replaced meanwhile is noticed when it is used.
    pub entry_timeout: Option<Duration>,
    /// How long the kernel may believe attributes of what is no checkpoint.
    pub attr_timeout: Option<Duration>,
    /// What a session without a checkpoint shows.
    pub missing: Missing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            passthrough: true,
            lock_wait: Duration::ZERO,
            allow_other: false,
            entry_timeout: None,
            attr_timeout: None,
            missing: Missing::default(),
        }
    }
}
