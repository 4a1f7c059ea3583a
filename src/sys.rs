//! Thin wrappers of the system calls that touch a repository: relative to a
//! directory descriptor, never following a symlink, and the one seam where
//! tests inject faults.
//!
//! A call that a signal interrupted is made again: `EINTR` never reaches a
//! caller. Every other errno is passed on as it is.

mod ranges;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use self::ranges::{Find, allocate, copy_range, find};
pub use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Statx, Timestamps, XattrFlags};
use rustix::fs::{FlockOperation, ResolveFlags, StatxFlags};
pub use rustix::io::Errno;

/// What every wrapper answers.
pub type Result<T> = std::result::Result<T, Errno>;

/// The directory descriptor that means "the current directory".
pub const CWD: BorrowedFd<'static> = rustix::fs::CWD;

/// The system calls of this module, as the fault injection of the tests names
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// openat(2)
    Open,
    /// openat(2) with `O_TMPFILE`
    OpenTmpfile,
    /// openat2(2)
    OpenBeneath,
    /// statx(2)
    Stat,
    /// getdents64(2)
    ReadDir,
    /// mkdirat(2)
    Mkdir,
    /// linkat(2)
    Link,
    /// renameat2(2)
    Rename,
    /// unlinkat(2)
    Unlink,
    /// fsync(2)
    Fsync,
    /// pread(2)
    Read,
    /// pwrite(2)
    Write,
    /// ftruncate(2)
    Truncate,
    /// fchmod(2)
    Chmod,
    /// fchown(2)
    Chown,
    /// utimensat(2)
    Utimens,
    /// getxattr(2), listxattr(2)
    GetXattr,
    /// setxattr(2), removexattr(2)
    SetXattr,
    /// flock(2)
    Flock,
    /// ioctl_ficlone(2), copy_file_range(2)
    Copy,
    /// fallocate(2)
    Allocate,
    /// lseek(2)
    Seek,
}

