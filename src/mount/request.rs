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
    /// Whether the mountpoint may have something in it.
    pub nonempty: bool,
    /// What the kernel is told.
    pub options: MountOptions,
    /// The number of threads that answer the kernel.
    pub threads: usize,
    /// Whether reads may go past this process.
    pub passthrough: bool,
    /// How long an open for writing waits for another writer.
    pub lock_wait: Duration,
    /// How long the kernel may believe names of directories without asking.
    pub entry_timeout: Option<Duration>,
    /// The same of attributes, of anything but checkpoints.
    pub attr_timeout: Option<Duration>,
    /// What a session without a checkpoint shows.
    pub missing: Missing,
}
