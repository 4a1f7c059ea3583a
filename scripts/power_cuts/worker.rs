//! A process that saves, and tells of each save when it has returned.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::attributes;
use crate::content::{Contents, Label};
use crate::random::Random;
use crate::writers::{self, Doomed, How};

/// After so many saves it goes on in a new session.
const SAVES_OF_A_SESSION: u64 = 25;

/// What a worker has to know.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the sessions are: the mount
    #[arg(long)]
    pub mount: PathBuf,
    /// The repository itself
    #[arg(long)]
    pub repository: PathBuf,
    /// The program, for saves without the mount
    #[arg(long)]
    pub sessionfs: PathBuf,
    /// The file that tells how much has been recorded
    #[arg(long)]
    pub position: PathBuf,
    /// Acknowledged saves, one a line: session, counter, position
    #[arg(long)]
    pub log: PathBuf,
    #[arg(long)]
    pub seed: u64,
    /// Its sessions have numbers of this thousand
    #[arg(long)]
    pub number: u64,
    #[arg(long)]
    pub saves: u64,
    /// Saves as careless programs do, in the repository: truncates and writes
    #[arg(long)]
    pub in_place: bool,
}

/// What has to be there of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The save of this counter, or a later one; 0 is that it has been made.
    Saved(u64),
    /// Anything whole: it is being removed or renamed.
    Going,
    /// Nothing: that has returned.
    Gone,
    /// Not this save, now or later: it was refused, or its writer killed.
    Refused(u64),
}

/// What a worker has been told, or has begun.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub session: u64,
    pub state: State,
    /// So much was recorded when it was acknowledged, or a little more.
    pub position: usize,
}

impl Acknowledged {
    pub fn read(line: &str) -> Result<Self> {
        let fields: Vec<_> = line.split(' ').collect();
        let &[session, state, position] = &fields[..] else {
            return Err(format!("not the log of a worker: {line}").into());
        };
        Ok(Self {
            session: session.parse()?,
            state: match state {
                "going" => State::Going,
                "gone" => State::Gone,
                other => match other.strip_prefix(REFUSED) {
                    Some(counter) => State::Refused(counter.parse()?),
                    None => State::Saved(other.parse()?),
                },
            },
            position: position.parse()?,
        })
    }
}

/// Before the counter of such a save, in the log.
const REFUSED: &str = "refused:";

/// What is added to the number of a session that is renamed.
const RENAMED: u64 = 500;

/// The number of a session before it was renamed, which is in its contents.
pub fn first_number(session: u64) -> u64 {
    match session % 1000 >= RENAMED {
        true => session - RENAMED,
        false => session,
    }
}

/// The name of a session's directory.
pub fn name(session: u64) -> String {
    format!("{session}.session")
}

/// The ways of saving that are tried.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Truncate, write, close.
    Truncate,
    /// Write another file, without fsync, and rename it.
    Rename,
    /// The same, from another directory.
    Move,
    /// Two save points by fsync, and a close that has nothing left to save.
    SavePoints,
    /// Change some bytes of what is there, close.
    Edit,
    /// Remove, make a new one, write, close.
    Replace,
    /// Truncate, write, set mode, attributes and time, close.
    Attributes,
    /// Two writers at once.
    Two,
    /// A writer that is killed, and saves nothing (DESIGN 2.6).
    Killed,
    /// One that is killed after a save point, which stays.
    KilledLater,
    /// By the command, beside the mount.
    Command,
    /// As the original does, in the repository: it marks nothing.
    Original,
}

/// The worker some of whose saves are the original's.
const WITH_ORIGINAL: u64 = 1;

/// Whether a `session.next` that the original has left may be in a session.
pub fn may_be_foreign(session: u64) -> bool {
    session / 1000 == WITH_ORIGINAL
}

const WAYS: [Way; 20] = [
    Way::Truncate,
    Way::Truncate,
    Way::Truncate,
    Way::Rename,
    Way::Rename,
    Way::Move,
    Way::SavePoints,
    Way::SavePoints,
    Way::Edit,
    Way::Edit,
    Way::Replace,
    Way::Replace,
    Way::Attributes,
    Way::Attributes,
    Way::Two,
    Way::Two,
    Way::Killed,
    Way::Killed,
    Way::KilledLater,
    Way::Command,
];

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut worker = Worker {
        log: File::create_new(&arguments.log)?,
        contents: Contents::new(),
        random: Random::new(arguments.seed),
        session: 0,
        last: None,
        counter: 0,
        arguments,
    };
    for save in 0..arguments.saves {
        if save % SAVES_OF_A_SESSION == 0 {
            worker.next_session(save / SAVES_OF_A_SESSION)?;
        }
        let mut way = WAYS[worker.random.below(WAYS.len() as u64) as usize];
        if arguments.number == WITH_ORIGINAL && worker.random.below(3) == 0 {
            way = Way::Original;
        }
        let saved = if arguments.in_place {
            worker.save_in_place()
        } else {
            worker.save(way)
        };
        saved.map_err(|e| format!("session {}, {way:?}: {e}", worker.session))?;
    }
    Ok(())
}

