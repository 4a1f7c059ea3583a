//! The names of the system calls of this folder, and their results.

use std::io;

use rustix::io::Errno;

/// The result of every wrapper.
pub type Result<T> = std::result::Result<T, Errno>;

/// The system calls of this module, as the fault injection of the tests names
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// openat(2)
    Open,
    /// open(2) of the file of a descriptor
    Reopen,
    /// openat(2) with `O_TMPFILE`
    OpenTmpfile,
    /// openat2(2)
    OpenBeneath,
    /// statx(2) of a name, and other calls that only look
    Stat,
    /// statx(2) of the file of a descriptor
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

/// The errno of an [`io::Error`]; `EIO` if it has none.
pub fn errno_of(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// The result of a call on the file of a descriptor. Such a file exists, whatever has
/// become of its names. But filesystems that know files only by their names lose it with
/// the name. Then some answer `ENOENT` (bindfs, and others that use the same part of
/// libfuse) and others `ESTALE` (sshfs; NFS, by its manual), seen on Linux 6.18. Here
/// both become `ESTALE`: that does not mean that there is no such file, and makes the
/// kernel walk the path again.
pub(super) fn stale_if_gone<T>(answer: Result<T>) -> Result<T> {
    answer.map_err(|errno| match errno {
        Errno::NOENT => Errno::STALE,
        errno => errno,
    })
}
