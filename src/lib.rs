//! sessionfs mounts a repository of saved program sessions, so that every
//! ordinary tool gets saves that are atomic, durable and honest about failure.
//!
//! [`repo`] is the storage as a library, for programs that want it without a
//! mount. `sessionfs::cli` is the program `sessionfs`, which the feature `program`
//! adds. It is on by default; a program that only stores sessions leaves it out, and
//! most packages with it:
//!
//! ```toml
//! sessionfs = { version = "0.1", default-features = false }
//! ```
//!
//! Four modules hold documents and no code. [`design`] is the contract: comments and
//! tests cite it, "DESIGN 2.3" being rule 3 of its section 2, and "I4" its fourth
//! invariant. [`semantics`] says what programs can rely on and where that ends,
//! [`operation`] how to install, run and watch it, [`homes`] which filesystems a
//! repository may be on.

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
#[doc = include_str!("design.md")]
pub mod design {}
#[cfg(feature = "program")]
mod fs;
#[cfg(feature = "program")]
mod fuse;
#[cfg(all(feature = "program", fuzzing))]
pub mod fuzzing;
#[doc = include_str!("homes.md")]
pub mod homes {}
#[cfg(feature = "program")]
mod mount;
#[doc = include_str!("operation.md")]
pub mod operation {}
#[cfg(feature = "program")]
mod proc;
pub mod repo;
#[doc = include_str!("semantics.md")]
pub mod semantics {}
mod sys;

#[cfg(test)]
#[path = "../tests/common/changed.rs"]
mod changed;
