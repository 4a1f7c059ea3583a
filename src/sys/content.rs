//! The content of a file: reading, writing, copying, and making it durable.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::call::{Call, Result};
use super::defect::{Defect, has, leaves_out_sync};
use super::memory;
use super::ranges::{Find, find};
use super::record::{Change, note};
use super::seam::{call, limit};

/// fsync(2). The kernel reports a failure only once: a second call may return 0 although
/// the data is lost.
pub fn fsync(fd: impl AsFd) -> Result<()> {
    if leaves_out_sync(&fd)? {
        return Ok(());
    }
    sync(fd.as_fd(), |fd| rustix::fs::fsync(fd))
}

/// fdatasync(2)
pub fn fdatasync(fd: impl AsFd) -> Result<()> {
    sync(fd.as_fd(), |fd| rustix::fs::fdatasync(fd))
}

fn sync(fd: BorrowedFd<'_>, make: impl Fn(BorrowedFd<'_>) -> Result<()>) -> Result<()> {
    call(Call::Fsync, || {
        #[cfg(test)]
        if super::fault::is_sync_left_out() {
            return Ok(());
        }
        let made = make(fd);
        let made = match made {
            Err(_) if has(Defect::SyncErrorsIgnored) => Ok(()),
            made => made,
        };
        made?;
        note(|| Change::Synced(fd));
        Ok(())
    })
}

/// pread(2), until the buffer is full or the file ends. Returns the number of bytes.
pub fn read_at(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let at = offset + done as u64;
        let read = call(Call::Read, || {
            let len = limit(rest.len());
            rustix::io::pread(fd.as_fd(), &mut rest[..len], at)
        });
        match read? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// The whole content of a file; its expected size is read first.
pub fn read_to_end(fd: impl AsFd, expected: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more, so that a file of that size ends in the first round.
    let mut want = usize::try_from(expected).map_err(|_| Errno::FBIG)? + 1;
    loop {
        let at = bytes.len();
        bytes.try_reserve(want).map_err(|_| Errno::NOMEM)?;
        bytes.resize(at + want, 0);
        let n = read_at(&fd, &mut bytes[at..], at as u64)?;
        bytes.truncate(at + n);
        if n < want {
            return Ok(bytes);
        }
        want = 1 << 16;
    }
}

/// pwrite(2) of the whole buffer.
pub fn write_at(fd: impl AsFd, buffer: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &buffer[done..];
        let at = offset + done as u64;
        let written = call(Call::Write, || {
            rustix::io::pwrite(fd.as_fd(), &rest[..limit(rest.len())], at)
        });
        let written = match written {
            Err(_) if has(Defect::WriteErrorsIgnored) => Ok(rest.len()),
            written => written,
        };
        match written? {
            0 => return Err(Errno::IO),
            n => done += n,
        }
        note(|| Change::Inode(fd.as_fd()));
    }
    Ok(())
}

/// ftruncate(2); `len` in bytes
pub fn set_len(fd: impl AsFd, len: u64) -> Result<()> {
    call(Call::Truncate, || rustix::fs::ftruncate(fd.as_fd(), len))?;
    note(|| Change::Inode(fd.as_fd()));
    Ok(())
}

/// Shares the blocks of the whole file `from` with `to` (ioctl_ficlone(2)).
///
/// `EOPNOTSUPP` if the filesystem cannot do it.
pub fn clone_file(from: impl AsFd, to: impl AsFd) -> Result<()> {
    call(Call::Copy, || {
        rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())
    })?;
    note(|| Change::Inode(to.as_fd()));
    Ok(())
}

/// The most bytes that are copied before `goes_on` is asked again. A multiple of every
/// block size.
const PIECE: u64 = 64 << 20;

/// Copies the first `len` bytes of `from` into the empty file `to`: by sharing the blocks
/// (`FICLONE`) if the filesystem can, otherwise inside the kernel (copy_file_range(2)),
/// otherwise by reading and writing. If `from` `has_holes`, they are left out.
///
/// `EINTR` if `goes_on` returns false.
pub fn copy(
    from: impl AsFd,
    to: impl AsFd,
    len: u64,
    has_holes: bool,
    goes_on: &dyn Fn() -> bool,
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    if clone_file(&from, &to).is_ok() {
        return set_len(to, len);
    }
    let mut copy = Copy {
        from: from.as_fd(),
        to: to.as_fd(),
        is_by_hand: false,
        goes_on,
    };
    if !has_holes {
        return copy.range(0, len).map(drop);
    }
    let mut at = 0;
    while at < len {
        // If the filesystem does not know, the rest is data.
        let hole = find(&from, Find::Hole, at).map_or(len, |hole| hole.min(len));
        if hole > at {
            let done = copy.range(at, hole)?;
            if done < hole {
                return set_len(to, done);
            }
            at = hole;
            continue;
        }
        match find(&from, Find::Data, at) {
            Ok(data) if data > at => at = data.min(len),
            // A hole up to the end.
            Err(Errno::NXIO) => break,
            _ => {
                let done = copy.range(at, len)?;
                return set_len(to, done);
            }
        }
    }
    set_len(to, len)
}

/// A copy in progress.
struct Copy<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// Whether the kernel cannot do it, so that it is read and written here.
    is_by_hand: bool,
    goes_on: &'a dyn Fn() -> bool,
}

impl Copy<'_> {
    /// Copies a range. Returns its end, which is lower if the source has become shorter.
    fn range(&mut self, start: u64, end: u64) -> Result<u64> {
        let mut at = start;
        while at < end {
            if at > start && !(self.goes_on)() {
                return Err(Errno::INTR);
            }
            let want = (end - at).min(PIECE);
            let copied = if self.is_by_hand {
                self.by_hand(at, want)
            } else {
                self.in_the_kernel(at, want)
            };
            match copied? {
                0 => break,
                n => at += n,
            }
        }
        Ok(at)
    }

    fn in_the_kernel(&mut self, at: u64, want: u64) -> Result<u64> {
        let (mut from_at, mut to_at) = (at, at);
        let copied = call(Call::Copy, || {
            rustix::fs::copy_file_range(
                self.from,
                Some(&mut from_at),
                self.to,
                Some(&mut to_at),
                limit(usize::try_from(want).unwrap_or(usize::MAX)),
            )
        });
        note(|| Change::Inode(self.to));
        match copied {
            // The end, or a filesystem that answers so for every file: reading will show.
            Ok(0) | Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP) => {
                self.is_by_hand = true;
                self.by_hand(at, want)
            }
            other => Ok(other? as u64),
        }
    }

    fn by_hand(&self, at: u64, want: u64) -> Result<u64> {
        const BLOCK: usize = 1 << 20;
        let len = usize::try_from(want).map_or(BLOCK, |want| want.min(BLOCK));
        let mut buffer = memory::block(len)?;
        buffer.resize(len, 0);
        let n = read_at(self.from, &mut buffer, at)?;
        write_at(self.to, &buffer[..n], at)?;
        Ok(n as u64)
    }
}
