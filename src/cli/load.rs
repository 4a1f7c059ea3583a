//! `sessionfs load` (DESIGN 1).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::failure::{Failure, Result, Status};
use super::output;
use super::progress::{Progress, Unit};
use super::storage::Storage;

const AFTER_HELP: &str = "\
Examples:
  sessionfs load pbox-2024-05-01T10.00.00 > backup
  sessionfs load -o backup /srv/sessions/nightly.session

For a session without a checkpoint nothing is written.";

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
    let (_, session) = arguments.storage.open(&arguments.session)?;
    let opened = session.open_checkpoint()?;
    let (total, from) = opened.map(|(found, file)| (found.len(), file)).unzip();
    let progress = Progress::new("loading", Unit::Bytes, total);
    // The output is opened only when the session is known to be readable.
    match &arguments.output {
        Some(path) => {
            let failed =
                |e: io::Error| Failure::other(format!("cannot write {}: {e}", path.display()));
            let mut options = File::options();
            let file = options.write(true).create(true).truncate(false).open(path);
            let mut file = file.map_err(failed)?;
            if is_same(from.as_ref(), &file).map_err(failed)? {
                return Err(Failure::new(
                    Status::Refused,
                    format!("{} is the checkpoint itself", path.display()),
                ));
            }
            let is_file = file.metadata().map_err(failed)?.is_file();
            let emptied = if is_file { file.set_len(0) } else { Ok(()) };
            emptied
                .and_then(|()| copy(from, &mut file, progress))
                .map_err(failed)
        }
        None => output::write(|out| {
            let progress = progress.unless_on(out);
            copy(from, out, progress)
        }),
    }
}

/// Whether the output file is the checkpoint that is being read.
fn is_same(checkpoint: Option<&File>, file: &File) -> io::Result<bool> {
    let Some(checkpoint) = checkpoint else {
        return Ok(false);
    };
    let (one, other) = (checkpoint.metadata()?, file.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Copies in pieces, and reports the progress after each.
fn copy(from: Option<File>, to: &mut impl io::Write, mut progress: Progress) -> io::Result<()> {
    const PIECE: u64 = 16 << 20;
    let Some(from) = from else {
        return Ok(());
    };
    let mut done = 0;
    loop {
        match io::copy(&mut (&from).take(PIECE), to)? {
            0 => return Ok(()),
            copied => done += copied,
        }
        progress.at(done);
    }
}
