//! A directory of the backing filesystem.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::sys::Statx;

/// A directory of the backing filesystem, opened anew for each use.
pub(in crate::fs) struct Dir {
    pub(in crate::fs) fd: Arc<OwnedFd>,
    pub(in crate::fs) stat: Statx,
}
