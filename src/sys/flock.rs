//! flock(2), never waited for.

use std::os::fd::AsFd;

use rustix::fs::FlockOperation;

use super::call::{Call, Result};
use super::defect::{Defect, has};
use super::seam::call;

/// flock(2), exclusive, without waiting: `EWOULDBLOCK` when it is taken.
pub fn try_flock(fd: impl AsFd) -> Result<()> {
    if has(Defect::FlockIgnored) {
        return Ok(());
    }
    call(Call::Flock, || {
        rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive)
    })
}

/// flock(2), shared, without waiting: `EWOULDBLOCK` when it is taken exclusively.
pub fn try_flock_shared(fd: impl AsFd) -> Result<()> {
    call(Call::Flock, || {
        rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockShared)
    })
}
