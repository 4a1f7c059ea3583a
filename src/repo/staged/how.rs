//! What a save may replace, and what it makes of it.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::repo::checkpoint::Checkpoint;
use crate::sys::{self, CapabilitySet};

/// Which checkpoint a save may replace.
#[derive(Debug)]
pub enum Base<'a> {
    /// Whatever is there, or nothing.
    Any,
    /// Only the checkpoint that the edit started from; with `None` the save goes
    /// through only if there is no checkpoint. So no update is lost that somebody
    /// else has made meanwhile.
    Only(Option<&'a Checkpoint>),
}

/// Says whether a save with [`Base::Any`] may replace what it was not begun from
/// (DESIGN 13.1). It is asked of the very file that is replaced, while nobody else
/// may save.
pub trait Permit: fmt::Debug {
    /// Whether it may replace the content of this checkpoint.
    ///
    /// # Errors
    /// Why it may not.
    fn may_write(&self, checkpoint: &Checkpoint) -> sys::Result<()>;

    /// Whether it may make a checkpoint in this directory of a session.
    ///
    /// # Errors
    /// Why it may not.
    fn may_create(&self, dir: BorrowedFd<'_>) -> sys::Result<()>;
}

/// The permit of a program that saves for itself: the kernel says what it may.
#[derive(Clone, Copy, Debug)]
pub struct Unasked;

impl Permit for Unasked {
    fn may_write(&self, _: &Checkpoint) -> sys::Result<()> {
        Ok(())
    }

    fn may_create(&self, _: BorrowedFd<'_>) -> sys::Result<()> {
        Ok(())
    }
}

/// What a save has done.
#[derive(Debug)]
pub struct Committed {
    /// The new checkpoint.
    pub new: Checkpoint,
    /// The one it has replaced; `None` if there was none, or if the writer had
    /// removed it before.
    pub replaced: Option<Checkpoint>,
}

/// How a staged file becomes the checkpoint. The default replaces whatever is
/// there and keeps its attributes.
#[derive(Debug)]
pub struct Commit<'a> {
    /// What it may replace.
    pub base: Base<'a>,
    /// What the writer has removed before: if that is what it replaces, it
    /// makes a first checkpoint, and nothing is kept (DESIGN 2.12).
    pub removed: Option<&'a Checkpoint>,
    /// Whether it may replace what it was not begun from.
    pub permit: &'a dyn Permit,
    /// Whether setuid and setgid of the checkpoint survive: a change by somebody
    /// without `CAP_FSETID` takes them off.
    pub keeps_privileges: bool,
    /// Permission bits of a first checkpoint; by default 0644.
    pub first_mode: u32,
    /// What is taken off those, unless the directory has a default ACL.
    pub first_umask: u32,
    /// Owner and group of a first checkpoint; by default the process's own.
    pub first_owner: Option<(u32, u32)>,
}

impl Default for Commit<'_> {
    fn default() -> Self {
        Self {
            base: Base::Any,
            removed: None,
            permit: &Unasked,
            keeps_privileges: sys::is_capable_of(CapabilitySet::FSETID),
            first_mode: 0o644,
            first_umask: sys::umask().unwrap_or(0o077),
            first_owner: None,
        }
    }
}
