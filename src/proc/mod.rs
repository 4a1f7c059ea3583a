//! What `/proc` tells of processes (DESIGN 5, 6 and 13.2): who holds a file, how a
//! process ends, what it is called for, and what is mounted where.
//!
//! Nothing here waits for another process, and nothing may be read but through
//! `files`, which knows what would.

pub mod ending;
mod files;
pub mod holders;
pub mod identity;
pub mod kin;
pub mod mountinfo;
#[cfg(any(test, fuzzing))]
pub mod outside_input;
pub mod signals;
pub mod status;
pub mod syscall;
pub mod table;

pub use self::files::{File, OutOfExec, read};
