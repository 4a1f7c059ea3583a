//! The entries of a directory: reading, making, renaming and removing them.

use std::ffi::{CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, Mode, RawDir, RenameFlags, SeekFrom, Statx};
use rustix::io::Errno;

use super::attributes::{fstat, stat};
use super::call::{Call, Result};
use super::defect::{Defect, has};
use super::memory;
use super::open::open_dir;
use super::proc_fd::{path_of, proc_path};
use super::record::{Change, note};
use super::seam::call;

/// The names in a directory, without `.` and `..`, in the filesystem's order.
pub fn read_dir(dir: impl AsFd) -> Result<Vec<OsString>> {
    let fd = open_dir(dir, OsStr::new("."))?;
    let mut stream = rustix::fs::Dir::new(fd)?;
    let mut names = Vec::new();
    loop {
        let Some(entry) = call(Call::ReadDir, || stream.next().transpose())? else {
            return Ok(names);
        };
        // The number of names that a request may remember before it asks again.
        if names.len().is_multiple_of(1024) {
            memory::require_room()?;
        }
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
}

/// How much of a directory is read at a time by [`read_names`], in bytes.
pub const PIECE: usize = 1 << 10;

/// The next names in an open directory, including `.` and `..`, from the position of its
/// descriptor on: as many as one getdents64(2) of [`PIECE`] bytes returns, each with the
/// position after it. Returns whether there are any. An error of `each` ends it.
pub fn read_names(dir: impl AsFd, mut each: impl FnMut(&OsStr, u64) -> Result<()>) -> Result<bool> {
    let mut piece = [MaybeUninit::uninit(); PIECE];
    let mut entries = RawDir::new(dir, &mut piece);
    let mut any = false;
    while !any || !entries.is_buffer_empty() {
        // Only the first call reads from the kernel; the others take from the piece.
        let is_end = call(Call::ReadDir, || match entries.next() {
            None => Ok(true),
            Some(Err(errno)) => Err(errno),
            Some(Ok(entry)) => {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                each(name, entry.next_entry_cookie())?;
                Ok(false)
            }
        })?;
        if is_end {
            return Ok(any);
        }
        any = true;
    }
    Ok(true)
}

/// Sets the position at which the next [`read_names`] begins.
pub fn seek_dir(dir: impl AsFd, place: u64) -> Result<()> {
    call(Call::ReadDir, || {
        rustix::fs::seek(dir.as_fd(), SeekFrom::Start(place)).map(drop)
    })
}

/// mkdirat(2)
pub fn mkdir(dir: impl AsFd, name: &OsStr, mode: Mode) -> Result<()> {
    call(Call::Mkdir, || rustix::fs::mkdirat(dir.as_fd(), name, mode))?;
    note(|| Change::Created(dir.as_fd(), name));
    Ok(())
}

/// mknodat(2); type and permissions in `mode`, `rdev` in the encoding of FUSE
/// (`new_encode_dev`, linux/kdev_t.h).
pub fn mknod(dir: impl AsFd, name: &OsStr, mode: u32, rdev: u32) -> Result<()> {
    let kind = rustix::fs::FileType::from_raw_mode(mode);
    let mode = Mode::from_raw_mode(mode & 0o7777);
    let major = (rdev & 0xf_ff00) >> 8;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00);
    call(Call::Mkdir, || {
        rustix::fs::mknodat(
            dir.as_fd(),
            name,
            kind,
            mode,
            rustix::fs::makedev(major, minor),
        )
    })?;
    note(|| Change::Created(dir.as_fd(), name));
    Ok(())
}

/// Gives an unnamed file its name, through `/proc`: `AT_EMPTY_PATH` would need
/// `CAP_DAC_READ_SEARCH` (open(2), on `O_TMPFILE`).
pub fn link_fd(fd: impl AsFd, dir: impl AsFd, name: &OsStr) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::Link, || {
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, &path, dir.as_fd(), name, follow)
    })?;
    note(|| Change::Linked(dir.as_fd(), name));
    Ok(())
}

/// renameat2(2)
pub fn rename(
    from_dir: impl AsFd,
    from: &OsStr,
    to_dir: impl AsFd,
    to: &OsStr,
    flags: RenameFlags,
) -> Result<()> {
    if has(Defect::RenameInTwoSteps) && flags.is_empty() {
        match unlink(&to_dir, to) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    #[cfg(feature = "test-switches")]
    let _late = super::late_attributes::LateAttributes::of((&from_dir, from), to)?;
    call(Call::Rename, || {
        if flags.is_empty() {
            rustix::fs::renameat(from_dir.as_fd(), from, to_dir.as_fd(), to)
        } else {
            rustix::fs::renameat_with(from_dir.as_fd(), from, to_dir.as_fd(), to, flags)
        }
    })?;
    note(|| Change::Renamed {
        from: (from_dir.as_fd(), from),
        to: (to_dir.as_fd(), to),
        exchange: flags.contains(RenameFlags::EXCHANGE),
    });
    Ok(())
}

/// unlinkat(2) of anything but a directory
pub fn unlink(dir: impl AsFd, name: &OsStr) -> Result<()> {
    call(Call::Unlink, || {
        rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty())
    })?;
    note(|| Change::Removed(dir.as_fd(), name));
    Ok(())
}

/// unlinkat(2) of an empty directory
pub fn rmdir(dir: impl AsFd, name: &OsStr) -> Result<()> {
    call(Call::Unlink, || {
        rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::REMOVEDIR)
    })?;
    note(|| Change::Removed(dir.as_fd(), name));
    Ok(())
}

/// symlinkat(2)
pub fn symlink(target: &OsStr, dir: impl AsFd, name: &OsStr) -> Result<()> {
    call(Call::Link, || {
        rustix::fs::symlinkat(target, dir.as_fd(), name)
    })?;
    note(|| Change::Created(dir.as_fd(), name));
    Ok(())
}

/// readlinkat(2)
pub fn read_link(dir: impl AsFd, name: &OsStr) -> Result<CString> {
    call(Call::Open, || {
        rustix::fs::readlinkat(dir.as_fd(), name, Vec::new())
    })
}

/// Whether a directory has lost its name. For overlayfs, where the link count of a
/// directory that is in both layers is always one, even after its removal (Linux 6.18):
/// only its name in `/proc` shows it (proc_pid_fd(5)).
pub fn is_nameless(dir: impl AsFd) -> Result<bool> {
    let path = path_of(&dir)?;
    if !path.to_bytes().ends_with(b" (deleted)") {
        return Ok(false);
    }
    // The directory may really have such a name.
    let here = fstat(&dir)?;
    let id = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    match stat(CWD, OsStr::from_bytes(path.to_bytes())) {
        Ok(there) => Ok(id(&there) != id(&here)),
        Err(_) => Ok(true),
    }
}
