//! What is asked of a mount.

use std::path::PathBuf;
use std::time::Duration;

use super::options::MountOptions;
use crate::fs::Missing;

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
