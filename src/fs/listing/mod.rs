//! Directories: OPENDIR and READDIRPLUS (DESIGN 2.10, 13.3). The root is sorted as a
//! whole; any other directory is read in pieces.

pub(in crate::fs) mod pieces;
pub(in crate::fs) mod read;
pub(in crate::fs) mod sorted;
pub(in crate::fs) mod state;
