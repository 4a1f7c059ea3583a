//! What the kernel is told of a name, and for how long it may believe it (DESIGN
//! 2.10).

use std::time::Duration;

use fuser::FileAttr;

/// What the kernel is told of a name.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Attributes; the node id is in them.
    pub attr: FileAttr,
    /// Tells inodes of one number apart.
    pub generation: u64,
    /// How long the kernel may believe the name.
    pub entry_ttl: Duration,
    /// How long the kernel may believe the attributes.
    pub attr_ttl: Duration,
}

/// How long the name of a directory may be believed if nobody says.
pub(in crate::fs) const DIRECTORY_TTL: Duration = Duration::from_secs(1);

/// How long what a listing said may be believed: long enough for the `stat`
/// of each entry by the program that lists.
pub(in crate::fs) const LISTING_TTL: Duration = Duration::from_millis(100);
