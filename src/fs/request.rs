//! A request of the kernel: who asks, and whether the answer may take a while
//! (DESIGN 13.2).

use crate::fs::errno::{Fail, Result};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The thread (what FUSE calls the pid); 0 if it is outside of the
    /// daemon's pid namespace.
    pub tid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group, of what it makes.
    pub gid: u32,
}

/// Whether an operation may wait for the disk, a lock or another save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// No: it runs on a thread that takes requests from the kernel.
    None,
    /// Yes: it runs on a thread of its own.
    Wait,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Who asks.
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
    /// For operations that sync, or take long in another way.
    ///
    /// # Errors
    /// [`Fail::WouldBlock`] on a thread that may not wait.
    pub fn must_wait(self) -> Result<()> {
        match self {
            Self::None => Err(Fail::WouldBlock),
            Self::Wait => Ok(()),
        }
    }
}
