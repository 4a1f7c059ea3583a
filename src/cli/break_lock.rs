//! `sessionfs break-lock`

use std::ffi::OsString;
use std::io::Write;

use super::failure::{Failure, Result};
use super::output;
use super::storage::Storage;

const AFTER_HELP: &str = "\
Examples:
  sessionfs break-lock pbox-2024-05-01T10.00.00

A save that holds the lock publishes nothing and fails.";

/// Remove the session.next that refuses the saves of a session
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// An id, a name or a path
    session: OsString,

    #[command(flatten)]
    storage: Storage,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (repository, session) = arguments.storage.open(&arguments.session)?;
    let broken = session
        .break_lock()
        .map_err(|e| Failure::storage(&e, repository.path()))?;
    let name = session.name();
    output::write(|out| {
        if broken {
            writeln!(out, "{name}: the lock is broken")
        } else {
            writeln!(out, "{name}: there was no lock")
        }
    })
}
