//! A save: a staged file is written, and published as the checkpoint.

mod commit;
mod file;
mod how;
mod rights;
mod save;
mod seen;

pub use self::file::Staged;
pub use self::how::Base;
pub(crate) use self::how::{Commit, Committed, Permit};
pub(crate) use self::rights::DEFAULT_ACL;
