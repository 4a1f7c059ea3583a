//! `sessionfs list`

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use super::failure::{Failure, Result};
use super::output;
use super::storage::Storage;

const AFTER_HELP: &str = "\
Examples:
  sessionfs list
  sessionfs list | head -n 1
  sessionfs list -r /srv/sessions -0 | xargs -0 -n 1 sessionfs load";

/// List the ids of all sessions, youngest first
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    storage: Storage,

    /// End each id with NUL, not with a newline
    #[arg(short = '0', long)]
    null: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let repository = arguments.storage.repository()?;
    let entries = repository
        .list()
        .map_err(|e| Failure::storage(&e, repository.path()))?;
    let end: &[u8] = if arguments.null { b"\0" } else { b"\n" };
    let mut text = Vec::new();
    for entry in entries {
        text.extend_from_slice(entry.name.id().as_bytes());
        text.extend_from_slice(end);
    }
    output::write(|out| out.write_all(&text))
}
