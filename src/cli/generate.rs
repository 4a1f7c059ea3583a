//! `sessionfs generate`: the manual pages and completions, from the same definitions
//! as the arguments.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Arg, Command};

use super::failure::{Failure, Result};
use super::{completions, manual, option_list};
use crate::sys;

const AFTER_HELP: &str = "\
Examples:
  sessionfs generate target/generated

Writes DIRECTORY/man and DIRECTORY/completions. SOURCE_DATE_EPOCH sets the date
of the pages, in seconds since 1970 (default: today).";

/// Write the manual pages and the completions for shells
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The directory to write into; made if it is missing
    directory: PathBuf,
}

/// Writes what belongs to these commands.
pub(super) fn run(arguments: &Arguments, cli: Command) -> Result<()> {
    let directory = &arguments.directory;
    write(directory, cli)
        .map_err(|e| Failure::other(format!("cannot write into {}: {e}", directory.display())))
}

fn write(directory: &Path, cli: Command) -> io::Result<()> {
    let man = directory.join("man");
    fs::create_dir_all(&man)?;
    for (name, page) in manual::pages(&cli, &date())? {
        fs::write(man.join(name), page)?;
    }
    let completions_of_shells = directory.join("completions");
    fs::create_dir_all(&completions_of_shells)?;
    completions::write(&mut offered(&cli), &completions_of_shells)
}

/// The command line without hidden options, which the completions would offer.
fn offered(cli: &Command) -> Command {
    let mut offered = Command::new("sessionfs")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true);
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        // Some mount options are hidden from the short help only.
        let is_offered = |argument: &&Arg| {
            let mut options = option_list::options_of(command);
            !argument.is_hide_set() || options.any(|o| o.get_id() == argument.get_id())
        };
        let arguments = command.get_arguments().filter(is_offered);
        let copy = Command::new(command.get_name().to_owned())
            .about(command.get_about().cloned().unwrap_or_default())
            .disable_help_flag(command.is_disable_help_flag_set())
            .args(arguments.cloned());
        offered = offered.subcommand(copy);
    }
    offered
}

/// The day in UTC. `SOURCE_DATE_EPOCH` makes two builds of one source equal.
fn date() -> String {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = epoch.and_then(|text| text.parse().ok()).or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(now.as_secs()).ok()
    });
    let time = seconds.and_then(sys::utc);
    time.map_or_else(String::new, |[year, month, day, ..]| {
        format!("{year:04}-{month:02}-{day:02}")
    })
}
