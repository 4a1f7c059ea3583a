//! A request of the kernel: its caller, and whether the answer may take long (DESIGN
//! 13.2).

use crate::fs::errno::{Fail, Result};

/// The thread that has made a system call, and its ids.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The thread id (which FUSE calls the pid); 0 if it is outside the daemon's pid
    /// namespace.
    pub tid: u32,
    /// Its user id.
    pub uid: u32,
    /// Its group id, which files it makes get.
    pub gid: u32,
}

/// Whether an operation may wait for the disk, a lock or another save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// No: it runs on a thread that takes requests from the kernel.
    None,
    /// Yes: it runs on a worker thread.
    Wait,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The caller.
    pub caller: Caller,
    /// Whether this attempt may wait.
    pub patience: Patience,
}

impl Caller {
    /// A request of this caller.
    pub fn with(self, patience: Patience) -> Request {
        Request {
            caller: self,
            patience,
        }
    }
}

impl Patience {
    /// For operations that sync, or take long for another reason.
    ///
    /// # Errors
    /// [`Fail::WouldBlock`] on a thread that must not wait.
    pub fn must_wait(self) -> Result<()> {
        match self {
            Self::None => Err(Fail::WouldBlock),
            Self::Wait => Ok(()),
        }
    }
}
