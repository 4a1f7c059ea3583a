//! `sessionfs save` (DESIGN 3).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::failure::{Failure, Result, Status};
use super::progress::{Progress, Unit};
use super::storage::Storage;
use crate::repo::{Base, Kind, Repository, Session, Staged};
use crate::sys;

const AFTER_HELP: &str = "\
Examples:
  sessionfs save pbox-2024-05-01T10.00.00 -- make-checkpoint --all
  sessionfs save -i backup /srv/sessions/nightly.session

If COMMAND ends with status 0, its output is saved. Otherwise nothing is saved,
and its exit status is passed on (128 + N if signal N killed it). Input from a
pipe is saved even if the program that wrote it has failed.
When it succeeds, the new checkpoint survives a power cut; when it fails, the
old one is untouched.";

/// Save the output of a command as the new checkpoint of a session
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
#[command(override_usage = "sessionfs save [OPTIONS] <SESSION> [-- <COMMAND>...]")]
pub(super) struct Arguments {
    // It may also follow a "--", as for every command.
    /// An id, a name or a path
    #[arg(required_unless_present = "command")]
    session: Option<OsString>,

    /// What to run [default: read standard input]
    #[arg(last = true)]
    command: Vec<OsString>,

    #[command(flatten)]
    storage: Storage,

    /// Read from a file instead
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Even if that replaces a checkpoint with an empty one
    #[arg(long)]
    allow_empty: bool,
}

impl Arguments {
    /// The session, and the command if there is one: after `--`, or after the second
    /// one in `-- SESSION -- COMMAND`.
    fn session_and_command(&self) -> Result<(&OsStr, &[OsString])> {
        let (session, command) = match (&self.session, &self.command[..]) {
            (Some(session), command) => (session, command),
            (None, [session]) => (session, &[][..]),
            (None, [session, dashes, command @ ..]) if dashes == "--" && !command.is_empty() => {
                (session, command)
            }
            _ => return Err(usage("the session is missing before \"--\"")),
        };
        match (&self.input, command) {
            (Some(_), [_, ..]) => Err(usage("a file and a command cannot both be read")),
            _ => Ok((session, command)),
        }
    }
}

fn usage(reason: &str) -> Failure {
    let message = format!("{reason} (see sessionfs save --help)");
    Failure::new(Status::Usage, message)
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (session, command) = arguments.session_and_command()?;
    let (repository, session) = arguments.storage.open(session)?;
    let mut staged = session.stage()?;
    // Shown until the checkpoint is in place.
    let mut progress;
    match (command, &arguments.input) {
        ([program, rest @ ..], _) => {
            let mut command = Command::new(program);
            let command = Running::start(command.args(rest))?;
            // The command may be using the terminal.
            progress = Progress::hidden("saving", Unit::Bytes);
            command.save_output(&mut staged, &mut progress)?;
        }
        ([], Some(path)) => {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|e| Failure::other(format!("cannot read {name}: {e}")))?;
            progress = Progress::new("saving", Unit::Bytes, length(&file));
            fill(&mut staged, file, &name, &mut progress)?;
        }
        ([], None) => {
            let from = io::stdin().lock();
            progress = Progress::new("saving", Unit::Bytes, length(&from)).unless_on(&from);
            let name = "standard input";
            fill(&mut staged, from, name, &mut progress)?;
        }
    }
    commit(staged, &session, arguments.allow_empty, &repository)
}

/// Publishes the staged file. An empty one replaces a checkpoint only if that is empty
/// too, or if it is allowed.
fn commit(
    staged: Staged,
    session: &Session,
    allow_empty: bool,
    repository: &Repository,
) -> Result<()> {
    if allow_empty || !staged.is_empty()? {
        staged.commit(Base::Any)?;
        return Ok(());
    }
    let current = session.checkpoint()?;
    let empty = current.as_ref().filter(|checkpoint| checkpoint.is_empty());
    // Another checkpoint, even one that was just saved, is not replaced.
    match staged.commit(Base::Only(empty)) {
        Err(e) if e.kind() == Kind::Superseded => {}
        other => return Ok(other.map(drop)?),
    }
    // A lock would refuse any save, so it is reported first.
    let (status, reason) = match session.is_locked()? {
        true => (Status::Locked, "locked (sessionfs break-lock ends that)"),
        false => (Status::Refused, "--allow-empty saves it"),
    };
    let path = repository.path().join(session.name().as_os_str());
    Err(Failure::new(
        status,
        format!(
            "{}: the new checkpoint would be empty, and the old one is not; nothing was saved: \
             {reason}",
            path.display()
        ),
    ))
}

/// A command whose output is to be saved.
struct Running {
    child: Child,
    /// What it is called in messages.
    name: String,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let child = command.stdout(Stdio::piped()).spawn().map_err(|e| {
            // As with shells, env(1) and timeout(1).
            let status = match e.kind() {
                io::ErrorKind::NotFound => 127,
                _ => 126,
            };
            Failure::of_command(status, format!("cannot run {name}: {e}"))
        })?;
        Ok(Self { child, name })
    }

    /// Stages all of its output.
    ///
    /// # Errors
    /// If the command fails, or its output cannot be read or staged.
    fn save_output(mut self, staged: &mut Staged, progress: &mut Progress) -> Result<()> {
        let filled = match self.child.stdout.take() {
            Some(output) => fill(staged, output, &self.name, progress),
            None => Ok(()),
        };
        // After a failure nobody reads the output any more. It is reported before the
        // wait, which may be long.
        let filled = filled.map_err(Failure::told);
        let ended = self
            .child
            .wait()
            .map_err(|e| Failure::other(format!("cannot wait for {}: {e}", self.name)));
        filled?;
        match ended? {
            status if status.success() => Ok(()),
            status => Err(self.failed(status)),
        }
    }

    fn failed(&self, status: ExitStatus) -> Failure {
        let (code, how) = match (status.code(), status.signal()) {
            (Some(code), _) => (code, format!("ended with exit status {code}")),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                (128 + signal, format!("was killed by signal {signal}"))
            }
        };
        let message = format!("{} {how}; nothing was saved", self.name);
        Failure::of_command(u8::try_from(code).unwrap_or(u8::MAX), message)
    }
}

/// The size of a regular file, in bytes.
fn length(file: impl AsFd) -> Option<u64> {
    let stat = sys::fstat(file).ok()?;
    sys::is_file(&stat).then_some(stat.stx_size)
}

/// Copies all of `from`, and tells errors of reading from errors of writing.
fn fill(staged: &mut Staged, from: impl Read, name: &str, progress: &mut Progress) -> Result<()> {
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
        // It names the session.
        Err(e) => Err(Failure::other(e.to_string())),
    }
}

/// Remembers whether reading has failed, and reports the progress.
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
