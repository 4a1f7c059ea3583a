//! Which filesystem a file is on, and how much room it has.

use std::os::fd::AsFd;

use super::call::{Call, Result};
use super::seam::call;

/// Whether a file is on an overlay filesystem; false if unknown.
pub fn is_overlay(fd: impl AsFd) -> bool {
    const OVERLAYFS_SUPER_MAGIC: rustix::fs::FsWord = 0x794c_7630;
    is_on(fd, &[OVERLAYFS_SUPER_MAGIC])
}

/// Whether a file is on a filesystem where an open file may be gone with its name (see
/// [`stale_if_gone`](super::call::stale_if_gone)); false if unknown.
pub fn may_lose_open_files(fd: impl AsFd) -> bool {
    const FUSE_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5546;
    const NFS_SUPER_MAGIC: rustix::fs::FsWord = 0x6969;
    is_on(fd, &[FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC])
}

/// Compares the type of statfs(2).
fn is_on(fd: impl AsFd, types: &[rustix::fs::FsWord]) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|fs| types.contains(&fs.f_type))
}

/// fstatvfs(3), also of an `O_PATH` descriptor
pub fn statvfs(fd: impl AsFd) -> Result<rustix::fs::StatVfs> {
    call(Call::Stat, || rustix::fs::fstatvfs(fd.as_fd()))
}
