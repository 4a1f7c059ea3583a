//! `sessionfs remove`

use std::ffi::{OsStr, OsString};

use super::failure::{self, Failure, Result};
use super::storage::{Storage, explain};

const AFTER_HELP: &str = "\
Examples:
  sessionfs remove pbox-2024-05-01T10.00.00
  sessionfs list -0 | xargs -0 sessionfs remove --

What cannot be removed is warned about, and the rest still goes.";

/// Remove sessions and everything in them
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Ids, names or paths
    #[arg(required = true, value_name = "SESSION")]
    sessions: Vec<OsString>,

    #[command(flatten)]
    storage: Storage,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut first = Ok(());
    for session in &arguments.sessions {
        // One line for each; the exit status is that of the first.
        first = first.and(remove(&arguments.storage, session).map_err(Failure::told));
    }
    first
}

fn remove(storage: &Storage, session: &OsStr) -> Result<()> {
    let (repository, name) = storage.find(session)?;
    let warn = |path: std::path::PathBuf, error: std::io::Error| {
        let path = repository.path().join(name.as_os_str()).join(path);
        failure::warn(&format!("cannot remove {}: {error}", path.display()));
    };
    repository
        .remove(&name, warn)
        .map_err(|e| explain(&e, &repository))
}
