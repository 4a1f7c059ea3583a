//! What small FUSE filesystems have in common that serve the image of a disk.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{FileAttr, FileType, Filesystem, INodeNo, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

/// The image itself, in the root.
pub const IMAGE: INodeNo = INodeNo(2);

/// Nothing of it changes but by its own writes.
pub const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Of a file with this mode and size, or of a directory.
pub fn attributes(ino: INodeNo, file: Option<(u16, u64)>) -> FileAttr {
    let (kind, (perm, size)) = match file {
        Some(file) => (FileType::RegularFile, file),
        None => (FileType::Directory, (0o700, 0)),
    };
    FileAttr {
        ino,
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Mounts it, to be run by whoever asks for it: until it is unmounted, and nobody
/// has the image open any more.
pub fn mount<F: Filesystem>(
    filesystem: F,
    source: &str,
    mountpoint: &Path,
) -> io::Result<Session<F>> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,max_read=1048576\0",
        device.as_raw_fd()
    );
    let data = CStr::from_bytes_with_nul(data.as_bytes()).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(source, mountpoint, "fuse", flags, data)?;
    let config = fuser::Config::default();
    let session = Session::from_fd(filesystem, device, SessionACL::All, config);
    if session.is_err() {
        rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?;
    }
    session
}
