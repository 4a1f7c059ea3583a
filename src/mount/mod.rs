//! Mounting a repository, serving it, and unmounting it.
//!
//! fuser's own mount path is not used (DESIGN 7): the mount is made here, and
//! fuser gets the connection.

mod attach;
mod beside;
pub mod daemon;
mod error;
mod fusermount;
mod kernel;
mod options;
#[cfg(any(test, fuzzing))]
pub mod outside_input;
pub mod passthrough;
mod preflight;
mod presence;
mod serve;
mod service;
mod signals;
pub mod status;
mod table;
mod watches;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{Error, Kind, Result};
pub use options::{Access, MountOptions};
pub use preflight::check_repository;
pub use serve::serve;

pub use crate::fs::Missing;
use crate::proc::holders::{holders, in_words};
use attach::Unmount;
use rustix::io::Errno;
use table::Location;

/// What is to be mounted, where and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The repository, absolute. It may be missing.
    pub repository: PathBuf,
    /// The mountpoint, absolute. It is made if it is missing.
    pub mountpoint: PathBuf,
    /// Whether the mountpoint may be a directory that is not empty.
    pub nonempty: bool,
    /// The mount options for the kernel.
    pub options: MountOptions,
    /// The number of threads that answer the kernel.
    pub threads: usize,
    /// Whether the kernel may read and write files without this process (passthrough).
    pub passthrough: bool,
    /// How long a writer waits for another writer (DESIGN 2.8).
    pub lock_wait: Duration,
    /// How long the kernel may cache names of directories.
    pub entry_timeout: Option<Duration>,
    /// How long it may cache attributes, except those of checkpoints.
    pub attr_timeout: Option<Duration>,
    /// What a session without a checkpoint shows.
    pub missing: Missing,
}

/// Unmounts a mount of this program, and waits a few seconds at most for the process
/// that served it to end. `lazily` detaches it at once without waiting, and files that
/// are open in it stay usable.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Refused`] for anything but a mount of this program,
/// [`Kind::Busy`], and [`Kind::Failed`].
pub fn unmount(mountpoint: &Path, lazily: bool) -> Result<()> {
    let cannot = |kind, reason: &str| {
        let message = format!("cannot unmount {}: {reason}", mountpoint.display());
        Err(Error::new(kind, message))
    };
    let location = match Location::of(mountpoint) {
        Ok(location) => location,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return cannot(Kind::NotFound, "there is no such directory");
        }
        Err(e) => return cannot(Kind::Failed, &e.to_string()),
    };
    let device = match (&location.mount, location.mounted_here()) {
        (_, Some(entry)) if is_served_by_us(entry) => entry.device,
        (Some(entry), None) if is_served_by_us(entry) => {
            let reason = format!("it is inside the mount on {}", entry.mountpoint.display());
            return cannot(Kind::Refused, &reason);
        }
        _ => return cannot(Kind::Refused, "it is not a mount of sessionfs"),
    };
    // The serving process is also told which process unmounts, for its log.
    let watch = presence::Watch::of(device);
    if let Some(watch) = &watch {
        watch.announce();
    }
    match attach::unmount(&location.path, lazily) {
        Ok(()) => {
            if !lazily && watch.is_some_and(|watch| !watch.wait()) {
                log::info!(
                    "{}: unmounted, but its background process has not ended yet",
                    mountpoint.display()
                );
            }
            Ok(())
        }
        Err(Unmount::Busy) => cannot(Kind::Busy, &in_use(device)),
        Err(Unmount::Failed(reason)) => cannot(Kind::Failed, &reason),
    }
}

/// Changes the flags of a mount of this program that the kernel keeps: whether it is
/// read-only, whether programs run from it, and whether access times are updated.
///
/// # Errors
/// [`Kind::Refused`] for anything but a mount of this program, and for users other than
/// root; [`Kind::Busy`] if something is open for writing; [`Kind::NotFound`] and
/// [`Kind::Failed`].
pub fn remount(mountpoint: &Path, options: &MountOptions) -> Result<()> {
    let cannot = |kind, reason: &str| {
        let message = format!("cannot remount {}: {reason}", mountpoint.display());
        Err(Error::new(kind, message))
    };
    let location = match Location::of(mountpoint) {
        Ok(location) => location,
        Err(e) => return cannot(Kind::NotFound, &e.to_string()),
    };
    let Some(entry) = location
        .mounted_here()
        .filter(|entry| is_served_by_us(entry))
    else {
        return cannot(Kind::Refused, "it is not a mount of sessionfs");
    };
    match kernel::remount(&location.path, options) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => cannot(Kind::Busy, &in_use(entry.device)),
        Err(Errno::PERM) => cannot(
            Kind::Refused,
            "only root may; unmount it (sessionfs umount) and mount it again",
        ),
        Err(errno) => cannot(Kind::Failed, &io::Error::from(errno).to_string()),
    }
}

/// The repository behind a path, if that is on a mount of this program.
pub fn repository_behind(path: &Path) -> Option<PathBuf> {
    let mount = Location::of(path).ok()?.mount?;
    is_served_by_us(&mount).then(|| mount.source.into())
}

/// A message that a mount is in use, by which processes, and what to do about it.
fn in_use(device: (u32, u32)) -> String {
    let holders = holders(device);
    let advice = "close what is open in it, or detach it with --lazy";
    match &holders[..] {
        // Processes of other users, which we may not see, or that have ended meanwhile.
        [] => format!("it is in use ({advice})"),
        some => format!("it is in use by {} ({advice})", in_words(some)),
    }
}

/// Whether it is a mount of this program: by its type or, if it was given another
/// type, by the process that serves it.
fn is_served_by_us(entry: &table::Entry) -> bool {
    entry.is_ours() || entry.is_fuse() && presence::Watch::of(entry.device).is_some()
}