fn call<T>(call: Call, mut f: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        #[cfg(test)]
        let result = fault::next(call).map_or_else(&mut f, Err);
        #[cfg(not(test))]
        let result = {
            let _ = call;
            f()
        };
        match result {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The errno of an [`io::Error`], `EIO` when it carries none.
pub fn errno_of(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// openat(2); `O_CLOEXEC` and `O_NOFOLLOW` are always added.
pub fn openat(dir: impl AsFd, name: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    call(Call::Open, || {
        rustix::fs::openat(dir.as_fd(), name, flags, mode)
    })
}

/// An unnamed file in `dir` (`O_TMPFILE`), readable and writable, mode 0600.
///
/// `EOPNOTSUPP` where the filesystem has no such files.
pub fn open_tmpfile(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    call(Call::OpenTmpfile, || {
        rustix::fs::openat(dir.as_fd(), c".", flags, Mode::RUSR | Mode::WUSR)
    })
}

/// Opens a directory for reading its entries, for fsync and as a base of
/// other calls.
pub fn open_dir(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens the directory at `path`, where alone a symlink is followed: it is
/// the user who says where the repository is.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    call(Call::Open, || rustix::fs::open(path, flags, Mode::empty()))
}

/// A descriptor of whatever `name` is, without opening it (`O_PATH`).
pub fn open_path(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    openat(dir, name, OFlags::PATH, Mode::empty())
}

/// openat2(2), Linux 5.6: `path` may have several components, of which none
/// may be a symlink, lead out of `dir` or cross into another mount.
pub fn open_beneath(dir: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    call(Call::OpenBeneath, || {
        // EAGAIN: a concurrent rename made the check of ".." inconclusive
        // (openat2(2)); there is no ".." in our paths, so asking again ends.
        loop {
            match rustix::fs::openat2(dir.as_fd(), path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    })
}

/// A descriptor (`O_PATH`) of the directory at `path` below `dir`, as of
/// [`open_beneath`]. The path may be longer than the kernel takes at a time
/// (`PATH_MAX`, 4096 bytes), as those below a current directory are: then it
/// is walked in pieces.
pub fn open_dir_beneath(dir: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let open = |dir: BorrowedFd<'_>, piece: &[u8]| {
        open_beneath(dir, Path::new(OsStr::from_bytes(piece)), flags)
    };
    let mut rest = path.as_os_str().as_bytes();
    let mut at = None;
    while rest.len() >= libc::PATH_MAX as usize {
        // Of a name that is too long the kernel tells.
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

/// Opens the very file that an `O_PATH` descriptor holds, even if it has no
/// name any more.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    let path = proc_path(fd.as_fd());
    call(Call::Open, || {
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
    })
}

/// The name under which the kernel follows a descriptor to its file; for the
/// calls that have no form for an `O_PATH` descriptor.
pub fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

fn statx_mask() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

/// statx(2) of an open descriptor, also of an `O_PATH` one.
pub fn fstat(fd: impl AsFd) -> Result<Statx> {
    call(Call::Stat, || {
        rustix::fs::statx(fd.as_fd(), c"", AtFlags::EMPTY_PATH, statx_mask())
    })
}

/// statx(2) of a name; of a symlink itself.
pub fn stat(dir: impl AsFd, name: &OsStr) -> Result<Statx> {
    call(Call::Stat, || {
        rustix::fs::statx(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW, statx_mask())
    })
}

/// The names in a directory but `.` and `..`, in the filesystem's order.
pub fn read_dir(dir: impl AsFd) -> Result<Vec<OsString>> {
    let fd = open_dir(dir, OsStr::new("."))?;
    let mut stream = rustix::fs::Dir::new(fd)?;
    let mut names = Vec::new();
    loop {
        let Some(entry) = call(Call::ReadDir, || stream.next().transpose())? else {
            return Ok(names);
        };
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
}

/// mkdirat(2)
pub fn mkdir(dir: impl AsFd, name: &OsStr, mode: Mode) -> Result<()> {
    call(Call::Mkdir, || rustix::fs::mkdirat(dir.as_fd(), name, mode))
}

/// mknodat(2); type and permissions in `mode`, `rdev` as FUSE carries it
/// (`new_encode_dev`, linux/kdev_t.h)
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
    })
}

/// Gives an unnamed file its name, by way of `/proc`: `AT_EMPTY_PATH` would
/// need `CAP_DAC_READ_SEARCH` (open(2), on `O_TMPFILE`).
pub fn link_fd(fd: impl AsFd, dir: impl AsFd, name: &OsStr) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::Link, || {
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, &path, dir.as_fd(), name, follow)
    })
}

/// renameat2(2)
pub fn rename(
    from_dir: impl AsFd,
    from: &OsStr,
    to_dir: impl AsFd,
    to: &OsStr,
    flags: RenameFlags,
) -> Result<()> {
    call(Call::Rename, || {
        if flags.is_empty() {
            rustix::fs::renameat(from_dir.as_fd(), from, to_dir.as_fd(), to)
        } else {
            rustix::fs::renameat_with(from_dir.as_fd(), from, to_dir.as_fd(), to, flags)
        }
    })
}

/// unlinkat(2) of anything but a directory
pub fn unlink(dir: impl AsFd, name: &OsStr) -> Result<()> {
    call(Call::Unlink, || {
        rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty())
    })
}

/// unlinkat(2) of an empty directory
pub fn rmdir(dir: impl AsFd, name: &OsStr) -> Result<()> {
    call(Call::Unlink, || {
        rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::REMOVEDIR)
    })
}

/// symlinkat(2)
pub fn symlink(target: &OsStr, dir: impl AsFd, name: &OsStr) -> Result<()> {
    call(Call::Link, || {
        rustix::fs::symlinkat(target, dir.as_fd(), name)
    })
}

/// readlinkat(2)
pub fn read_link(dir: impl AsFd, name: &OsStr) -> Result<CString> {
    call(Call::Open, || {
        rustix::fs::readlinkat(dir.as_fd(), name, Vec::new())
    })
}

/// fsync(2). The error of a failed fsync is told once by the kernel: whoever
/// asks again may hear 0 although the data is lost.
pub fn fsync(fd: impl AsFd) -> Result<()> {
    call(Call::Fsync, || rustix::fs::fsync(fd.as_fd()))
}

