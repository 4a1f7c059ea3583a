//! What `tests/fuzz` tries, of the parsers of what comes from outside: only in a build
//! with `--cfg fuzzing`, which `scripts/fuzz` makes, and never in the program.
//!
//! Each takes any bytes, and panics if what is parsed of them is not as it has to
//! be. The unit tests call the same with changed texts.

pub use crate::cli::outside_input::{options, report};
pub use crate::mount::outside_input::helper;
pub use crate::proc::outside_input::{mountinfo, process};
pub use crate::repo::outside_input::names;

/// Open and locked files as `/proc` shows them, and the ACL of a directory.
pub fn files(input: &[u8]) {
    crate::proc::outside_input::files(input);
    crate::fs::outside_input::acl(input);
}
