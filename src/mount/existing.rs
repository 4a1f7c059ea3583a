//! Mounts of this program that are there already: unmounting them, changing them, and
//! finding the repository behind one.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::{Error, Kind, Result, Unmount};
use super::options::MountOptions;
use super::presence::is_served_by_us;
use super::table::Location;
use super::{attach, kernel, presence};
use crate::proc::holders::{holders, in_words};

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
