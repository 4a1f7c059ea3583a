//! sessionfs mounts a repository of saved program sessions, so that every
//! ordinary tool gets saves that are atomic, durable and honest about failure.
//!
//! [`repo`] is the storage as a library, for programs that want it without a
//! mount. The other modules are the program `sessionfs`.

pub mod cli;
mod fs;
mod fuse;
#[cfg(fuzzing)]
pub mod fuzzing;
mod mount;
mod proc;
pub mod repo;
mod sys;

#[cfg(test)]
#[path = "../tests/common/changed.rs"]
mod changed;
