//! What a save may replace, and the attributes of its result.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::repo::checkpoint::Checkpoint;
use crate::sys::{self, CapabilitySet};

/// Which checkpoint a save may replace.
#[derive(Debug)]
pub enum Base<'a> {
    /// Any checkpoint, or none.
    Any,
    /// Only the checkpoint that the edit started from; with `None`, the save is made only
    /// if there is no checkpoint. So no update by another program is lost.
    Only(Option<&'a Checkpoint>),
}

/// Decides whether a save with [`Base::Any`] may replace another checkpoint than the one
/// it was begun from (DESIGN 13.1). It is asked about the very file that is replaced,
/// while no other save can be made.
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

/// The permit of a program that saves for itself: the kernel checks what it may do.
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

/// The result of a save.
#[derive(Debug)]
pub struct Committed {
    /// The new checkpoint.
    pub new: Checkpoint,
    /// The checkpoint it has replaced; `None` if there was none, or if the writer had
    /// removed it before.
    pub replaced: Option<Checkpoint>,
}

/// How a staged file becomes the checkpoint. The default replaces any checkpoint, and
/// keeps its attributes.
#[derive(Debug)]
pub struct Commit<'a> {
    /// What it may replace.
    pub base: Base<'a>,
    /// The checkpoint that the writer has removed before: if the save replaces that, it
    /// makes a first checkpoint, and keeps no attributes (DESIGN 2.12).
    pub removed: Option<&'a Checkpoint>,
    /// Decides whether it may replace another checkpoint than the one it was begun from.
    pub permit: &'a dyn Permit,
    /// Whether setuid and setgid of the checkpoint stay: a change by a process without
    /// `CAP_FSETID` removes them.
    pub keeps_privileges: bool,
    /// Permission bits of a first checkpoint; by default 0644.
    pub first_mode: u32,
    /// The bits to remove from those, unless the directory has a default ACL.
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