/// fdatasync(2)
pub fn fdatasync(fd: impl AsFd) -> Result<()> {
    call(Call::Fsync, || rustix::fs::fdatasync(fd.as_fd()))
}

/// pread(2), until the buffer is full or the file ends; the bytes read.
pub fn read_at(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let at = offset + done as u64;
        match call(Call::Read, || rustix::io::pread(fd.as_fd(), &mut *rest, at))? {
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
        match call(Call::Write, || rustix::io::pwrite(fd.as_fd(), rest, at))? {
            0 => return Err(Errno::IO),
            n => done += n,
        }
    }
    Ok(())
}

/// ftruncate(2); `len` in bytes
pub fn set_len(fd: impl AsFd, len: u64) -> Result<()> {
    call(Call::Truncate, || rustix::fs::ftruncate(fd.as_fd(), len))
}

/// Copies the first `len` bytes of `from` into the empty file `to`: by
/// sharing the blocks (`FICLONE`) where the filesystem can, else inside the
/// kernel (copy_file_range(2)), else by reading and writing.
pub fn copy(from: impl AsFd, to: impl AsFd, len: u64) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let clone = call(Call::Copy, || {
        rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())
    });
    if clone.is_ok() {
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
                want,
            )
        });
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
    let mut buffer = vec![0; 1 << 20];
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

/// chmod(2) of what a descriptor holds, also an `O_PATH` one
pub fn chmod(fd: impl AsFd, mode: Mode) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::Chmod, || rustix::fs::chmod(&path, mode))
}

/// fchownat(2) of what a descriptor holds; `None` leaves an id as it is
pub fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let uid = uid.map(rustix::fs::Uid::from_raw);
    let gid = gid.map(rustix::fs::Gid::from_raw);
    call(Call::Chown, || {
        rustix::fs::chownat(fd.as_fd(), c"", uid, gid, AtFlags::EMPTY_PATH)
    })
}

/// utimensat(2) of what a descriptor holds, also an `O_PATH` one
pub fn futimens(fd: impl AsFd, times: &Timestamps) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::Utimens, || {
        rustix::fs::utimensat(CWD, &path, times, AtFlags::empty())
    })
}

/// The names of the extended attributes of what a descriptor holds.
pub fn list_xattrs(fd: impl AsFd) -> Result<Vec<u8>> {
    let path = proc_path(fd.as_fd());
    grow(|buffer| {
        call(Call::GetXattr, || {
            rustix::fs::listxattr(&path, &mut *buffer)
        })
    })
}

/// The value of an extended attribute of what a descriptor holds; `ENODATA`
/// when there is none.
pub fn get_xattr(fd: impl AsFd, name: &CStr) -> Result<Vec<u8>> {
    let path = proc_path(fd.as_fd());
    grow(|buffer| {
        call(Call::GetXattr, || {
            rustix::fs::getxattr(&path, name, &mut *buffer)
        })
    })
}

/// Calls with a larger buffer for as long as the answer is `ERANGE`, up to
/// the kernel's own limit of 64 KiB (`XATTR_SIZE_MAX`).
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

/// setxattr(2) of what a descriptor holds
pub fn set_xattr(fd: impl AsFd, name: &CStr, value: &[u8], flags: XattrFlags) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::SetXattr, || {
        rustix::fs::setxattr(&path, name, value, flags)
    })
}

/// removexattr(2) of what a descriptor holds
pub fn remove_xattr(fd: impl AsFd, name: &CStr) -> Result<()> {
    let path = proc_path(fd.as_fd());
    call(Call::SetXattr, || rustix::fs::removexattr(&path, name))
}

/// flock(2), exclusive, without waiting: `EWOULDBLOCK` when it is taken.
pub fn try_flock(fd: impl AsFd) -> Result<()> {
    call(Call::Flock, || {
        rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive)
    })
}

