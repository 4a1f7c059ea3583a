//! Other mounts of one repository: between two of them nobody waits for the other,
//! and the save that ends first counts (DESIGN 2.8 and 2.9).

use std::path::{Path, PathBuf};

use super::presence::{self, is_served_by_us};
use super::table::Entry;

/// Where else a repository is mounted, among these mounts; `own` is the device of
/// the mount itself, once it is made. One whose daemon is dead saves nothing, and
/// one that shows another source (`--fsname`) is not known by it.
pub(super) fn mounts_of(
    repository: &Path,
    own: Option<(u32, u32)>,
    mounts: &[Entry],
) -> Vec<PathBuf> {
    let mut devices: Vec<_> = own.into_iter().collect();
    let mut found = Vec::new();
    for mount in mounts {
        // One mount that is seen in two places is one.
        if mount.source == repository.as_os_str()
            && !devices.contains(&mount.device)
            && is_served_by_us(mount)
            && presence::Watch::of(mount.device).is_some()
        {
            devices.push(mount.device);
            found.push(mount.mountpoint.clone());
        }
    }
    found
}
