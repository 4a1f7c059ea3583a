//! Mounting and unmounting: by root directly, by others through the helper.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::error::{Result, Unmount};
use super::options::MountOptions;
use super::table::{self, Location};
use super::{fusermount, kernel};
use crate::sys;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mounts on a path without symlinks; answers the connection to the kernel.
pub(super) fn mount(
    repository: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<OwnedFd> {
    // With auto_unmount the helper has to outlive this process.
    if is_root() && !options.auto_unmount {
        kernel::mount(repository, mountpoint, options)
    } else {
        fusermount::mount(repository, mountpoint, options)
    }
}

/// Unmounts what is on a path without symlinks. `lazily` detaches it at once; it ends
/// when it is no longer in use.
pub(super) fn unmount(mountpoint: &Path, lazily: bool) -> std::result::Result<(), Unmount> {
    if is_root() {
        kernel::unmount(mountpoint, lazily)
    } else {
        fusermount::unmount(mountpoint, lazily)
    }
}

/// The mount of this process. It can be unmounted wherever it has been moved to,
/// without touching any other mount.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    mountpoint: PathBuf,
    /// The type that it shows.
    kind: OsString,
    /// Its device number; not reused before our connection has ended.
    device: (u32, u32),
    connection: Arc<OwnedFd>,
}

impl Mounted {
    /// The mount that has just been made there, served by this connection.
    pub(super) fn new(
        mountpoint: &Path,
        options: &MountOptions,
        connection: &OwnedFd,
    ) -> io::Result<Self> {
        let device = match table::device_of_connection(connection)? {
            Some(device) => Some(device),
            None => Location::of(mountpoint)?.mounted_here().map(|e| e.device),
        };
        Ok(Self {
            mountpoint: mountpoint.to_owned(),
            kind: options.kind(),
            device: device.ok_or(Errno::NOENT)?,
            connection: Arc::new(connection.try_clone()?),
        })
    }

    /// Where it was mounted.
    pub(super) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The number of its device.
    pub(super) fn device(&self) -> (u32, u32) {
        self.device
    }

    fn is(&self, entry: &table::Mount) -> bool {
        entry.kind == self.kind && entry.device == self.device
    }

    /// Whether it lies on top of another mount of this program, because two were made
    /// at the same time. It is true of the upper one only.
    pub(super) fn is_stacked(&self) -> bool {
        let below = || {
            let entries = table::read().ok()?;
            let ours = |entry: &&table::Mount| entry.kind == self.kind;
            let at_mountpoint = |entry: &&table::Mount| entry.mountpoint == self.mountpoint;
            let device = |entry: &&table::Mount| entry.device == self.device;
            let own = entries.iter().filter(at_mountpoint).find(device)?;
            let mut others = entries.iter().filter(ours).filter(at_mountpoint);
            others.find(|entry| entry.id == own.parent).map(|_| ())
        };
        below().is_some()
    }

    /// Whether it has been unmounted everywhere, or aborted: fuse_dev_poll
    /// (fs/fuse/dev.c, Linux 6.18) says so before the device's number is free.
    fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(&*self.connection, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Unmounts it everywhere; does nothing if it is gone already.
    pub(super) fn unmount(&self, lazily: bool) -> std::result::Result<(), Unmount> {
        let entries = table::read().map_err(|e| Unmount::Failed(e.to_string()))?;
        // Checked after reading the table, so entries with our device are ours.
        if self.has_ended() {
            return Ok(());
        }
        let ours = |entry: &table::Mount| self.is(entry);
        let mut result = Ok(());
        for entry in entries.into_iter().filter(ours) {
            // The path may lead to another mount, which hides ours.
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

    /// Removes the mount if its connection has ended without an unmount (it was
    /// aborted). Only a dead mount is touched, because the device number may belong
    /// to another filesystem by now.
    pub(super) fn remove_if_dead(&self) {
        let dead = Location::of(&self.mountpoint).is_ok_and(|location| {
            let ours = |entry: &table::Mount| self.is(entry);
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

/// To be called by a thread before it asks our own mount for something (DESIGN 7).
pub(super) fn leave_descriptors() -> io::Result<()> {
    match sys::leave_descriptors() {
        // An older kernel, or a filter of system calls. Then a process that is killed
        // while the thread asks may wait for itself.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Looks at the mount with this device, as any program would. To be called from a
/// thread that does not serve it and has called [`leave_descriptors`].
pub(super) fn answer(mountpoint: &Path, device: (u32, u32)) -> io::Result<()> {
    const ATTEMPTS: u32 = 100;
    for _ in 0..ATTEMPTS {
        let looked = rustix::fs::stat(mountpoint).map(drop);
        let dead = matches!(looked, Err(Errno::NOTCONN | Errno::CONNABORTED));
        let ours = Location::of(mountpoint)
            .is_ok_and(|l| l.mounted_here().is_some_and(|e| e.device == device));
        if ours && !dead {
            return Ok(looked?);
        }
        // Another mount lay on top for a moment, or has left its remains.
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Errno::NOTCONN.into())
}

/// Whether the daemon of the FUSE filesystem there is gone.
pub(super) fn is_dead(mountpoint: &Path) -> bool {
    matches!(
        rustix::fs::stat(mountpoint),
        Err(Errno::NOTCONN | Errno::CONNABORTED)
    )
}
