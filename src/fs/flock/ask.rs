//! The requests and results of flock(2).

use crate::fs::request::Caller;

/// The operation of flock(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flock {
    /// `LOCK_SH`
    Shared,
    /// `LOCK_EX`
    Exclusive,
    /// `LOCK_UN`
    Unlock,
}

/// A request to lock or unlock.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The node of the open file.
    pub node: u64,
    /// Its handle.
    pub handle: u64,
    /// The operation.
    pub what: Flock,
    /// Called without `LOCK_NB`.
    pub waits: bool,
    /// The caller.
    pub caller: Caller,
}

/// Whether a request could be answered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It is locked, or unlocked.
    Now,
    /// Another handle has the lock: see [`wait_for_flock`](crate::fs::Fs::wait_for_flock).
    NotYet,
}
