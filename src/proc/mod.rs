//! What `/proc` shows of processes (DESIGN 5, 6 and 13.2): which ones hold a file, how a
//! process ends, which call a thread is in, and what is mounted where.
//!
//! Nothing here waits for another process. Files of a process are read only through
//! `files`, which knows which of them would wait.

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
