//! Open files and directories: what a file handle stands for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::BackingId;

use crate::fs::errno::Result;
use crate::fs::listing::state::Listing;
use crate::fs::session::writer::Writer;
use crate::fs::shares::Share;
use crate::sys::Errno;

/// An open file or directory.
#[derive(Debug)]
pub(in crate::fs) enum Handle {
    /// A file of the backing filesystem; also a checkpoint opened for reading.
    File {
        file: Arc<OwnedFd>,
        /// Whether a write waits for the disk (`O_SYNC`, `O_DSYNC`).
        is_synced: bool,
        /// Kept as long as the kernel reads and writes through it.
        _backing: Option<Arc<BackingId>>,
    },
    /// A checkpoint for writing.
    Writer(Arc<Writer>),
    /// A directory.
    Directory(Mutex<Listing>),
    /// The report, as it was at the open.
    Report(Vec<u8>),
}

#[derive(Debug)]
struct Open {
    handle: Arc<Handle>,
    /// Its descriptors in its user's share.
    share: Share,
}

/// All handles.
#[derive(Debug, Default)]
pub(in crate::fs) struct Handles {
    by_number: Mutex<HashMap<u64, Open>>,
    last: AtomicU64,
}

impl Handles {
    /// Adds a handle, with its part of a user's share, and returns its number.
    pub(in crate::fs) fn add(&self, handle: Handle, share: Share) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut handles = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let open = Open {
            handle: Arc::new(handle),
            share,
        };
        handles.insert(number, open);
        number
    }

    /// The handle of a number; `EBADF` if there is none.
    pub(in crate::fs) fn get(&self, number: u64) -> Result<Arc<Handle>> {
        let handles = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let open = handles.get(&number).ok_or(Errno::BADF)?;
        Ok(open.handle.clone())
    }

    /// The user whose share a handle is in.
    pub(in crate::fs) fn user(&self, number: u64) -> Option<u32> {
        let handles = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(handles.get(&number)?.share.user())
    }

    /// Removes a handle.
    pub(in crate::fs) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        let mut handles = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let open = handles.remove(&number)?;
        Some(open.handle)
    }
}
