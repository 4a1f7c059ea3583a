//! Writers that come to nothing, or may: two of one session at once, and such
//! as are killed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::attributes::{self, Owner};
use crate::content::{Contents, Label};
use crate::random::Random;
use crate::result::Result;
use crate::saving::{BESIDE, Save, replace_directly};

/// How one of two writers saves.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Truncates, and writes all of it.
    Truncate,
    /// Changes the label of what is there.
    Edit,
    /// In the repository, without a lock.
    Direct,
}

/// What came of one of two writers.
pub struct Ended {
    pub label: Label,
    pub is_saved: bool,
    /// What the recorder told then.
    pub position: String,
}

/// Where two writers save.
pub struct Paths<'a> {
    pub session: &'a Path,
    /// The session's directory in the repository.
    pub behind: &'a Path,
    /// The file that tells how much has been recorded.
    pub report: &'a Path,
}

/// Two writers at once. Each has saved, or has been refused because of the
/// other: `EBUSY` or `ESTALE` (DESIGN 2.8, 2.9). Anything else is an error.
pub fn two(paths: &Paths<'_>, both: [(How, Label); 2]) -> Result<Vec<Ended>> {
    let start = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let threads = both.map(|(how, label)| {
            let start = &start;
            scope.spawn(move || -> io::Result<Ended> {
                start.wait();
                let saved = save(paths, how, label);
                let position = fs::read_to_string(paths.report)?;
                let is_saved = match saved {
                    Ok(()) => true,
                    Err(e) => match e.raw_os_error() {
                        Some(libc::EBUSY | libc::ESTALE) => false,
                        _ => return Err(e),
                    },
                };
                Ok(Ended {
                    label,
                    is_saved,
                    position,
                })
            })
        });
        let ended = threads.map(|thread| thread.join().map_err(|_| "a writer panicked"));
        let mut both = Vec::new();
        for one in ended {
            both.push(one??);
        }
        Ok(both)
    })
}

fn save(paths: &Paths<'_>, how: How, label: Label) -> io::Result<()> {
    let contents = Contents::new();
    match how {
        How::Truncate => Save::truncate(paths.session, &contents, label)?.save(),
        How::Edit => Save::edit(paths.session, &contents, label)?.save_what_is_there(),
        How::Direct => replace_directly(paths.behind, BESIDE, (&contents, label)),
    }
}

/// A writer that does not close its file.
#[derive(Debug, clap::Args)]
pub struct Endless {
    /// The file
    #[arg(long)]
    pub path: PathBuf,
    /// The label of a content that is made a save point first
    #[arg(long, value_parser = label_of)]
    pub save_point: Option<Label>,
    /// The label of what is written
    #[arg(long, value_parser = label_of)]
    pub label: Label,
    /// Does not truncate
    #[arg(long)]
    pub edit: bool,
    /// Says that it has begun after so many pieces
    #[arg(long)]
    pub pieces: u64,
}

fn label_of(text: &str) -> std::result::Result<Label, String> {
    let numbers: Option<Vec<u64>> = text.split(',').map(|n| n.parse().ok()).collect();
    let Some(&[session, counter, start, len, attributes]) = numbers.as_deref() else {
        return Err(format!("not a label: {text}"));
    };
    Ok(Label {
        session,
        counter,
        start,
        len,
        attributes,
    })
}

fn numbers_of(label: Label) -> String {
    let Label {
        session,
        counter,
        start,
        len,
        attributes,
    } = label;
    format!("{session},{counter},{start},{len},{attributes}")
}

/// Writes, tells that it has begun, and writes on until it is killed.
pub fn endless(arguments: &Endless) -> Result<()> {
    let contents = Contents::new();
    let label = arguments.label;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if !arguments.edit {
        options.create(true).truncate(true);
    }
    let file = options.open(&arguments.path)?;
    let mut told = io::stdout().lock();
    if let Some(label) = arguments.save_point {
        file.write_all_at(&contents.make(label), 0)?;
        file.sync_all()?;
        told.write_all(b"s")?;
        told.flush()?;
        file.set_len(0)?;
    }
    let bytes = contents.make(label);
    // Of an edit, what differs; else all of it.
    let pieces: Vec<(u64, &[u8])> = match arguments.edit {
        true => {
            let (head, tail) = bytes.split_at(Contents::tail_at(label) as usize);
            let head_len = Contents::head(label).len();
            vec![(0, &head[..head_len]), (head.len() as u64, tail)]
        }
        false => {
            let size = bytes.len().div_ceil(3);
            let at = (0_u64..).step_by(size);
            at.zip(bytes.chunks(size)).collect()
        }
    };
    for (n, (at, piece)) in (1..).zip(pieces.iter().cycle()) {
        file.write_all_at(piece, *at)?;
        if n == 1 {
            attributes::set(&file, label)?;
        }
        if n == arguments.pieces {
            told.write_all(b"w")?;
            told.flush()?;
        }
    }
    Ok(())
}

/// A process that is killed while it writes.
pub struct Doomed(Child);

impl Doomed {
    /// Starts it as a process of this user.
    pub fn start(what: &Endless, (uid, gid): Owner) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("endless").arg("--path").arg(&what.path);
        if let Some(label) = what.save_point {
            command.arg("--save-point").arg(numbers_of(label));
        }
        command.arg("--label").arg(numbers_of(what.label));
        if what.edit {
            command.arg("--edit");
        }
        command.arg("--pieces").arg(what.pieces.to_string());
        command.uid(uid).gid(gid);
        Ok(Self(command.stdout(Stdio::piped()).spawn()?))
    }

    /// Waits until it says so.
    pub fn wait_for(&mut self, what: u8) -> Result<()> {
        let mut told = [0];
        if let Some(stdout) = &mut self.0.stdout {
            stdout.read_exact(&mut told)?;
        }
        match told == [what] {
            true => Ok(()),
            false => Err(format!("an endless writer: {told:?}").into()),
        }
    }

    /// Kills it, in the middle of a write as a rule.
    pub fn kill(mut self, random: &mut Random) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        let signal = match random.below(3) {
            0 => Signal::TERM,
            _ => Signal::KILL,
        };
        rustix::process::kill_process(pid, signal)?;
        let status = self.0.wait()?;
        match std::os::unix::process::ExitStatusExt::signal(&status) {
            Some(_) => Ok(()),
            None => Err(format!("an endless writer: {status}").into()),
        }
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        // Both fail for one that has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
