//! The kernel's view of a name: attributes, and how long it may keep them (DESIGN 2.10).

use std::time::Duration;

use fuser::FileAttr;

/// What the kernel is told about a name.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Attributes; `ino` is the node id.
    pub attr: FileAttr,
    /// Tells inodes apart that had the same number one after the other.
    pub generation: u64,
    /// How long the kernel may keep the name.
    pub entry_ttl: Duration,
    /// How long the kernel may keep the attributes.
    pub attr_ttl: Duration,
}

/// How long the kernel may keep the name of a directory by default.
pub(in crate::fs) const DIRECTORY_TTL: Duration = Duration::from_secs(1);

/// How long the kernel may keep what a listing said: long enough for the `stat` that the
/// listing program makes of each entry.
pub(in crate::fs) const LISTING_TTL: Duration = Duration::from_millis(100);
