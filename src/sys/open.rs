//! Opening: by a name in a directory, by a path below one, and again by a descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::call::{Call, Result, stale_if_gone};
use super::defect::{Defect, has, has_no_tmpfile};
use super::proc_fd::proc_path;
use super::record::{Change, note};
use super::seam::call;

/// openat(2); `O_CLOEXEC` and `O_NOFOLLOW` are always added.
pub fn openat(dir: impl AsFd, name: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let flags = if has(Defect::SymlinksFollowed) {
        flags - OFlags::NOFOLLOW
    } else {
        flags
    };
    let fd = call(Call::Open, || {
        rustix::fs::openat(dir.as_fd(), name, flags, mode)
    })?;
    if flags.contains(OFlags::CREATE) {
        note(|| Change::Created(dir.as_fd(), name));
    }
    if flags.contains(OFlags::TRUNC) {
        note(|| Change::Inode(fd.as_fd()));
    }
    Ok(fd)
}

/// An unnamed file in `dir` (`O_TMPFILE`), readable and writable, mode 0600.
///
/// `EOPNOTSUPP` if the filesystem has no such files.
pub fn open_tmpfile(dir: impl AsFd) -> Result<OwnedFd> {
    if has_no_tmpfile() {
        return Err(Errno::OPNOTSUPP);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = call(Call::OpenTmpfile, || {
        rustix::fs::openat(dir.as_fd(), c".", flags, Mode::RUSR | Mode::WUSR)
    })?;
    note(|| Change::Unnamed(fd.as_fd()));
    Ok(fd)
}

/// Opens a directory for reading its entries, for fsync, and as the base of other calls.
pub fn open_dir(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens the directory at `path`. Only here symlinks are followed, because the user has
/// given the path.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    call(Call::Open, || rustix::fs::open(path, flags, Mode::empty()))
}

/// An `O_PATH` descriptor of `name`, which may be of any type.
pub fn open_path(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    openat(dir, name, OFlags::PATH, Mode::empty())
}

/// openat2(2), Linux 5.6: `path` may have several components, of which none
/// may be a symlink, lead out of `dir` or cross into another mount.
fn open_beneath(dir: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let (resolve, flags) = if has(Defect::SymlinksFollowed) {
        (ResolveFlags::empty(), flags - OFlags::NOFOLLOW)
    } else {
        (resolve, flags)
    };
    call(Call::OpenBeneath, || {
        // EAGAIN: a concurrent rename made the check of ".." inconclusive (openat2(2)).
        // Our paths contain no "..", so this loop ends.
        loop {
            match rustix::fs::openat2(dir.as_fd(), path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    })
}

/// An `O_PATH` descriptor of the directory at `path` below `dir`, as by [`open_beneath`].
/// The path may be longer than the kernel takes at a time (`PATH_MAX`, 4096 bytes), as
/// paths below a working directory can be: then it is walked in pieces.
pub fn open_dir_beneath(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let open = |dir: BorrowedFd<'_>, piece: &[u8]| {
        open_beneath(dir, Path::new(OsStr::from_bytes(piece)), flags)
    };
    let mut rest = path.as_os_str().as_bytes();
    let mut at = None;
    while rest.len() >= libc::PATH_MAX as usize {
        // The kernel itself refuses a name that is too long.
        let end = rest[..libc::PATH_MAX as usize]
            .iter()
            .rposition(|&byte| byte == b'/')
            .ok_or(Errno::NAMETOOLONG)?;
        at = Some(open(
            at.as_ref().map_or(dir.as_fd(), AsFd::as_fd),
            &rest[..end],
        )?);
        rest = &rest[end + 1..];
    }
    open(at.as_ref().map_or(dir.as_fd(), AsFd::as_fd), rest)
}

/// Opens the file of an `O_PATH` descriptor, even if it has no name any more; `ESTALE` if
/// it is gone with its name.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    let path = proc_path(fd.as_fd());
    let opened = call(Call::Reopen, || {
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
    });
    // Unless /proc is missing.
    if opened.is_err() && rustix::fs::readlinkat(CWD, &path, Vec::new()).is_err() {
        return opened;
    }
    stale_if_gone(opened)
}

/// A [`File`] of a descriptor that this module opened.
pub fn into_file(fd: OwnedFd) -> File {
    File::from(fd)
}
