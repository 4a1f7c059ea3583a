//! The names that the kernel gives to open descriptors, in `/proc/self/fd`.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::CWD;

use super::call::{Call, Result};
use super::seam::call;

/// The name by which the kernel leads from a descriptor to its file, for calls that do
/// not take an `O_PATH` descriptor.
pub fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// The present path of the file of a descriptor.
pub fn path_of(fd: impl AsFd) -> Result<CString> {
    let path = proc_path(fd.as_fd());
    call(Call::Open, || {
        rustix::fs::readlinkat(CWD, &path, Vec::new())
    })
}
