//! Ranges of open files: FALLOCATE, LSEEK and COPY_FILE_RANGE. On a writer, FALLOCATE and
//! COPY_FILE_RANGE are changes like a write.
//!
//! Not all calls come here (Linux 6.18, fs/fuse/file.c): for fallocate(2) the kernel
//! answers `EOPNOTSUPP` to all modes but `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE`; for
//! lseek(2) it passes on only `SEEK_DATA` and `SEEK_HOLE`.

use std::os::fd::{AsFd, OwnedFd};

use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::request::{Patience, Request};
use crate::fs::session::writer::QUICK_COPY;
use crate::sys::{self, Errno, Find};

/// The most that one request copies, in bytes: the caller cannot be killed before the
/// answer. A multiple of every block size, so that filesystems can share the blocks.
const MOST_COPIED: u64 = 64 << 20;

/// Errors which mean that the change is not supported here, and nothing went wrong.
const REFUSALS: [i32; 2] = [libc::EOPNOTSUPP, libc::EINVAL];

/// The same for a mere allocation, by which no data can be lost.
const NOT_ALLOCATED: [i32; 5] = [
    libc::EOPNOTSUPP,
    libc::EINVAL,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EFBIG,
];

impl Fs {
    /// Allocates, punches or zeroes a range of an open file: `mode` as in fallocate(2),
    /// `range` an offset and a length in bytes.
    ///
    /// # Errors
    /// `EBUSY` if it is the first change of a checkpoint that another writer
    /// is changing, and those of fallocate(2).
    pub fn fallocate(
        &self,
        handle: u64,
        mode: i32,
        (offset, len): (u64, u64),
        request: Request,
    ) -> Result<()> {
        // Zeroing may write as many bytes.
        must_wait_for(len, request.patience)?;
        match &*self.lasting.handles.get(handle)? {
            Handle::File { file, .. } => Ok(sys::allocate(&**file, mode, offset, len)?),
            Handle::Writer(writer) => {
                let only_allocates = mode & !libc::FALLOC_FL_KEEP_SIZE == 0;
                let harmless: &[i32] = match only_allocates {
                    true => &NOT_ALLOCATED,
                    false => &REFUSALS,
                };
                let kind = (only_allocates, harmless);
                writer.change_range(request.caller.tid, request.patience, kind, |staged| {
                    staged.allocate(mode, offset, len)
                })
            }
            Handle::Report(_) => Err(Errno::OPNOTSUPP.into()),
            Handle::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }

    /// The next data or hole of an open file at or after `offset`, both in bytes;
    /// `whence` as in lseek(2).
    ///
    /// # Errors
    /// `ENXIO` if there is none, and those of lseek(2).
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32, patience: Patience) -> Result<u64> {
        let what = match whence {
            libc::SEEK_DATA => Find::Data,
            libc::SEEK_HOLE => Find::Hole,
            _ => return Err(Errno::INVAL.into()),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        match &*self.lasting.handles.get(handle)? {
            Handle::File { file, .. } => Ok(sys::find(&**file, what, offset)?),
            Handle::Writer(writer) => writer.with_content(patience, |file| {
                Ok(sys::find(file.ok_or(Errno::NXIO)?, what, offset)?)
            }),
            Handle::Report(_) => Err(Errno::OPNOTSUPP.into()),
            Handle::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }

    /// Copies at most `len` bytes from one open file, at an offset, to another. Returns
    /// the number of bytes copied.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the filesystem cannot: the kernel then copies by reading and
    /// writing. `EBUSY` as for [`write`](Self::write), and those of copy_file_range(2).
    pub fn copy_range(
        &self,
        (from, from_at): (u64, u64),
        (to, to_at): (u64, u64),
        len: u64,
        request: Request,
    ) -> Result<u32> {
        must_wait_for(len, request.patience)?;
        // Of two writers only one is locked at a time.
        let source = self.content(from, request.patience)?;
        let Some(source) = source else {
            return Ok(0);
        };
        let source = (source.as_fd(), from_at);
        let len = usize::try_from(len.min(MOST_COPIED)).unwrap_or(usize::MAX);
        let copied = match &*self.lasting.handles.get(to)? {
            Handle::File { file, .. } => sys::copy_range(source, (&**file, to_at), len)?,
            Handle::Writer(writer) => {
                let kind = (false, &REFUSALS[..]);
                writer.change_range(request.caller.tid, request.patience, kind, |staged| {
                    staged.copy_range(source, to_at, len)
                })?
            }
            Handle::Report(_) => return Err(Errno::BADF.into()),
            Handle::Directory(_) => return Err(Errno::ISDIR.into()),
        };
        Ok(u32::try_from(copied).unwrap_or(u32::MAX))
    }

    /// A descriptor of what a handle reads; `None` if there is no content yet.
    fn content(&self, handle: u64, patience: Patience) -> Result<Option<OwnedFd>> {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|e| Fail::from(sys::errno_of(&e)))
        };
        match &*self.lasting.handles.get(handle)? {
            Handle::File { file, .. } => copy(file.as_fd()).map(Some),
            Handle::Writer(writer) => {
                writer.with_content(patience, |file| file.map(copy).transpose())
            }
            Handle::Report(_) => Err(Errno::OPNOTSUPP.into()),
            Handle::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }
}

fn must_wait_for(len: u64, patience: Patience) -> Result<()> {
    if patience == Patience::None && len > QUICK_COPY {
        return Err(Fail::WouldBlock);
    }
    Ok(())
}
