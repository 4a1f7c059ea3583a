//! `sessionfs create` (DESIGN 1).

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use super::failure::Result;
use super::output;
use super::storage::Storage;
use crate::repo::DEFAULT_PREFIX;

const AFTER_HELP: &str = "\
Examples:
  id=$(sessionfs create)
  sessionfs create nightly-
  sessionfs create -r /srv/sessions --name release-24.04";

/// Create a session and print its id
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// What the name begins with; the time in UTC follows
    #[arg(default_value = DEFAULT_PREFIX)]
    prefix: OsString,

    #[command(flatten)]
    storage: Storage,

    /// Create exactly this session, or fail
    #[arg(long, value_name = "SESSION", conflicts_with = "prefix")]
    name: Option<OsString>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let session = match &arguments.name {
        Some(name) => {
            let (repository, name) = arguments.storage.find(name)?;
            repository.create_named(&name, 0o777)?
        }
        None => {
            let repository = arguments.storage.repository()?;
            // Everything but ASCII becomes an underscore anyway.
            repository.create(&arguments.prefix.to_string_lossy())?
        }
    };
    output::write(|out| {
        let id = session.name().id();
        // A script passes the id on to other commands, so it gets the exact bytes.
        let shown = match out.is_terminal() {
            true => output::name(id),
            false => id.as_bytes().to_vec(),
        };
        out.write_all(&[&shown[..], b"\n"].concat())
    })
}
