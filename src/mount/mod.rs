//! Mounting a repository, serving it, and unmounting it.
//!
//! fuser's own mount path is not used (DESIGN 7): the mount is made here, and
//! fuser gets the connection.

mod attach;
mod beside;
pub mod daemon;
mod error;
mod existing;
mod fusermount;
mod kernel;
mod options;
#[cfg(any(test, fuzzing))]
pub mod outside_input;
pub mod passthrough;
mod preflight;
mod presence;
mod request;
mod serve;
mod service;
mod signals;
pub mod status;
mod table;
mod threads;
mod watches;

pub use error::{Error, Kind};
pub use existing::{remount, repository_behind, unmount};
pub use options::{Access, MountOptions};
pub use preflight::check_repository;
pub use request::Request;
pub use serve::serve;

pub use crate::fs::Missing;
