//! The names that the kernel gives to open descriptors, in `/proc/self/fd`.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::CWD;

use super::call::{Call, Result};
use super::seam::call;

/// The name under which the kernel follows a descriptor to its file; for the
/// calls that have no form for an `O_PATH` descriptor.
pub fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// Where what a descriptor holds is now.
pub fn path_of(fd: impl AsFd) -> Result<CString> {
    let path = proc_path(fd.as_fd());
    call(Call::Open, || {
        rustix::fs::readlinkat(CWD, &path, Vec::new())
    })
}
