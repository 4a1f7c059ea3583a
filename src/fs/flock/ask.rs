//! What flock(2) asks for, and whether it has it.

use crate::fs::request::Caller;

/// What flock(2) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flock {
    /// `LOCK_SH`
    Shared,
    /// `LOCK_EX`
    Exclusive,
    /// `LOCK_UN`
    Unlock,
}

/// A request for a lock, or for its end.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The node of the open file.
    pub node: u64,
    /// Its handle.
    pub handle: u64,
    /// What for.
    pub what: Flock,
    /// Without `LOCK_NB`.
    pub waits: bool,
    /// Who.
    pub caller: Caller,
}

/// Whether a lock has been had at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It has, or has been given back.
    Now,
    /// Somebody else has it: see [`Fs::wait_for_flock`](crate::fs::Fs::wait_for_flock).
    NotYet,
}
