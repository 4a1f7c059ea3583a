//! The attributes of a file: status, mode, owner, times, extended attributes, and access.

use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, Mode, Statx, StatxFlags, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::call::{Call, Result, stale_if_gone};
use super::defect::{Defect, has};
use super::proc_fd::proc_path;
use super::record::{Change, note};
use super::seam::call;

fn statx_mask() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

/// statx(2) of an open descriptor, also of an `O_PATH` one; `ESTALE` if the file is gone
/// with its name.
pub fn fstat(fd: impl AsFd) -> Result<Statx> {
    stale_if_gone(call(Call::Fstat, || {
        rustix::fs::statx(fd.as_fd(), c"", AtFlags::EMPTY_PATH, statx_mask())
    }))
}

/// statx(2) of a name, without following a symlink.
pub fn stat(dir: impl AsFd, name: &OsStr) -> Result<Statx> {
    call(Call::Stat, || {
        rustix::fs::statx(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW, statx_mask())
    })
}

/// faccessat2(2) of the file of a descriptor, with the effective ids; `mask` as in
/// access(2).
pub fn access(fd: impl AsFd, mask: i32) -> Result<()> {
    let path = proc_path(fd.as_fd());
    let mask = rustix::fs::Access::from_bits_retain(mask.cast_unsigned());
    call(Call::Stat, || {
        rustix::fs::accessat(CWD, &path, mask, AtFlags::EACCESS)
    })
}

/// chmod(2) of the file of a descriptor, also of an `O_PATH` one.
pub fn chmod(fd: impl AsFd, mode: Mode) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::Chmod, || rustix::fs::chmod(&path, mode))?;
    note(|| Change::Inode(fd.as_fd()));
    Ok(())
}

/// fchownat(2) of the file of a descriptor; `None` leaves an id as it is.
pub fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let uid = uid.map(rustix::fs::Uid::from_raw);
    let gid = gid.map(rustix::fs::Gid::from_raw);
    call(Call::Chown, || {
        rustix::fs::chownat(fd.as_fd(), c"", uid, gid, AtFlags::EMPTY_PATH)
    })?;
    note(|| Change::Inode(fd.as_fd()));
    Ok(())
}

/// utimensat(2) of the file of a descriptor, also of an `O_PATH` one.
pub fn futimens(fd: impl AsFd, times: &Timestamps) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::Utimens, || {
        rustix::fs::utimensat(CWD, &path, times, AtFlags::empty())
    })
}

/// The names of the extended attributes of the file of a descriptor.
pub fn list_xattrs(fd: impl AsFd) -> Result<Vec<u8>> {
    let path = proc_path(fd.as_fd());
    grow(|buffer| {
        call(Call::GetXattr, || {
            rustix::fs::listxattr(&path, &mut *buffer)
        })
    })
}

/// The value of an extended attribute of the file of a descriptor; `ENODATA` if there is
/// none.
pub fn get_xattr(fd: impl AsFd, name: &CStr) -> Result<Vec<u8>> {
    let path = proc_path(fd.as_fd());
    grow(|buffer| {
        call(Call::GetXattr, || {
            rustix::fs::getxattr(&path, name, &mut *buffer)
        })
    })
}

/// Calls with a larger buffer as long as the answer is `ERANGE`, up to the kernel's limit
/// of 64 KiB (`XATTR_SIZE_MAX`).
fn grow(mut f: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match f(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 65536 => buffer.resize(65536, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// setxattr(2) of the file of a descriptor.
pub fn set_xattr(fd: impl AsFd, name: &CStr, value: &[u8], flags: XattrFlags) -> Result<()> {
    // For scripts/power-cuts: all attributes but our own mark.
    if has(Defect::AttributesLeftOut) && !name.to_bytes().starts_with(b"user.sessionfs.") {
        return Ok(());
    }
    let path = proc_path(fd.as_fd());
    call(Call::SetXattr, || {
        rustix::fs::setxattr(&path, name, value, flags)
    })?;
    note(|| Change::Inode(fd.as_fd()));
    Ok(())
}

/// removexattr(2) of the file of a descriptor.
pub fn remove_xattr(fd: impl AsFd, name: &CStr) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::SetXattr, || rustix::fs::removexattr(&path, name))?;
    note(|| Change::Inode(fd.as_fd()));
    Ok(())
}
