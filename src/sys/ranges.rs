//! Calls on ranges of a file: allocating, punching, finding holes, and copying inside the
//! kernel.

use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::call::{Call, Result};
use super::record::{Change, note};
use super::seam::{call, limit};

/// fallocate(2); `mode`, `offset` and `len` (in bytes) as there.
pub fn allocate(fd: impl AsFd, mode: i32, offset: u64, len: u64) -> Result<()> {
    let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    call(Call::Allocate, || {
        rustix::fs::fallocate(fd.as_fd(), mode, offset, len)
    })?;
    note(|| Change::Inode(fd.as_fd()));
    Ok(())
}

/// What lseek(2) looks for in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// The next data (`SEEK_DATA`).
    Data,
    /// The next hole, or the end of the file (`SEEK_HOLE`).
    Hole,
}

/// lseek(2) for data or a hole, at or after `offset`. Returns its offset, in bytes. The
/// file position that it sets is not used: every read and write gives its own.
///
/// `ENXIO` beyond the end of the file.
pub fn find(fd: impl AsFd, what: Find, offset: u64) -> Result<u64> {
    let to = match what {
        Find::Data => SeekFrom::Data(offset),
        Find::Hole => SeekFrom::Hole(offset),
    };
    call(Call::Seek, || rustix::fs::seek(fd.as_fd(), to))
}

/// copy_file_range(2) of `len` bytes, from and to an offset each. Returns the number of
/// bytes copied, which may be fewer.
///
/// `EOPNOTSUPP` if the filesystem cannot: the caller may then copy by reading and
/// writing.
pub fn copy_range(
    (from, from_at): (impl AsFd, u64),
    (to, to_at): (impl AsFd, u64),
    len: usize,
) -> Result<usize> {
    let (mut from_at, mut to_at) = (from_at, to_at);
    let copied = call(Call::Copy, || {
        rustix::fs::copy_file_range(
            from.as_fd(),
            Some(&mut from_at),
            to.as_fd(),
            Some(&mut to_at),
            limit(len),
        )
    });
    note(|| Change::Inode(to.as_fd()));
    match copied {
        Err(Errno::NOSYS | Errno::XDEV) => Err(Errno::OPNOTSUPP),
        other => other,
    }
}