/// faccessat2(2) of what a descriptor holds, with the effective ids; `mask`
/// as of access(2)
pub fn access(fd: impl AsFd, mask: i32) -> Result<()> {
    let path = proc_path(fd.as_fd());
    let mask = rustix::fs::Access::from_bits_retain(mask.cast_unsigned());
    call(Call::Stat, || {
        rustix::fs::accessat(CWD, &path, mask, AtFlags::EACCESS)
    })
}

/// Where what a descriptor holds is now.
pub fn path_of(fd: impl AsFd) -> Result<CString> {
    let path = proc_path(fd.as_fd());
    call(Call::Open, || {
        rustix::fs::readlinkat(CWD, &path, Vec::new())
    })
}

/// The ids by which the kernel decides what a thread may do with files, and
/// whose the files are that it makes (credentials(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIds {
    /// The filesystem user id.
    pub uid: u32,
    /// The filesystem group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

impl FileIds {
    /// Those that the threads of this process have as long as they do not
    /// [assume](Self::assume) others.
    pub fn of_this_process() -> Result<Self> {
        let groups = rustix::process::getgroups()?;
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
        })
    }

    /// Gives them to this thread, and to no other. A user id that is not 0
    /// takes the capabilities that concern files out of effect, and 0 brings
    /// them back (capabilities(7)).
    ///
    /// `EPERM` for what this process may not have; some of them may be
    /// changed then.
    #[allow(unsafe_code)]
    pub fn assume(&self) -> Result<()> {
        let gid = rustix::fs::Gid::from_raw;
        let groups: Vec<_> = self.groups.iter().copied().map(gid).collect();
        // The system calls themselves are of one thread; setgroups(3) of
        // the C library would change all threads.
        let set_groups = rustix::thread::set_thread_groups(&groups);
        // SAFETY: these calls take and answer integers. They answer the
        // former id, also on failure: whether it has changed is asked for
        // with an id that is none.
        let (uid, gid) = unsafe {
            libc::setfsgid(self.gid);
            libc::setfsuid(self.uid);
            (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
        };
        if (uid.cast_unsigned(), gid.cast_unsigned()) != (self.uid, self.gid) {
            return Err(Errno::PERM);
        }
        set_groups
    }
}

/// fstatvfs(3), also of an `O_PATH` descriptor
pub fn statvfs(fd: impl AsFd) -> Result<rustix::fs::StatVfs> {
    call(Call::Stat, || rustix::fs::fstatvfs(fd.as_fd()))
}

/// A [`File`] of a descriptor that this module opened.
pub fn into_file(fd: OwnedFd) -> File {
    File::from(fd)
}

/// close(2) with its error, for the filesystems that tell of a failed write
/// only then. The descriptor is gone in any case, also after `EINTR`.
#[allow(unsafe_code)]
pub fn close(fd: OwnedFd) -> Result<()> {
    let raw = std::os::fd::IntoRawFd::into_raw_fd(fd);
    // SAFETY: the descriptor was owned, and nobody else has it now.
    match unsafe { libc::close(raw) } {
        0 => Ok(()),
        _ => match errno_of(&io::Error::last_os_error()) {
            Errno::INTR => Ok(()),
            errno => Err(errno),
        },
    }
}

/// A number that tells the inode behind a descriptor from every other that
/// had or will have the same inode number: a digest of its file handle, in
/// which filesystems keep the inode's generation (name_to_handle_at(2)).
///
/// `EOPNOTSUPP` where the filesystem has no file handles.
#[allow(unsafe_code)]
pub fn handle_digest(fd: impl AsFd) -> Result<u64> {
    #[repr(C)]
    struct Handle {
        head: libc::file_handle,
        bytes: [u8; libc::MAX_HANDLE_SZ as usize],
    }
    // SAFETY: a file_handle is two integers and a flexible array of bytes,
    // for which all zeroes is a value.
    let mut handle: Handle = unsafe { std::mem::zeroed() };
    handle.head.handle_bytes = libc::MAX_HANDLE_SZ as libc::c_uint;
    let mut mount_id = 0;
    // SAFETY: the handle has handle_bytes bytes behind its head, the path is
    // a C string, and both pointers outlive the call.
    let result = unsafe {
        libc::name_to_handle_at(
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle.head,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(errno_of(&io::Error::last_os_error()));
    }
    let used = (handle.head.handle_bytes as usize).min(handle.bytes.len());
    let mut digest = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&handle.bytes[..used], &mut digest);
    Ok(std::hash::Hasher::finish(&digest))
}

