//! Open files and directories: what a file handle stands for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::BackingId;

use super::errno::Result;
use super::listing::Listing;
use super::writer::Writer;
use crate::sys::Errno;

/// What is open.
#[derive(Debug)]
pub(super) enum Handle {
    /// A file of the backing filesystem, a checkpoint for reading among them.
    File {
        file: Arc<OwnedFd>,
        /// A write waits for the disk (`O_SYNC`, `O_DSYNC`).
        is_synced: bool,
        /// Kept for as long as the kernel reads and writes through it.
        _backing: Option<Arc<BackingId>>,
    },
    /// A checkpoint for writing.
    Writer(Arc<Writer>),
    /// A directory.
    Directory(Mutex<Listing>),
    /// The report, as it was when it was opened.
    Report(Vec<u8>),
}

/// All handles.
#[derive(Debug, Default)]
pub(super) struct Handles {
    by_number: Mutex<HashMap<u64, Arc<Handle>>>,
    last: AtomicU64,
}

impl Handles {
    /// A number for a new handle.
    pub(super) fn add(&self, handle: Handle) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut handles = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        handles.insert(number, Arc::new(handle));
        number
    }

    /// The handle of a number; `EBADF` if it was never given out.
    pub(super) fn get(&self, number: u64) -> Result<Arc<Handle>> {
        let handles = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(handles.get(&number).cloned().ok_or(Errno::BADF)?)
    }

    /// Takes a handle out.
    pub(super) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        let mut handles = self
            .by_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        handles.remove(&number)
    }
}
