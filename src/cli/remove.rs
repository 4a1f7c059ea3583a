//! `sessionfs remove` (DESIGN 1).

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use super::failure::{self, Result};
use super::progress::{Progress, Unit};
use super::storage::{Storage, explain};

const AFTER_HELP: &str = "\
Examples:
  sessionfs remove pbox-2024-05-01T10.00.00
  sessionfs list -0 | xargs -0 sessionfs remove --

If something cannot be removed, a warning names it, and the rest is removed.";

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
    let total = arguments.sessions.len() as u64;
    let mut progress = Progress::new("removing", Unit::Sessions, Some(total));
    let mut first = Ok(());
    for (done, session) in arguments.sessions.iter().enumerate() {
        progress.at(done as u64);
        let removed = remove(&arguments.storage, session, &mut progress);
        // One line for each failure; the exit status is that of the first.
        first = first.and(removed.map_err(|failure| {
            progress.clear();
            failure.told()
        }));
    }
    first
}

fn remove(storage: &Storage, session: &OsStr, progress: &mut Progress) -> Result<()> {
    let (repository, name) = storage.find(session)?;
    let warn = |path: PathBuf, error: io::Error| {
        let path = repository.path().join(name.as_os_str()).join(path);
        progress.clear();
        failure::warn(&format!("cannot remove {}: {error}", path.display()));
    };
    repository
        .remove(&name, warn)
        .map_err(|e| explain(&e, &repository))
}
