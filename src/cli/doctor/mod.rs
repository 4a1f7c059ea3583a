//! `sessionfs doctor`

mod features;
mod findings;

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::failure::{Failure, Result, Status};
use super::output;
use super::storage::Storage;
use crate::fs::SCHEMA;
use crate::mount;
use crate::repo::Repository;
use crate::sys;
use features::Row;
use findings::Finding;

const AFTER_HELP: &str = "\
Examples:
  sessionfs doctor
  sessionfs doctor /srv/sessions --fix

Says what is lost where the filesystem lacks a feature, and what crashes and
other programs have left in the sessions. --fix removes what is proven to be
dead, but never another program's session.next, nor anything named session.
Exit status: 0 healthy, or everything found was removed; 1 something was found,
saves may be lost, or nothing can be tested; else as for all commands.";

/// Test a repository's filesystem, and find what crashes have left
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The repository, as with --repository
    #[arg(value_name = "REPOSITORY", conflicts_with = "repository")]
    directory: Option<PathBuf>,

    #[command(flatten)]
    storage: Storage,

    /// Remove what is dead
    #[arg(long)]
    fix: bool,

    /// Print an object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let directory = arguments.directory.as_deref();
    let repository = arguments.storage.repository_for_reading(directory)?;
    let path = repository.path().display();
    let Some(root) = repository.root()? else {
        let message = format!("{path}: there is no such directory");
        return Err(Failure::new(Status::NotFound, message));
    };
    if let Some(behind) = mount::repository_behind(repository.path()) {
        let message = format!(
            "{path}: it is a mount; look at the repository itself: {}",
            behind.display()
        );
        return Err(Failure::new(Status::Refused, message));
    }
    let probed = sys::with_stop_signals_blocked(|| repository.probe());
    let probed = probed.map_err(|e| Failure::other(format!("cannot hold signals back: {e}")))?;
    let rows = features::rows(&probed?, &*root);
    let findings = findings::all(&repository, arguments.fix)?;

    let lacks = rows.iter().filter(|row| row.is_fatal()).count();
    let left = findings.iter().filter(|found| !found.is_removed()).count();
    let unknown = rows.iter().find_map(Row::unknown);
    let text = if arguments.json {
        let is_healthy = lacks + left == 0 && unknown.is_none();
        let object = object(&repository, &rows, &findings, is_healthy);
        output::json(&object)
    } else {
        lines(&repository, &rows, &findings)
    };
    output::write(|out| out.write_all(text.as_bytes()))?;
    match (lacks, left, unknown) {
        (0, 0, None) => Ok(()),
        (0, 0, Some(why)) => Err(Failure::other(format!(
            "{path}: cannot test whether it is healthy: {why}"
        ))),
        (0, left, _) => Err(Failure::other(format!("{path}: findings: {left}"))),
        _ => Err(Failure::other(format!("{path}: saves may be lost there"))),
    }
}

fn lines(repository: &Repository, rows: &[Row], findings: &[Finding]) -> String {
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let mut text = output::columns(&cells);
    for finding in findings {
        text.push_str(&format!("{finding}\n"));
    }
    if findings.is_empty() {
        let path = super::failure::one_line(&repository.path().to_string_lossy());
        text.push_str(&format!("{path}: nothing is left behind\n"));
    }
    text
}

fn object(repository: &Repository, rows: &[Row], findings: &[Finding], healthy: bool) -> Value {
    json!({
        "schema": SCHEMA,
        "repository": repository.path().to_string_lossy(),
        "healthy": healthy,
        "features": rows.iter().map(Row::object).collect::<Vec<_>>(),
        "found": findings.iter().map(Finding::object).collect::<Vec<_>>(),
    })
}
