//! The state of an open directory, and the memory of all of them (DESIGN 13.3).

use std::sync::{Arc, Mutex, Weak};

use crate::fs::listing::pieces::Pieces;
use crate::fs::listing::sorted::Sorted;
use crate::fs::shares::Shares;

/// The memory that listings may take, in bytes: for one user, and for all together.
const OF_USER: u64 = 64 << 20;
const OF_ALL: u64 = 256 << 20;

/// What has been read of an open directory.
#[derive(Debug)]
pub(in crate::fs) enum Listing {
    /// The root's sessions, once reading has begun.
    Root(Option<Arc<Sorted>>),
    /// Any other directory.
    Other(Pieces),
}

/// The memory of all listings.
#[derive(Debug)]
pub(in crate::fs) struct Listings {
    pub(in crate::fs) memory: Arc<Shares>,
    /// The last listing of the root, shared with the next one if that is the same.
    pub(in crate::fs) last: Mutex<Weak<Sorted>>,
}

impl Default for Listings {
    fn default() -> Self {
        Self {
            memory: Shares::new(OF_USER, OF_ALL),
            last: Mutex::default(),
        }
    }
}
