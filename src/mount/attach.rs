//! Mounting and unmounting: by root directly, by others through the helper.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::error::Result;
use super::table::{self, Location};
use super::{fusermount, kernel};

/// Why an unmount failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unmount {
    /// Something in it is open, or somebody's current directory.
    Busy,
    /// For another reason.
    Failed(String),
}

impl fmt::Display for Unmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("it is in use"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mounts on a path without symlinks; answers the connection to the kernel.
pub(super) fn mount(repository: &Path, mountpoint: &Path) -> Result<OwnedFd> {
    if is_root() {
        kernel::mount(repository, mountpoint)
    } else {
        fusermount::mount(repository, mountpoint)
    }
}

/// Unmounts what is on a path without symlinks; `lazily` takes the name away
/// at once, and the rest goes when it is not in use any more.
pub(super) fn unmount(mountpoint: &Path, lazily: bool) -> std::result::Result<(), Unmount> {
    if is_root() {
        kernel::unmount(mountpoint, lazily)
    } else {
        fusermount::unmount(mountpoint, lazily)
    }
}

/// The mount of this process, to be undone wherever it has been moved to, and
/// without touching anybody else's.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    mountpoint: PathBuf,
    /// No other filesystem has it before our connection has ended.
    device: Option<(u32, u32)>,
}

impl Mounted {
    /// What has just been mounted there.
    pub(super) fn new(mountpoint: &Path) -> Self {
        let device = match Location::of(mountpoint) {
            Ok(location) => location.mounted_here().map(|entry| entry.device),
            Err(e) => {
                log::error!("{}: {e}", mountpoint.display());
                None
            }
        };
        if device.is_none() {
            log::error!(
                "{}: the mount is not in /proc/self/mountinfo; it will not be unmounted",
                mountpoint.display()
            );
        }
        Self {
            mountpoint: mountpoint.to_owned(),
            device,
        }
    }

    /// Where it was mounted.
    pub(super) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The number of its device.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        self.device
    }

    /// Unmounts it everywhere. To be called while the connection lives.
    pub(super) fn unmount(&self, lazily: bool) -> std::result::Result<(), Unmount> {
        let entries = table::read().map_err(|e| Unmount::Failed(e.to_string()))?;
        let ours = |entry: &table::Entry| entry.is_ours() && Some(entry.device) == self.device;
        let mut result = Ok(());
        for entry in entries.into_iter().filter(ours) {
            // The name may lead to another mount, which hides ours.
            let visible = Location::of(&entry.mountpoint)
                .is_ok_and(|location| location.mounted_here() == Some(&entry));
            let unmounted = if visible {
                unmount(&entry.mountpoint, lazily)
            } else {
                Err(Unmount::Failed(format!(
                    "another mount hides {}",
                    entry.mountpoint.display()
                )))
            };
            result = result.and(unmounted);
        }
        result
    }

    /// Removes a mount whose connection has ended without an unmount (it was
    /// aborted). Only a dead one is touched: the device's number may belong
    /// to another filesystem by now.
    pub(super) fn remove_if_dead(&self) {
        let dead = Location::of(&self.mountpoint).is_ok_and(|location| {
            let ours = |entry: &table::Entry| entry.is_ours() && Some(entry.device) == self.device;
            location.mounted_here().is_some_and(ours) && is_dead(&self.mountpoint)
        });
        if dead && let Err(why) = unmount(&self.mountpoint, true) {
            log::error!(
                "{}: the dead mount cannot be removed: {why}",
                self.mountpoint.display()
            );
        }
    }
}

/// Whether the daemon of the FUSE filesystem there is gone.
pub(super) fn is_dead(mountpoint: &Path) -> bool {
    use rustix::io::Errno;
    matches!(
        rustix::fs::stat(mountpoint),
        Err(Errno::NOTCONN | Errno::CONNABORTED)
    )
}