struct Worker<'a> {
    arguments: &'a Arguments,
    log: File,
    contents: Contents,
    random: Random,
    session: u64,
    /// The checkpoint of this session.
    last: Option<Label>,
    /// Of the last save that was tried in it.
    counter: u64,
}

impl Worker<'_> {
    fn home(&self) -> &Path {
        match self.arguments.in_place {
            true => &self.arguments.repository,
            false => &self.arguments.mount,
        }
    }

    /// Goes on in a new session; the one before is removed or renamed.
    fn next_session(&mut self, number: u64) -> Result<()> {
        let (before, last) = (self.session, self.last.take());
        let path = |worker: &Self, session| worker.home().join(name(session));
        if let (Some(last), false) = (last, self.arguments.in_place) {
            self.tell(before, "going")?;
            if number.is_multiple_of(4) {
                let mut remove = Command::new(&self.arguments.sessionfs);
                remove.args(["remove", "--repository"]);
                remove.arg(&self.arguments.repository).arg(name(before));
                crate::place::run(&mut remove)?;
            } else if number.is_multiple_of(2) {
                fs::remove_dir_all(path(self, before))?;
            } else {
                let to = before + RENAMED;
                fs::rename(path(self, before), path(self, to))?;
                self.tell(to, last.counter)?;
            }
            self.tell(before, "gone")?;
        }
        self.session = 1000 * self.arguments.number + number;
        self.counter = 0;
        fs::create_dir(path(self, self.session))?;
        if self.arguments.in_place {
            File::open(self.home())?.sync_all()?;
        }
        self.tell(self.session, 0)
    }

    /// Says what has returned, and how much was recorded by then.
    fn tell(&mut self, session: u64, state: impl std::fmt::Display) -> Result<()> {
        let position = fs::read_to_string(&self.arguments.position)?;
        writeln!(self.log, "{session} {state} {position}")?;
        Ok(())
    }

    /// The label of the next save, which keeps the attributes.
    fn next(&mut self) -> Label {
        self.counter += 1;
        Label {
            attributes: self.last.map_or(0, |last| last.attributes),
            ..Contents::label(self.session, self.counter, &mut self.random)
        }
    }

    /// Such a save may be nowhere, whenever the power is cut.
    fn refused(&mut self, label: Label) -> Result<()> {
        self.tell(self.session, format_args!("{REFUSED}{}", label.counter))
    }

    fn saved(&mut self, label: Label) -> Result<()> {
        self.last = Some(label);
        self.tell(self.session, label.counter)
    }

    fn save(&mut self, way: Way) -> Result<()> {
        let directory = self.home().join(name(self.session));
        let session = directory.join("session");
        let mut label = self.next();
        match way {
            // A new file, with its own attributes.
            Way::Rename | Way::Move | Way::Replace | Way::Original => label.attributes = 0,
            Way::Attributes => label.attributes = label.counter,
            _ => {}
        }
        let bytes = self.contents.make(label);
        match way {
            Way::Truncate => {
                let mut file = File::create(&session)?;
                file.write_all(&bytes)?;
                close(file)?;
            }
            Way::Attributes => {
                let mut file = File::create(&session)?;
                file.write_all(&bytes)?;
                attributes::set(&file, label)?;
                close(file)?;
            }
            Way::Two => return self.two(&session, label),
            Way::Killed | Way::KilledLater => {
                return self.killed(&session, label, matches!(way, Way::KilledLater));
            }
            Way::Rename | Way::Move => {
                let from = match way {
                    Way::Move => directory.join("logs"),
                    _ => directory.clone(),
                };
                fs::create_dir_all(&from)?;
                let beside = from.join("beside");
                let mut file = File::create(&beside)?;
                file.write_all(&bytes)?;
                close(file)?;
                fs::rename(&beside, &session)?;
            }
            Way::SavePoints => {
                let mut file = File::create(&session)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                self.saved(label)?;
                let label = self.next();
                let bytes = self.contents.make(label);
                file.set_len(0)?;
                file.write_all_at(&bytes, 0)?;
                file.sync_all()?;
                self.saved(label)?;
                close(file)?;
                return Ok(());
            }
            Way::Edit => {
                // The same length and noise: most of it is only copied.
                let label = match self.last {
                    Some(last) => Label {
                        counter: label.counter,
                        ..last
                    },
                    None => return self.save(Way::Truncate),
                };
                let file = OpenOptions::new().read(true).write(true).open(&session)?;
                file.write_all_at(&Contents::head(label), 0)?;
                file.write_all_at(&Contents::tail(label), Contents::tail_at(label))?;
                close(file)?;
                return self.saved(label);
            }
            Way::Replace => {
                if self.last.is_some() {
                    fs::remove_file(&session)?;
                }
                let mut file = File::create(&session)?;
                file.write_all(&bytes)?;
                close(file)?;
            }
            Way::Command => self.command(&bytes)?,
            Way::Original => self.as_the_original(&bytes)?,
        }
        self.saved(label)
    }

    /// Whoever of the two was first, whole is what is there.
    fn two(&mut self, session: &Path, first: Label) -> Result<()> {
        let second = self.next();
        let mut how = || match self.last.is_some() && self.random.below(2) == 0 {
            true => How::Edit,
            false => How::Truncate,
        };
        let both = [(how(), first), (how(), second)];
        let ended = writers::two(session, &self.arguments.position, both)?;
        if !ended.iter().any(|one| one.is_saved) {
            return Err(format!("both were refused: {both:?}").into());
        }
        for one in &ended {
            // The other one may have replaced it: either of them has to be there.
            let state = match one.is_saved {
                true => first.counter.to_string(),
                false => format!("{REFUSED}{}", one.label.counter),
            };
            writeln!(self.log, "{} {state} {}", self.session, one.position)?;
        }
        let there = self.contents.read(&fs::read(session)?)?;
        let is_there = |one: &writers::Ended| one.is_saved && one.label.counter == there.counter;
        if !ended.iter().any(is_there) {
            return Err(format!("{there:?} is there after {both:?}").into());
        }
        self.last = Some(there);
        Ok(())
    }

    /// The old checkpoint stands, or the one of the save point.
    fn killed(&mut self, session: &Path, mut label: Label, is_later: bool) -> Result<()> {
        let save_point = is_later.then_some(label);
        if is_later {
            label = self.next();
        }
        let edited = self.last.filter(|_| !is_later && self.random.below(2) == 0);
        if let Some(last) = edited {
            label = Label {
                counter: label.counter,
                ..last
            };
        }
        self.refused(label)?;
        let is_edit = edited.is_some();
        let mut writer = Doomed::start(session, save_point, label, is_edit, &mut self.random)?;
        if let Some(label) = save_point {
            writer.wait_for(b's')?;
            self.saved(label)?;
        }
        writer.wait_for(b'w')?;
        writer.kill(&mut self.random)?;
        // Whether that may be there is looked at after the cuts.
        let bytes = fs::read(session)?;
        match self.contents.read(&bytes) {
            Ok(there) => self.last = Some(there),
            Err(_) if bytes.is_empty() => self.last = None,
            // What comes now needs a whole one.
            Err(_) => return self.save(Way::Truncate),
        }
        Ok(())
    }

    fn command(&self, bytes: &[u8]) -> Result<()> {
        let mut child = Command::new(&self.arguments.sessionfs)
            .args(["save", "--repository"])
            .arg(&self.arguments.repository)
            .arg(name(self.session))
            .stdin(Stdio::piped())
            .spawn()?;
        let fed = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(bytes),
            None => Ok(()),
        };
        let status = child.wait()?;
        fed?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("sessionfs save: {status}").into()),
        }
    }

    fn as_the_original(&self, bytes: &[u8]) -> Result<()> {
        let directory = self.arguments.repository.join(name(self.session));
        let next = directory.join("session.next");
        let mut file = File::create_new(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        close(file)?;
        fs::rename(&next, directory.join("session"))?;
        File::open(&directory)?.sync_all()?;
        Ok(())
    }

    fn save_in_place(&mut self) -> Result<()> {
        let label = self.next();
        let path = self.home().join(name(self.session)).join("session");
        let mut file = File::create(path)?;
        // As if it worked out what to write. On btrfs only a commit of the
        // whole filesystem brings an empty file to the disk.
        let a_while = Duration::from_micros(self.random.below(5_000));
        std::thread::sleep(a_while);
        file.write_all(&self.contents.make(label))?;
        file.sync_all()?;
        self.saved(label)
    }
}

/// Closes a file and tells what close(2) says, which dropping it does not.
#[allow(unsafe_code, reason = "the standard library ignores the error")]
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is not owned by anything else any more.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
