//! The storage: a repository of sessions, and saves that are atomic, durable
//! and honest about failure. A plain library: it needs no mount.
//!
//! A *repository* is a directory of *sessions*, which are directories called
//! `ID.session`. Each session holds its *checkpoint*, a file `session` with what
//! its program has saved last, and whatever else the program keeps there. The
//! format on disk is that of Checkbox and plainbox: they and this library may use
//! one repository at the same time.
//!
//! A save is *staged*: it is written to another file, which then takes the place of
//! the checkpoint by a rename. A reader sees the old checkpoint or the new one, and
//! never a part of one. When a save returns `Ok`, the new checkpoint survives a power
//! cut; when it returns an [`Error`], the old one is untouched
//! (but see [`Kind::NotDurable`]).
//!
//! While a save is being published, its file is called `session.next`. That is the lock
//! of the session: as long as there is one, no other save can be made ([`Kind::Locked`]).
//! If a killed program has left it behind, the next save removes it if this library made
//! it; otherwise [`Session::break_lock`] does.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use sessionfs::repo::Repository;
//!
//! let repository = Repository::new(dir.path().join("sessions"));
//! assert!(repository.list()?.is_empty(), "a missing repository is empty");
//!
//! let session = repository.create("demo-")?;
//! session.save(b"{}")?;
//! assert_eq!(session.load()?, b"{}");
//!
//! let [entry] = &repository.list()?[..] else { panic!() };
//! repository.remove(&entry.name, |path, error| eprintln!("{path:?}: {error}"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Session::replace`] shows how to edit a checkpoint without losing what another
//! program has saved meanwhile, and [`Staged`] how to save what does not fit into memory.

mod attributes;
mod behalf;
mod checkpoint;
mod debris;
mod error;
mod location;
mod lock;
mod name;
mod naming;
#[cfg(any(test, fuzzing))]
pub(crate) mod outside_input;
mod probe;
mod remove;
mod rename;
mod repository;
mod root;
mod session;
mod staged;
#[cfg(test)]
mod tests;

pub use checkpoint::Checkpoint;
pub use debris::Debris;
pub use error::{Error, Kind, Result};
pub use location::{DefaultLocation, default_location, default_location_for_reading};
pub use lock::{Lock, LockOwner, NEXT as LOCK};
pub use name::SessionName;
pub use probe::{Answer, Feature, LeftProbe};
pub use repository::{DEFAULT_PREFIX, Entry, Repository};
pub use session::{CHECKPOINT, Session};
pub use staged::{Base, Staged};

// For the mount and the commands.
pub(crate) use attributes::{Attributes, without_privileges};
pub(crate) use behalf::OnBehalf;
pub(crate) use lock::{is_mark, try_own as own_lock};
pub(crate) use naming::parse_argument;
pub(crate) use rename::Linked;
pub(crate) use staged::{Commit, Committed, DEFAULT_ACL, Permit};
