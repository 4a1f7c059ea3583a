//! The checkpoint from which a staged file was begun, as it was at that time.

use crate::repo::attributes::Own;
use crate::repo::checkpoint::{Checkpoint, FileId};
use crate::sys::Statx;

/// Where the attributes of a staged file come from, except those that its writer has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It has none yet.
    Nothing,
    /// Those of a first checkpoint.
    First,
    /// Those of a checkpoint.
    Checkpoint(Seen),
}

/// A checkpoint as it was at one time: which file it was, and the values that change with
/// its attributes.
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

    /// Whether it belongs to the same user and group, except those that its writer has
    /// set.
    pub(super) fn has_owner_of(&self, checkpoint: &Checkpoint, own: &Own) -> bool {
        let now = checkpoint.stat();
        (own.uid || self.uid == now.stx_uid) && (own.gid || self.gid == now.stx_gid)
    }

    /// Whether it is that file, in its present state or the one seen.
    pub(super) fn is_of(&self, checkpoint: &Checkpoint) -> bool {
        let other = Self::of(checkpoint.stat());
        self.id == other.id && self.born == other.born
    }
}
