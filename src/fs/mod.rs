//! What the mount means, without the kernel: nodes, handles, and when a change is saved
//! (DESIGN 2, 4 and 5).
//!
//! Every operation takes and returns plain values, so that all of it can be called
//! without a mount. `fuse` and `mount` use it.

mod attr;
mod caller;
mod dir;
mod entry;
mod errno;
mod filesystem;
mod flock;
mod getattr;
mod io;
mod lasting;
mod listing;
mod lookup;
mod open;
mod opened;
mod options;
#[cfg(any(test, fuzzing))]
pub mod outside_input;
mod plain;
mod report;
mod request;
mod session;
mod setattr;
mod shares;
mod xattr;

pub use self::attr::SetAttr;
pub use self::entry::Entry;
pub use self::errno::{Fail, Result};
pub use self::filesystem::Fs;
pub use self::flock::ask::{Ask, Flock, Locked};
pub use self::lasting::node::REPORT_NAME;
pub use self::listing::read::Listed;
pub use self::opened::{Created, Opened};
pub use self::options::{Missing, Options};
pub use self::report::contents::SCHEMA;
pub use self::request::{Caller, Patience, Request};
pub use self::shares::{Share, Shares};
