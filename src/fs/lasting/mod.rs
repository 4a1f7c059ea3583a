//! What the kernel and the callers go on using from one request to the next: nodes,
//! handles and writers. A daemon that takes a mount over has to know all of it, and
//! of nothing else (DESIGN 12). Those who use it are not told where it is kept.

pub(in crate::fs) mod handle;
pub(in crate::fs) mod node;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fs::session::sessions::Sessions;

use self::handle::Handles;
use self::node::{FIRST_WRITER, Nodes};

/// All of it.
#[derive(Debug)]
pub(in crate::fs) struct Lasting {
    /// What the kernel knows of names and files.
    pub(in crate::fs) nodes: Arc<Nodes>,
    /// What is open.
    pub(in crate::fs) handles: Handles,
    /// The sessions with writers or a promised removal.
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

/// Somewhere in the range of writers: a process may hold writers of several
/// mounts, and `/proc` tells them apart by this number.
fn first_writer() -> u64 {
    let random = RandomState::new().hash_one(std::process::id());
    // Half of the range is left to count on.
    FIRST_WRITER + (random & ((1 << 47) - 1))
}
