//! `sessionfs load`

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::failure::{Failure, Result};
use super::output;
use super::storage::Storage;

const AFTER_HELP: &str = "\
Examples:
  sessionfs load pbox-2024-05-01T10.00.00 > backup
  sessionfs load -o backup /srv/sessions/nightly.session

A session without a checkpoint gives nothing.";

/// Write the checkpoint of a session to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// An id, a name or a path
    session: OsString,

    #[command(flatten)]
    storage: Storage,

    /// Write to a file instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (repository, session) = arguments.storage.open(&arguments.session)?;
    let checkpoint = session
        .checkpoint()
        .and_then(|found| found.map(|checkpoint| checkpoint.open()).transpose())
        .map_err(|e| Failure::storage(&e, repository.path()))?;
    // After the session is known to be readable.
    match &arguments.output {
        Some(path) => {
            let copied = File::create(path).and_then(|mut file| copy(checkpoint, &mut file));
            copied.map_err(|e| Failure::other(format!("cannot write {}: {e}", path.display())))
        }
        None => output::write(|out| copy(checkpoint, out)),
    }
}

fn copy(from: Option<File>, to: &mut impl io::Write) -> io::Result<()> {
    from.map_or(Ok(()), |mut from| io::copy(&mut from, to).map(|_| ()))
}
