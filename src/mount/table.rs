//! The mount that a path is on, among those that this process sees.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};

pub use crate::proc::mountinfo::{Mount, TYPE, read};

/// A path, and the mount that it is on.
#[derive(Debug)]
pub struct Location {
    /// The path without symlinks.
    pub path: PathBuf,
    /// The mount that it is on, unless that is outside this process's root.
    pub mount: Option<Mount>,
}

impl Location {
    /// Finds out where `path` leads without asking the filesystem there, so that it
    /// works for a mount whose daemon is dead or hangs.
    pub fn of(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
        let path = fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()))?;
        let id = mount_id(&fd)?;
        let mount = read()?.into_iter().find(|entry| entry.id == id);
        Ok(Self { path, mount })
    }

    /// The mount whose root directory this is, if it is one.
    pub fn mounted_here(&self) -> Option<&Mount> {
        self.mount
            .as_ref()
            .filter(|entry| entry.mountpoint == self.path)
    }
}

fn mount_id(fd: &OwnedFd) -> io::Result<u64> {
    descriptor_info(fd, "mnt_id:")?
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no mnt_id in fdinfo"))
}

/// The device number of the filesystem that a connection to the kernel serves, where
/// the kernel shows it.
pub fn device_of_connection(connection: &OwnedFd) -> io::Result<Option<(u32, u32)>> {
    let device: Option<u32> = descriptor_info(connection, "fuse_connection:")?;
    // The kernel's own encoding, not that of stat(2).
    Ok(device.map(|device| (device >> 20, device & 0xf_ffff)))
}

fn descriptor_info<T: FromStr>(fd: &OwnedFd, key: &str) -> io::Result<Option<T>> {
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(value_of(&info, key))
}

pub(super) fn value_of<T: FromStr>(info: &str, key: &str) -> Option<T> {
    let value = |line: &str| line.strip_prefix(key)?.trim().parse().ok();
    info.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_a_mount() {
        let root = Location::of(Path::new("/")).unwrap();
        assert_eq!(root.path, Path::new("/"));
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let location = Location::of(&link).unwrap();
        assert_eq!(location.path, dir.path().canonicalize().unwrap());
        assert_eq!(location.mounted_here(), None);
    }
}
