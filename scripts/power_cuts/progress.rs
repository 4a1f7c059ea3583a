//! Where a worker of the load is: its session, its last save, and the log in which
//! it says of each when it has returned.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::acknowledged::{State, name};
use crate::content::{Contents, Label};
use crate::random::Random;
use crate::result::Result;

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
    pub report: PathBuf,
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

/// A worker in the middle of its saves.
pub struct Progress<'a> {
    pub arguments: &'a Arguments,
    pub contents: Contents,
    pub random: Random,
    pub session: u64,
    /// The checkpoint of this session.
    pub last: Option<Label>,
    /// Of the last save that was tried in it.
    counter: u64,
    log: File,
}

impl<'a> Progress<'a> {
    pub fn new(arguments: &'a Arguments) -> Result<Self> {
        Ok(Self {
            arguments,
            contents: Contents::new(),
            random: Random::new(arguments.seed),
            session: 0,
            last: None,
            counter: 0,
            log: File::create_new(&arguments.log)?,
        })
    }

    /// Goes on in a new session, which has to be made.
    pub fn begin(&mut self, session: u64) {
        self.session = session;
        self.counter = 0;
        self.last = None;
    }

    /// Where sessions are saved in.
    pub fn home(&self) -> &Path {
        match self.arguments.in_place {
            true => &self.arguments.repository,
            false => &self.arguments.mount,
        }
    }

    /// The directory of this session.
    pub fn directory(&self) -> PathBuf {
        self.home().join(name(self.session))
    }

    /// The same in the repository.
    pub fn behind(&self) -> PathBuf {
        self.arguments.repository.join(name(self.session))
    }

    /// Says what has returned, and how much was recorded by then.
    pub fn tell(&mut self, session: u64, state: State) -> Result<()> {
        let position = fs::read_to_string(&self.arguments.report)?;
        self.tell_of(session, state, &position)
    }

    /// The same of what somebody else has noted.
    pub fn tell_of(&mut self, session: u64, state: State, position: &str) -> Result<()> {
        Ok(writeln!(self.log, "{session} {state} {position}")?)
    }

    /// The label of the next save, which keeps the attributes.
    pub fn next(&mut self) -> Label {
        self.counter += 1;
        Label {
            attributes: self.last.map_or(0, |last| last.attributes),
            ..Contents::label(self.session, self.counter, &mut self.random)
        }
    }

    /// Such a save may be nowhere, whenever the power is cut.
    pub fn refused(&mut self, label: Label) -> Result<()> {
        self.tell(self.session, State::Refused(label.counter))
    }

    pub fn saved(&mut self, label: Label) -> Result<()> {
        self.last = Some(label);
        self.tell(self.session, State::Saved(label.counter))
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.random.below(times) == 0
    }
}
