//! The content of a file: reading, writing, copying, and making it durable.

use std::os::fd::{AsFd, BorrowedFd};

#[cfg(feature = "test-switches")]
use super::defect::{Defect, has};
use super::{Call, Change, Errno, Result, call, limit, memory, note};

/// fsync(2). The error of a failed fsync is told once by the kernel: whoever
/// asks again may hear 0 although the data is lost.
pub fn fsync(fd: impl AsFd) -> Result<()> {
    #[cfg(feature = "test-switches")]
    if super::defect::leaves_out_sync(&fd)? {
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
        #[cfg(feature = "test-switches")]
        let made = match made {
            Err(_) if has(Defect::SyncErrorsIgnored) => Ok(()),
            made => made,
        };
        made?;
        note(|| Change::Synced(fd));
        Ok(())
    })
}

/// pread(2), until the buffer is full or the file ends; the bytes read.
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

/// The whole content of a file; `expected` bytes are asked for at first.
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
        #[cfg(feature = "test-switches")]
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
/// `EOPNOTSUPP` where the filesystem cannot.
pub fn clone_file(from: impl AsFd, to: impl AsFd) -> Result<()> {
    call(Call::Copy, || {
        rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())
    })?;
    note(|| Change::Inode(to.as_fd()));
    Ok(())
}

/// Copies the first `len` bytes of `from` into the empty file `to`: by
/// sharing the blocks (`FICLONE`) where the filesystem can, else inside the
/// kernel (copy_file_range(2)), else by reading and writing.
pub fn copy(from: impl AsFd, to: impl AsFd, len: u64) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    if clone_file(&from, &to).is_ok() {
        return set_len(to, len);
    }
    let mut at = 0_u64;
    let (mut from_at, mut to_at);
    while at < len {
        (from_at, to_at) = (at, at);
        let want = usize::try_from((len - at).min(1 << 30)).unwrap_or(1 << 30);
        let copied = call(Call::Copy, || {
            rustix::fs::copy_file_range(
                from.as_fd(),
                Some(&mut from_at),
                to.as_fd(),
                Some(&mut to_at),
                limit(want),
            )
        });
        note(|| Change::Inode(to.as_fd()));
        match copied {
            // The source is shorter than it was: so is the copy. Some
            // filesystems say so of every file; reading tells.
            Ok(0) if at > 0 => return Ok(()),
            Ok(0) => return copy_by_hand(from, to, len),
            Ok(n) => at += n as u64,
            Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP) if at == 0 => {
                return copy_by_hand(from, to, len);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(from: impl AsFd, to: impl AsFd, len: u64) -> Result<()> {
    let mut buffer = memory::block(1 << 20)?;
    buffer.resize(1 << 20, 0);
    let mut at = 0;
    while at < len {
        let n = read_at(&from, &mut buffer, at)?;
        if n == 0 {
            break;
        }
        write_at(&to, &buffer[..n], at)?;
        at += n as u64;
    }
    Ok(())
}
