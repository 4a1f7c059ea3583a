//! How a mount behaves, as its options set it.

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
    /// Whether the kernel reads checkpoints, and reads and writes other files, directly
    /// on the backing filesystem, where that is possible.
    pub passthrough: bool,
    /// How long a writer waits for another one, or for a foreign `session.next`, before
    /// it gets `EBUSY`. Zero: not at all.
    pub lock_wait: Duration,
    /// Whether other users may use the mount; the kernel checks their permissions.
    pub allow_other: bool,
    /// How long the kernel may keep the name of a directory. A directory that has been
    /// replaced meanwhile is noticed when it is used.
    pub entry_timeout: Option<Duration>,
    /// How long the kernel may keep attributes of anything but checkpoints.
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
