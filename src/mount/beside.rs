//! Other mounts of the same repository. Writers of two mounts do not wait for each
//! other; DESIGN 2.9 decides between their saves (DESIGN 2.8).

use std::path::{Path, PathBuf};

use super::presence::{self, is_served_by_us};
use super::table::Mount;

/// The mountpoints of the repository's other mounts. `own` is the device of our own
/// mount, once it is made. A mount whose daemon is dead does not count; one with
/// another source (`--fsname`) is not recognized.
pub(super) fn mounts_of(
    repository: &Path,
    own: Option<(u32, u32)>,
    mounts: &[Mount],
) -> Vec<PathBuf> {
    let mut devices: Vec<_> = own.into_iter().collect();
    let mut found = Vec::new();
    for mount in mounts {
        // A mount that is seen in two places counts once.
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