/// The UTC calendar time of a number of seconds since 1970: year, month (1 to
/// 12), day, hour, minute, second (gmtime_r(3)).
#[allow(unsafe_code)]
pub fn utc(seconds: i64) -> Option<[i32; 6]> {
    // SAFETY: tm is a struct of integers and one pointer, for which all
    // zeroes is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type.
    let result = unsafe { libc::gmtime_r(&raw const seconds, &raw mut tm) };
    (!result.is_null()).then(|| {
        [
            tm.tm_year + 1900,
            tm.tm_mon + 1,
            tm.tm_mday,
            tm.tm_hour,
            tm.tm_min,
            tm.tm_sec,
        ]
    })
}

/// The signals that ask the daemon to end, as a set.
#[allow(unsafe_code)]
fn stop_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is plain integers; sigemptyset initialises it anyway,
    // and neither call keeps the pointer.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks `SIGINT`, `SIGTERM` and `SIGHUP` in this thread and in the threads
/// it starts from now on, so that [`wait_for_stop_signal`] gets them.
#[allow(unsafe_code)]
pub fn block_stop_signals() -> io::Result<()> {
    let set = stop_signals();
    // SAFETY: the set is initialised and outlives the call.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Blocks `SIGXFSZ` in this thread and in the threads it starts: a write
/// beyond the limit of file sizes (`ulimit -f`) fails with `EFBIG`, and does
/// not end the process.
#[allow(unsafe_code)]
pub fn block_file_size_signal() -> io::Result<()> {
    // SAFETY: sigset_t is plain integers; sigemptyset initialises it anyway,
    // and no call keeps a pointer.
    let result = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Waits for one of the blocked signals and answers its number.
#[allow(unsafe_code)]
pub fn wait_for_stop_signal() -> io::Result<i32> {
    let set = stop_signals();
    let mut signal = 0;
    // SAFETY: the set is initialised, and both pointers outlive the call.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(signal),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Has a program that this process starts get none of the descriptors that
/// this process was given itself, but for the standard streams
/// (close_range(2) with `CLOSE_RANGE_CLOEXEC`, Linux 5.11).
#[allow(unsafe_code)]
pub fn keep_descriptors() -> Result<()> {
    let (first, last) = (libc::STDERR_FILENO as libc::c_uint + 1, libc::c_uint::MAX);
    // SAFETY: nothing is closed; a flag of descriptors changes, which matters
    // to execve(2) alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(errno_of(&io::Error::last_os_error())),
    }
}

#[cfg(test)]
pub mod fault {
    //! Makes chosen system calls of this thread fail.

    use std::cell::RefCell;

    use super::{Call, Errno};

    /// Decides for each call, counted from 0 since [`with`] began.
    pub type Plan = Box<dyn FnMut(usize, Call) -> Option<Errno>>;

    thread_local! {
        static STATE: RefCell<Option<(usize, Plan)>> = const { RefCell::new(None) };
    }

    /// Runs `f` with every system call of this thread shown to `plan` first;
    /// a call for which it answers an errno is not made and fails with it.
    pub fn with<T>(plan: Plan, f: impl FnOnce() -> T) -> T {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                STATE.with(|state| state.borrow_mut().take());
            }
        }
        STATE.with(|state| *state.borrow_mut() = Some((0, plan)));
        let _restore = Restore;
        f()
    }

    pub(super) fn next(call: Call) -> Option<Errno> {
        // Taken out while the plan runs: it may make calls of its own.
        let (count, mut plan) = STATE.with(|state| state.borrow_mut().take())?;
        let verdict = plan(count, call);
        STATE.with(|state| *state.borrow_mut() = Some((count + 1, plan)));
        verdict
    }
}
