//! sessionfs mounts a repository of saved program sessions, so that every
//! ordinary tool gets saves that are atomic, durable and honest about failure.
//!
//! [`repo`] is the storage as a library, for programs that want it without a
//! mount. The other modules are the program `sessionfs`, which the feature
//! `program` adds. It is on by default; a program that only stores sessions
//! leaves it out, and most packages with it:
//!
//! ```toml
//! sessionfs = { version = "0.1", default-features = false }
//! ```

#![cfg_attr(
    not(feature = "program"),
    allow(
        dead_code,
        unused_imports,
        reason = "the mount uses more of the storage than its public interface shows"
    )
)]

#[cfg(feature = "program")]
pub mod cli;
#[cfg(feature = "program")]
mod fs;
#[cfg(feature = "program")]
mod fuse;
#[cfg(all(feature = "program", fuzzing))]
pub mod fuzzing;
#[cfg(feature = "program")]
mod mount;
#[cfg(feature = "program")]
mod proc;
pub mod repo;
mod sys;

#[cfg(test)]
#[path = "../tests/common/changed.rs"]
mod changed;
