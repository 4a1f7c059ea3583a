//! A writer: one open for writing of a checkpoint, from its first change to
//! its last close.
//!
//! Until its first change it shows the checkpoint it started from, and keeps no other
//! writer out. The first change takes the session's slot and stages. The last close
//! commits (DESIGN 5), and so does every fsync before. After an error the writer keeps
//! failing until it starts afresh by truncating to 0: a save that lacks a piece is never
//! published.

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

pub(in crate::fs) use self::attributes::{absent_attr, shown_as_own};
pub(in crate::fs) use self::staging::QUICK_COPY;
pub(in crate::fs) use self::state::{Origin, Writer};
pub(in crate::fs) use self::wait::Wait;
