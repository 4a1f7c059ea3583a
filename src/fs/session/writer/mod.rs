//! A writer: one open for writing of a checkpoint, from its first change to
//! its last close.
//!
//! Until the first change it shows the checkpoint it started from, and takes
//! nobody's place. The first change takes the session's slot and stages; the
//! last close commits (DESIGN 5), and so does every fsync on the way. What
//! went wrong once stays wrong until the writer begins anew by truncating:
//! a save of which a piece was lost is never published.

mod attributes;
mod authors;
mod close;
mod content;
mod follow;
mod name;
mod saving;
mod staging;
mod state;
mod wait;

pub(in crate::fs) use self::attributes::absent_attr;
pub(in crate::fs) use self::staging::QUICK_COPY;
pub(in crate::fs) use self::state::{Origin, Writer};
pub(in crate::fs) use self::wait::Wait;
