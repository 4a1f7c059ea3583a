//! An open file as the kernel is told of it, and the meaning of open flags.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use fuser::{BackingId, FopenFlags};

use crate::fs::entry::Entry;

/// Registers a file for passthrough: the kernel reads and writes it by itself.
pub type OpenBacking<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<BackingId>;

/// An open file, for the kernel.
#[derive(Debug)]
pub struct Opened {
    /// The number of its handle.
    pub handle: u64,
    /// How the kernel must treat it.
    pub flags: FopenFlags,
    /// The file that the kernel reads and writes by itself, if it does.
    pub backing: Option<Arc<BackingId>>,
}

/// A new file that has been opened.
#[derive(Debug)]
pub struct Created {
    /// What the kernel is told about its name.
    pub entry: Entry,
    /// Its handle.
    pub opened: Opened,
}

/// The flags of open(2) that are passed on when a file of the backing filesystem is
/// opened.
pub(in crate::fs) const PASSED_ON: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_TRUNC
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_NOATIME;

/// Whether an open with these flags is to change the file: truncating does, whatever the
/// access mode.
pub(in crate::fs) fn changes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

/// Whether a file opened with these flags can only be appended to.
pub(in crate::fs) fn only_appends(flags: i32) -> bool {
    flags & (libc::O_ACCMODE | libc::O_APPEND) == libc::O_WRONLY | libc::O_APPEND
}
