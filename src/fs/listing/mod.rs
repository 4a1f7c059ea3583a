//! Directories: OPENDIR and READDIRPLUS.

pub(in crate::fs) mod pieces;
pub(in crate::fs) mod read;
pub(in crate::fs) mod sorted;
pub(in crate::fs) mod state;
