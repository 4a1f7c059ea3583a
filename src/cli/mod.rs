//! The command line: arguments in, calls of the library, one error line and
//! an exit status out.

mod break_lock;
mod create;
mod doctor;
mod failure;
mod generate;
mod helper;
mod human;
mod list;
mod load;
mod logging;
mod look_up;
mod manual;
mod mount;
mod option_list;
mod output;
mod progress;
mod remove;
mod save;
mod state;
mod status;
mod storage;
mod umount;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use failure::{Failure, Status};

use crate::mount::watches;
use crate::sys;
use failure::Result;

const AFTER_HELP: &str = "\
SESSION is an id, a name (ID.session) or a path to the session's directory.
Without a repository: $PLAINBOX_SESSION_REPOSITORY, else
${XDG_CACHE_HOME:-$HOME/.cache}/plainbox/sessions.

Exit status: 0 done, 1 I/O or other error, 2 usage, 3 not found, 4 locked,
5 refused (mount refused, invalid name, name taken), 6 busy (mount in use, or
the lock of a live program).
RUST_LOG sets what is logged (default: warnings, and mounts that come and go).";

/// Atomic, durable saves of program sessions, for every ordinary tool
#[derive(Debug, Parser)]
#[command(name = "sessionfs", version, after_help = AFTER_HELP)]
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
    // For a mount.
    #[command(hide = true, name = watches::COMMAND)]
    LookUp(look_up::Arguments),
}

/// Does what the arguments, the program's name first, ask for.
///
/// # Errors
/// What could not be done, with the line to print and the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let arguments = match helper::understand(arguments, &Cli::command())? {
        helper::Asked::Do(arguments) => arguments,
        helper::Asked::Nothing => return Ok(()),
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return output::write(|out| std::io::Write::write_all(out, e.to_string().as_bytes()));
        }
        Err(e) => return Err(Failure::usage(&e)),
    };
    sys::block_file_size_signal()
        .map_err(|e| Failure::other(format!("cannot block SIGXFSZ: {e}")))?;
    if let Command::Mount(arguments) = &cli.command {
        // It decides itself where its log goes.
        return mount::run(arguments);
    }
    logging::start(logging::Log {
        target: logging::Target::Stderr,
        level: None,
    })?;
    match cli.command {
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Umount(arguments) => umount::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Create(arguments) => create::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Save(arguments) => save::run(&arguments),
        Command::Remove(arguments) => remove::run(&arguments),
        Command::BreakLock(arguments) => break_lock::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::LookUp(arguments) => look_up::run(&arguments),
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
    fn every_help_fits_a_screen() {
        let mut cli = Cli::command();
        cli.build();
        let commands = cli.get_subcommands_mut().map(|command| {
            let text = command.render_help().to_string();
            (command.get_name().to_owned(), text)
        });
        for (name, text) in commands {
            assert!(text.lines().count() <= 40, "{name}:\n{text}");
            assert!(text.contains("Examples:"), "{name}:\n{text}");
        }
    }

    #[test]
    fn a_usage_error_is_one_line_that_names_the_help() {
        for arguments in [
            &["sessionfs"][..],
            &["sessionfs", "nonsense"],
            &["sessionfs", "mount"],
            &["sessionfs", "mount", "--thread", "1", "x"],
            &["sessionfs", "mount", "--threads", "0", "x"],
            &["sessionfs", "mount", "a", "b", "c"],
        ] {
            let failure = run(arguments.iter().map(OsString::from)).unwrap_err();
            let line = failure.to_string();
            assert!(line.ends_with("--help)"), "{line}");
            assert!(!line.contains('\n') && !line.contains("error:"), "{line}");
        }
    }
}
