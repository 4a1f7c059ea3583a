//! The command line: parses the arguments, calls the library, prints one error line
//! and answers with an exit status.

mod break_lock;
mod completions;
mod create;
mod doctor;
mod failure;
mod generate;
mod helper;
mod human;
mod list;
mod load;
mod logging;
mod manual;
mod mount;
mod option_list;
mod output;
#[cfg(any(test, fuzzing))]
pub(crate) mod outside_input;
mod progress;
mod read_report;
mod remove;
mod save;
mod state;
mod status;
mod storage;
mod umount;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use failure::{Failure, Status};

use crate::sys;
use failure::Result;

const AFTER_HELP: &str = "\
Examples:
  sessionfs mount ~/sessions
  sessionfs save $(sessionfs create nightly-) -- make-checkpoint

SESSION is an id, a name (ID.session) or a path. The default repository is
$PLAINBOX_SESSION_REPOSITORY, or plainbox/sessions in $XDG_CACHE_HOME, ~/.cache.";

/// The help of the program, whose own options are those that every program has.
fn help() -> String {
    let statuses = failure::in_brief();
    format!(
        "{{about-with-newline}}
{{usage-heading}} {{usage}}

Commands (each has --help; -V, --version prints the version):
{{subcommands}}{{after-help}}
{statuses}"
    )
}

/// Atomic, durable saves of program sessions, for every ordinary tool
#[derive(Debug, Parser)]
#[command(name = "sessionfs", version, after_help = AFTER_HELP, help_template = help())]
#[command(max_term_width = 80, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::Arguments),
    Umount(umount::Arguments),
    Status(status::Arguments),
    List(list::Arguments),
    Create(create::Arguments),
    Load(load::Arguments),
    Save(save::Arguments),
    Remove(remove::Arguments),
    BreakLock(break_lock::Arguments),
    Doctor(doctor::Arguments),
    // For scripts/install.
    #[command(hide = true)]
    Generate(generate::Arguments),
    // For status.
    #[command(hide = true)]
    ReadReport(read_report::Arguments),
}

/// Runs the command that the arguments name; the program's name is the first.
///
/// # Errors
/// The failure of the command: the line to print and the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let arguments = match helper::understand(arguments, &Cli::command())? {
        helper::Asked::Do(arguments) => arguments,
        helper::Asked::Nothing => return Ok(()),
    };
    let commands = Cli::command();
    let named = arguments.get(1).and_then(|name| name.to_str());
    let named = named.filter(|name| commands.find_subcommand(name).is_some());
    let parsed = commands
        .clone()
        .try_get_matches_from(&arguments)
        .and_then(|given| Ok((Cli::from_arg_matches(&given)?, given)));
    let (cli, mut given) = match parsed {
        Ok(parsed) => parsed,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return output::write(|out| std::io::Write::write_all(out, e.to_string().as_bytes()));
        }
        Err(e) => return Err(Failure::usage(&e, named)),
    };
    sys::block_file_size_signal()
        .map_err(|e| Failure::other(format!("cannot block SIGXFSZ: {e}")))?;
    // `mount` decides itself where its log goes.
    if !matches!(cli.command, Command::Mount(_)) {
        logging::start(logging::Log {
            target: logging::Target::Stderr,
            level: None,
        })?;
    }
    match cli.command {
        Command::Mount(arguments) => {
            // There is a subcommand: parsing has succeeded.
            let (_, given) = given.remove_subcommand().unwrap_or_default();
            mount::run(&arguments, &given)
        }
        Command::Umount(arguments) => umount::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Create(arguments) => create::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Save(arguments) => save::run(&arguments),
        Command::Remove(arguments) => remove::run(&arguments),
        Command::BreakLock(arguments) => break_lock::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments, commands),
        Command::ReadReport(arguments) => read_report::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_fits_a_screen_and_has_examples() {
        // A line is left for what the shell says next.
        const LINES: usize = 24 - 1;
        const COLUMNS: usize = 80;
        let commands = Cli::command();
        let names = commands.get_subcommands().map(clap::Command::get_name);
        for name in names.map(Some).chain([None]) {
            for option in ["--help", "-h"] {
                let arguments = ["sessionfs"].into_iter().chain(name).chain([option]);
                let text = Cli::try_parse_from(arguments).unwrap_err().to_string();
                assert!(text.lines().count() <= LINES, "{text}");
                let wide = text.lines().find(|line| line.chars().count() > COLUMNS);
                assert_eq!(wide, None, "{text}");
                assert!(text.contains("\nExamples:\n  "), "{text}");
            }
        }
    }

    #[test]
    fn the_help_of_mount_names_all_its_options() {
        let error = Cli::try_parse_from(["sessionfs", "mount", "--help"]).unwrap_err();
        let text = error.to_string();
        let commands = Cli::command();
        let mount = commands.find_subcommand("mount").unwrap();
        let shown = mount.get_arguments().filter(|a| !a.is_hide_set());
        for option in shown.filter_map(clap::Arg::get_long) {
            assert!(text.contains(&format!("--{option}")), "{option}:\n{text}");
        }
    }

    #[test]
    fn a_usage_error_is_one_line_that_names_the_help() {
        for (arguments, help) in [
            (&["sessionfs"][..], "sessionfs"),
            (&["sessionfs", "nonsense"], "sessionfs"),
            (&["sessionfs", "help", "nonsense"], "sessionfs"),
            (&["sessionfs", "mount"], "sessionfs mount"),
            (
                &["sessionfs", "mount", "--thread", "1", "x"],
                "sessionfs mount",
            ),
            (
                &["sessionfs", "mount", "--threads", "0", "x"],
                "sessionfs mount",
            ),
            (&["sessionfs", "mount", "a", "b", "c"], "sessionfs mount"),
            (&["sessionfs", "list", "--lon"], "sessionfs list"),
            (
                &["sessionfs", "remove", "a", "--dry-run"],
                "sessionfs remove",
            ),
        ] {
            let failure = run(arguments.iter().map(OsString::from)).unwrap_err();
            let line = failure.to_string();
            assert!(line.ends_with(&format!("(see {help} --help)")), "{line}");
            assert!(!line.contains("-- --"), "{line}");
            assert!(!line.contains('\n') && !line.contains("error:"), "{line}");
        }
    }
}
