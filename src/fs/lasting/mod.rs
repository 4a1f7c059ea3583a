//! What outlives a request: nodes, handles and writers. A daemon that takes over a mount
//! must know all of it, and nothing else (DESIGN 12). Callers do not depend on where it
//! is kept.

pub(in crate::fs) mod handle;
pub(in crate::fs) mod node;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fs::session::sessions::Sessions;

use self::handle::Handles;
use self::node::{FIRST_WRITER, Nodes};

/// All that outlives a request.
#[derive(Debug)]
pub(in crate::fs) struct Lasting {
    /// The nodes that the kernel knows.
    pub(in crate::fs) nodes: Arc<Nodes>,
    /// The open files and directories.
    pub(in crate::fs) handles: Handles,
    /// The sessions with writers or a removal.
    pub(in crate::fs) sessions: Sessions,
    next_writer: AtomicU64,
}

impl Default for Lasting {
    fn default() -> Self {
        Self {
            nodes: Arc::default(),
            handles: Handles::default(),
            sessions: Sessions::default(),
            next_writer: AtomicU64::new(first_writer()),
        }
    }
}

impl Lasting {
    /// The node id of a new writer.
    pub(in crate::fs) fn next_writer(&self) -> u64 {
        self.next_writer.fetch_add(1, Ordering::Relaxed)
    }
}

/// A random id in the range of writers: a process may have writers of several mounts
/// open, and `/proc` tells them apart by this number.
fn first_writer() -> u64 {
    let random = RandomState::new().hash_one(std::process::id());
    // The other half of the range is left to count on.
    FIRST_WRITER + (random & ((1 << 47) - 1))
}
