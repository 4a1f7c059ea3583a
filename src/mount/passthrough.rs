//! Whether a mount could let the kernel read files by itself (FUSE passthrough), as far
//! as that is known without a mount.

use std::fs;
use std::os::fd::AsFd;

use crate::sys::{self, CapabilitySet};

/// Why passthrough is not possible for the repository `root`; `None` if no reason is
/// seen. Only a mount can tell for sure.
pub fn obstacle(root: impl AsFd) -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release).is_some_and(|version| version < (6, 9)) {
        return Some("it needs Linux 6.9".to_owned());
    }
    if !sys::is_capable_of(CapabilitySet::SYS_ADMIN) {
        return Some("it needs the capability SYS_ADMIN".to_owned());
    }
    if sys::may_lose_open_files(&root) {
        return Some("a file may be gone before the kernel opens it again".to_owned());
    }
    let stacked = "overlayfs is itself stacked on other filesystems";
    sys::is_overlay(root).then(|| stacked.to_owned())
}

/// The first two numbers of a release of the kernel.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_of_a_kernel_is_taken_apart() {
        assert_eq!(version("6.18.44-fc-v769\n"), Some((6, 18)));
        assert_eq!(version("6.9-rc1"), Some((6, 9)));
        assert_eq!(version("odd"), None);
    }
}
