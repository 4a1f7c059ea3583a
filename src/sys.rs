//! Thin wrappers of the system calls that touch a repository: relative to a
//! directory descriptor, never following a symlink, and the one seam where
//! tests inject faults.
//!
//! A call that a signal interrupted is made again: `EINTR` never reaches a
//! caller. Every other errno is passed on as it is.

mod attributes;
mod content;
#[cfg(any(feature = "test-switches", fuzzing))]
pub mod defect;
mod entries;
#[cfg(test)]
pub mod fault;
pub mod memory;
mod open;
pub mod process;
mod ranges;
pub mod record;
mod status;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

pub use self::attributes::{
    access, chmod, chown, fstat, futimens, get_xattr, list_xattrs, remove_xattr, set_xattr, stat,
    statvfs,
};
pub use self::content::{
    clone_file, copy, fdatasync, fsync, read_at, read_to_end, set_len, write_at,
};
pub use self::entries::{
    PIECE, link_fd, mkdir, mknod, read_dir, read_link, read_names, rename, rmdir, seek_dir,
    symlink, unlink,
};
pub use self::open::{
    into_file, is_nameless, open_dir, open_dir_beneath, open_path, open_root, open_tmpfile, openat,
    path_of, proc_path, reopen,
};
pub use self::ranges::{Find, allocate, copy_range, find};
use self::record::{Change, note};
pub use self::status::{device, is_dir, is_file, is_symlink, modified, system_time};
use rustix::fs::FlockOperation;
pub use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Statx, Timestamps, XattrFlags};
pub use rustix::io::Errno;
pub use rustix::thread::CapabilitySet;

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
    /// open(2) of what a descriptor holds
    Reopen,
    /// openat(2) with `O_TMPFILE`
    OpenTmpfile,
    /// openat2(2)
    OpenBeneath,
    /// statx(2) of a name, and others that only look
    Stat,
    /// statx(2) of what a descriptor holds
    Fstat,
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

/// The answer of a call about what a descriptor holds. That is there, whatever
/// has become of its names; but filesystems that know files by their names only
/// lose it with the name. Some say `ENOENT` then (bindfs, and whatever uses the
/// same part of libfuse) and others `ESTALE` (sshfs; NFS by its manual), seen on
/// Linux 6.18. Both are `ESTALE` from here on: it is not that there is none, and
/// with this errno the kernel looks again by itself.
fn held<T>(answer: Result<T>) -> Result<T> {
    answer.map_err(|errno| match errno {
        Errno::NOENT => Errno::STALE,
        errno => errno,
    })
}

/// How many bytes a call may read or write at once: all of them, unless a test
/// has it cut short.
fn limit(len: usize) -> usize {
    #[cfg(test)]
    return fault::limit(len);
    #[cfg(not(test))]
    len
}

/// The errno of an [`io::Error`], `EIO` when it carries none.
pub fn errno_of(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// flock(2), exclusive, without waiting: `EWOULDBLOCK` when it is taken.
pub fn try_flock(fd: impl AsFd) -> Result<()> {
    #[cfg(feature = "test-switches")]
    if defect::has(defect::Defect::FlockIgnored) {
        return Ok(());
    }
    call(Call::Flock, || {
        rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive)
    })
}

