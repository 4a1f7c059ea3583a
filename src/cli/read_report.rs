//! `sessionfs read-report`: reads the report of a daemon that may hang, as a process
//! of its own that `status` starts (see [`crate::mount::status`]).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::failure::{Failure, Result};

const AFTER_HELP: &str = "\
Examples:
  sessionfs read-report /mnt/sessions/.sessionfs-status

Exit status: the errno, if there is one; else 1.";

/// Write the report of a mount to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The file with the report
    path: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let read = || {
        let mut report = File::open(&arguments.path)?;
        io::copy(&mut report, &mut io::stdout().lock())
    };
    match read() {
        Ok(_) => Ok(()),
        Err(e) => {
            let errno = e.raw_os_error().and_then(|errno| u8::try_from(errno).ok());
            Err(Failure::of_process(errno.unwrap_or(1)))
        }
    }
}

/// A command that runs this program in that way.
pub(super) fn command(path: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("read-report").arg("--").arg(path);
    command
}
