//! `sessionfs save`

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::failure::{Failure, Result};
use super::progress::{Progress, Unit};
use super::storage::Storage;
use crate::repo::{Commit, Staged};
use crate::sys;

const AFTER_HELP: &str = "\
Examples:
  make-checkpoint | sessionfs save pbox-2024-05-01T10.00.00
  sessionfs save -i backup /srv/sessions/nightly.session

When it succeeds, the new checkpoint survives a power cut; when it fails, the
old one is untouched.";

/// Save standard input as the new checkpoint of a session
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// An id, a name or a path
    session: OsString,

    #[command(flatten)]
    storage: Storage,

    /// Read from a file instead
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (repository, session) = arguments.storage.open(&arguments.session)?;
    let failed = |e| Failure::storage(&e, repository.path());
    let unwritten = |e: io::Error| {
        let path = repository.path().join(session.name().as_os_str());
        Failure::other(format!("{}: write: {e}", path.display()))
    };
    let mut staged = session.stage().map_err(failed)?;
    // It goes when the checkpoint is in place.
    let mut progress;
    match &arguments.input {
        Some(path) => {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|e| Failure::other(format!("cannot read {name}: {e}")))?;
            progress = Progress::new("saving", Unit::Bytes, length(&file));
            fill(&mut staged, file, &name, &mut progress, unwritten)?;
        }
        None => {
            let from = io::stdin().lock();
            progress = Progress::new("saving", Unit::Bytes, length(&from)).unless_on(&from);
            fill(
                &mut staged,
                from,
                "standard input",
                &mut progress,
                unwritten,
            )?;
        }
    }
    staged.commit(&Commit::default()).map_err(failed)?;
    Ok(())
}

/// The size of a regular file, in bytes.
fn length(file: impl AsFd) -> Option<u64> {
    let stat = sys::fstat(file).ok()?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.stx_mode.into());
    kind.is_file().then_some(stat.stx_size)
}

/// Copies all that `from` gives, and tells an error of reading from one of
/// writing.
fn fill(
    staged: &mut Staged,
    from: impl Read,
    name: &str,
    progress: &mut Progress,
    unwritten: impl FnOnce(io::Error) -> Failure,
) -> Result<()> {
    let mut source = Source {
        from,
        failed: false,
        done: 0,
        progress,
    };
    match staged.fill(&mut source) {
        Ok(_) => Ok(()),
        Err(e) if source.failed => Err(Failure::other(format!(
            "cannot read {name}: {e}; nothing was saved"
        ))),
        Err(e) => Err(unwritten(e)),
    }
}

/// Remembers whether reading has failed, and tells how far it is.
struct Source<'a, R> {
    from: R,
    failed: bool,
    done: u64,
    progress: &'a mut Progress,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer);
        self.failed = matches!(&read, Err(e) if e.kind() != io::ErrorKind::Interrupted);
        self.done += *read.as_ref().unwrap_or(&0) as u64;
        self.progress.at(self.done);
        read
    }
}
