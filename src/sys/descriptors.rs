//! The descriptors of this process: closing them, and keeping them from other programs.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::call::{Result, errno_of};

/// close(2) with its error, for filesystems that report a failed write only then. The
/// descriptor is gone in any case, even after `EINTR`.
#[allow(unsafe_code)]
pub fn close(fd: OwnedFd) -> Result<()> {
    let raw = std::os::fd::IntoRawFd::into_raw_fd(fd);
    // SAFETY: the descriptor was owned, and is used by nothing else now.
    match unsafe { libc::close(raw) } {
        0 => Ok(()),
        _ => match errno_of(&io::Error::last_os_error()) {
            Errno::INTR => Ok(()),
            errno => Err(errno),
        },
    }
}

/// Gives this thread an empty table of descriptors of its own (close_range(2) with
/// `CLOSE_RANGE_UNSHARE`, Linux 5.9). Any owner of a descriptor that the thread is given
/// must outlive it. The table has no standard streams either: a program that reads our
/// output would otherwise wait for this thread to end.
///
/// For threads that make requests to our own mount. Once a request is read, the thread
/// waits for the answer even under SIGKILL (request_wait_answer, fs/fuse/dev.c, Linux
/// 6.18). If it shared the table, a killed daemon would keep the connection open, and
/// wait for itself for ever.
#[allow(unsafe_code)]
pub fn leave_descriptors() -> Result<()> {
    let (first, last) = (0 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: the caller's thread uses none of them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(errno_of(&io::Error::last_os_error())),
    }
}

/// Keeps programs that this process starts from inheriting the descriptors that it was
/// given itself, except the standard streams (close_range(2) with `CLOSE_RANGE_CLOEXEC`,
/// Linux 5.11).
#[allow(unsafe_code)]
pub fn keep_descriptors() -> Result<()> {
    let (first, last) = (libc::STDERR_FILENO as libc::c_uint + 1, libc::c_uint::MAX);
    // SAFETY: nothing is closed; a flag of descriptors changes, which matters
    // to execve(2) alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(errno_of(&io::Error::last_os_error())),
    }
}
