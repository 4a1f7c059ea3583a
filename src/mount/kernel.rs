//! Mounting and unmounting by the system calls themselves, as root.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::error::{Error, Result, Unmount};
use super::options::MountOptions;

/// The FUSE device.
pub(super) const DEVICE: &str = "/dev/fuse";

/// The message if it is missing.
pub(super) const NO_DEVICE: &str = "the FUSE device /dev/fuse is missing (modprobe fuse)";

/// Mounts, and returns the connection to the kernel.
pub(super) fn mount(
    repository: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<OwnedFd> {
    let cannot = |reason: String| Error::cannot_mount(mountpoint, reason);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = match rustix::fs::open(DEVICE, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => return Err(cannot(NO_DEVICE.into())),
        other => other.map_err(|errno| cannot(format!("{DEVICE}: {}", io::Error::from(errno))))?,
    };
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}{}\0",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        options.data(),
    );
    let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes())
        .map_err(|_| cannot("the mount options contain a NUL".into()))?;
    let (source, kind) = (options.source(repository), options.kind());
    match rustix::mount::mount(source, mountpoint, &*kind, options.flags(), data) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => Err(cannot(
            "not permitted (mounting needs the capability SYS_ADMIN, which a container must be \
             given)"
                .into(),
        )),
        Err(Errno::NODEV) => Err(cannot("the kernel has no FUSE (modprobe fuse)".into())),
        Err(errno) => Err(cannot(io::Error::from(errno).to_string())),
    }
}

/// Remounts by mount(2). FUSE changes nothing but the flags (fuse_reconfigure,
/// fs/fuse/inode.c, Linux 6.18).
pub(super) fn remount(mountpoint: &Path, options: &MountOptions) -> std::result::Result<(), Errno> {
    rustix::mount::mount_remount(mountpoint, options.flags(), c"")
}

/// Unmounts by umount2(2).
pub(super) fn unmount(mountpoint: &Path, lazily: bool) -> std::result::Result<(), Unmount> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if lazily {
        flags |= UnmountFlags::DETACH;
    }
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(Unmount::Busy),
        Err(errno) => Err(Unmount::Failed(io::Error::from(errno).to_string())),
    }
}
