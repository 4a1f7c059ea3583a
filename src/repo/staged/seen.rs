//! The checkpoint that a staged file was begun from, as it was at that time.

use crate::repo::attributes::Own;
use crate::repo::checkpoint::{Checkpoint, FileId};
use crate::sys::Statx;

/// Whose attributes a staged file has, but for what its writer has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nobody's yet.
    Nothing,
    /// Those of a first checkpoint.
    First,
    /// A checkpoint's.
    Checkpoint(Seen),
}

/// A checkpoint as it was at one time: which file, and what a change of its
/// attributes changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    id: FileId,
    born: (i64, u32),
    changed: (i64, u32),
    pub(super) uid: u32,
    pub(super) gid: u32,
    mode: u16,
}

impl Seen {
    pub(super) fn of(stat: &Statx) -> Self {
        let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        Self {
            id: FileId::of(stat),
            born: time(stat.stx_btime),
            changed: time(stat.stx_ctime),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mode: stat.stx_mode,
        }
    }

    /// Whether it belongs to the same user and group, but for what its writer has
    /// given it to.
    pub(super) fn has_owner_of(&self, checkpoint: &Checkpoint, own: &Own) -> bool {
        let now = checkpoint.stat();
        (own.uid || self.uid == now.stx_uid) && (own.gid || self.gid == now.stx_gid)
    }

    /// Whether it is that file, as it is now or as it was.
    pub(super) fn is_of(&self, checkpoint: &Checkpoint) -> bool {
        let other = Self::of(checkpoint.stat());
        self.id == other.id && self.born == other.born
    }
}