/// flock(2), shared, without waiting: `EWOULDBLOCK` when somebody has it for
/// himself.
pub fn try_flock_shared(fd: impl AsFd) -> Result<()> {
    call(Call::Flock, || {
        rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockShared)
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

/// Whether this thread has a capability in effect (capabilities(7)); not if nobody
/// can tell.
pub fn is_capable_of(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// The umask of this process. umask(2) would change it for a moment, in all
/// threads, so it is taken from `/proc` (Linux 4.7); `None` where that does not tell.
pub fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let umask = lines.find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}

/// Gives up `CAP_SYS_RESOURCE`, in this thread and in those that it starts: it
/// writes beyond quotas and into reserved blocks, whosever the file is
/// (ext4_has_free_clusters, ignore_hardlimit; Linux 6.18).
pub fn obey_limits_of_space() -> Result<()> {
    use rustix::thread::{capabilities, set_capabilities};
    let mut sets = capabilities(None)?;
    for set in [
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.inheritable,
    ] {
        set.remove(CapabilitySet::SYS_RESOURCE);
    }
    set_capabilities(None, sets)
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
pub fn handle_digest(fd: impl AsFd) -> Result<u64> {
    let handle = handle(fd.as_fd(), c"", libc::AT_EMPTY_PATH)?;
    let mut digest = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(handle.used(), &mut digest);
    Ok(std::hash::Hasher::finish(&digest))
}

/// The FUSE node id of the file behind the link `name` in an open `/proc/PID/fd`,
/// which is followed; nobody is asked for it (fuse_encode_fh, fs/fuse/inode.c, Linux
/// 6.18). `None` of a file that cannot be FUSE's.
pub fn fuse_node_at(links: impl AsFd, name: &CStr) -> Result<Option<u64>> {
    /// FILEID_INO64_GEN (include/linux/exportfs.h); xfs has it as well.
    const TYPE: libc::c_int = 0x81;
    let handle = handle(links.as_fd(), name, libc::AT_SYMLINK_FOLLOW)?;
    let words = handle.used().as_chunks().0;
    Ok(match words {
        [high, low, _generation] if handle.head.handle_type == TYPE => {
            let [high, low] = [high, low].map(|word| u64::from(u32::from_ne_bytes(*word)));
            Some(high << 32 | low)
        }
        _ => None,
    })
}

#[repr(C)]
struct Handle {
    head: libc::file_handle,
    bytes: [u8; libc::MAX_HANDLE_SZ as usize],
}

impl Handle {
    fn used(&self) -> &[u8] {
        let used = self.head.handle_bytes as usize;
        self.bytes.get(..used).unwrap_or(&self.bytes)
    }
}

/// name_to_handle_at(2)
#[allow(unsafe_code)]
fn handle(dir: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> Result<Handle> {
    // SAFETY: a file_handle is two integers and a flexible array of bytes,
    // for which all zeroes is a value.
    let mut handle: Handle = unsafe { std::mem::zeroed() };
    handle.head.handle_bytes = libc::MAX_HANDLE_SZ as libc::c_uint;
    let mut mount_id = 0;
    // SAFETY: the handle has handle_bytes bytes behind its head, the path is
    // a C string, and both pointers outlive the call.
    let result = unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw mut handle.head,
            &raw mut mount_id,
            flags,
        )
    };
    if result != 0 {
        return Err(errno_of(&io::Error::last_os_error()));
    }
    Ok(handle)
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
    if result.is_null() {
        return None;
    }
    Some([
        // Of the last years that a tm can hold, the number is too large.
        tm.tm_year.checked_add(1900)?,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
    ])
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

/// Lets `SIGINT`, `SIGTERM` and `SIGHUP` wait until `f` has done its work, and
/// cleaned up after it.
#[allow(unsafe_code)]
pub fn with_stop_signals_held<T>(f: impl FnOnce() -> T) -> io::Result<T> {
    let set = stop_signals();
    let change = |how, to: &libc::sigset_t| {
        // SAFETY: sigset_t is plain integers, for which all zeroes is a value;
        // both sets are live and no call keeps a pointer.
        let (result, before) = unsafe {
            let mut before = std::mem::zeroed();
            let result = libc::pthread_sigmask(how, std::ptr::from_ref(to), &raw mut before);
            (result, before)
        };
        match result {
            0 => Ok(before),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    };
    let before = change(libc::SIG_BLOCK, &set)?;
    let result = f();
    change(libc::SIG_SETMASK, &before)?;
    Ok(result)
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

/// Gives this thread a table of descriptors of its own with none in it
/// (close_range(2) with `CLOSE_RANGE_UNSHARE`, Linux 5.9). Whatever the thread is
/// given that owns a descriptor must outlive it. Not the standard streams either:
/// who reads what this process says would wait for this thread to end.
///
/// For threads that ask our own mount for something: once the request is read, a
/// thread waits for the answer even under SIGKILL (request_wait_answer,
/// fs/fuse/dev.c, Linux 6.18). If it shared the table, a process that is killed
/// would keep the connection open, and wait for itself for ever.
#[allow(unsafe_code)]
pub fn leave_descriptors() -> Result<()> {
    let (first, last) = (0 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: the caller's thread uses none of them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(errno_of(&io::Error::last_os_error())),
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

/// Whether a file is on an overlay filesystem; no, if nobody can tell.
pub fn is_overlay(fd: impl AsFd) -> bool {
    const OVERLAYFS_SUPER_MAGIC: rustix::fs::FsWord = 0x794c_7630;
    is_on(fd, &[OVERLAYFS_SUPER_MAGIC])
}

/// Whether a file is on a filesystem where what is held may be gone with its name
/// (see [`held`]); no, if nobody can tell.
pub fn may_lose_held(fd: impl AsFd) -> bool {
    const FUSE_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5546;
    const NFS_SUPER_MAGIC: rustix::fs::FsWord = 0x6969;
    is_on(fd, &[FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC])
}

/// By the numbers of statfs(2).
fn is_on(fd: impl AsFd, types: &[rustix::fs::FsWord]) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|fs| types.contains(&fs.f_type))
}

/// Whether this process may have so many bytes more (mmap(2), which are given back
/// at once): `ENOMEM` if not. The C library would answer from what it keeps in
/// reserve, of which a new thread gets no stack.
#[allow(unsafe_code)]
fn try_map(bytes: usize) -> Result<()> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    );
    // SAFETY: a new mapping, wherever the kernel puts it, takes nothing away.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(errno_of(&io::Error::last_os_error()));
    }
    // SAFETY: it is that mapping, which nobody has been told of.
    match unsafe { libc::munmap(mapped, bytes) } {
        0 => Ok(()),
        _ => Err(errno_of(&io::Error::last_os_error())),
    }
}

/// Has memory blocks of more than 256 KiB given back to the system when they
/// are freed. The C library otherwise keeps up to twice the largest freed one
/// for each of many arenas (mallopt(3), `M_MMAP_THRESHOLD`, "dynamic"): with
/// pieces of 1 MiB that becomes tens of MiB.
#[allow(unsafe_code)]
pub fn give_large_blocks_back() {
    const LARGE: libc::c_int = 256 << 10;
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a parameter of the allocator; a value that it does not
    // take is ignored.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
    #[cfg(target_env = "gnu")]
    if memory::is_limited() {
        // An arena reserves 64 MiB of addresses, for each thread.
        // SAFETY: as above.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
