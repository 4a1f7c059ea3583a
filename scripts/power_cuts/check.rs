//! After the cut: the disk as it was left is mounted, and what is there is
//! compared with what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use sessionfs::repo::{Repository, SessionName};

use crate::content::{Contents, Label, Random};
use crate::disk::Entry;
use crate::load::Recording;
use crate::place::{Loop, run};
use crate::points::{self, Kept, Point};
use crate::server::{Served, Shared, lock};
use crate::worker::{State, first_number, name};
use crate::{Result, Run};

/// The saves that are made after a cut have such counters.
const AFTER_THE_CUT: u64 = 1 << 40;

/// What is not as it was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// The filesystem does not mount, or cannot be read.
    Unreadable,
    /// I2: an acknowledged save is not there.
    Lost,
    /// An acknowledged session is not there, or a removed one is.
    Misplaced,
    /// I1: `session` is no whole content.
    Torn,
    /// I4: partial data under another name, or a name that nobody gave.
    Debris,
    /// I4: the next save does not work.
    Stuck,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "unreadable",
            Self::Lost => "lost",
            Self::Misplaced => "misplaced",
            Self::Torn => "torn",
            Self::Debris => "debris",
            Self::Stuck => "stuck",
        })
    }
}

/// All that was seen.
#[derive(Default)]
pub struct Outcome {
    pub points: usize,
    pub at_flushes: usize,
    /// Checkpoints compared.
    pub compared: usize,
    /// Dead locks found, which the next save has removed.
    pub dead_locks: usize,
    pub findings: BTreeMap<Kind, usize>,
}

/// Tries all points, and tells of each finding.
pub fn check(run: &Run, recording: Recording) -> Result<Outcome> {
    let Recording {
        disk,
        entries,
        acknowledged,
    } = recording;
    let disk: Shared = Arc::new(Mutex::new(disk));
    let served = Served::mount(disk.clone(), &run.directory.join("rebuilt"))?;
    let device = Loop::attach(&served.image())?;
    let mut checker = Checker {
        run,
        disk,
        device: device.device().to_owned(),
        mountpoint: run.directory.join("disk"),
        contents: Contents::new(),
        random: Random::new(run.seed ^ 0xc0de),
        outcome: Outcome::default(),
    };
    let mut required = BTreeMap::new();
    let mut acknowledged = acknowledged.iter().peekable();
    let mut applied = 0;
    for point in points::choose(&entries, run.points, &mut Random::new(run.seed)) {
        for entry in &entries[applied..point.covered] {
            if let Entry::Write(offset, data) = entry {
                lock(&checker.disk).write(*offset, data);
            }
        }
        applied = point.covered;
        while let Some(a) = acknowledged.next_if(|a| a.position <= point.cut) {
            required.insert(a.session, a.state);
        }
        checker.point(&point, &entries, &required)?;
        let until = run.until;
        if until.is_some_and(|kind| checker.outcome.findings.contains_key(&kind)) {
            break;
        }
    }
    Ok(checker.outcome)
}

struct Checker<'a> {
    run: &'a Run,
    disk: Shared,
    device: PathBuf,
    mountpoint: PathBuf,
    contents: Contents,
    random: Random,
    outcome: Outcome,
}

impl Checker<'_> {
    fn point(
        &mut self,
        point: &Point,
        entries: &[Entry],
        required: &BTreeMap<u64, State>,
    ) -> Result<()> {
        let kept = point.kept(entries);
        let start = |checker: &Self| {
            let mut disk = lock(&checker.disk);
            disk.begin();
            for (offset, data) in &kept {
                disk.write(*offset, data);
            }
        };
        start(self);
        let mut findings = Vec::new();
        match self.run.kind.mount(&self.device, &self.mountpoint) {
            Ok(mounted) => {
                self.compare(required, &mut findings);
                mounted.unmount()?;
            }
            Err(e) => findings.push((Kind::Unreadable, format!("mount: {e}"))),
        }
        self.outcome.points += 1;
        self.outcome.at_flushes += usize::from(matches!(point.kept, Kept::Nothing));
        for (kind, what) in &findings {
            println!("{}: {kind}: {what} ({point:?})", self.run.kind.name());
            *self.outcome.findings.entry(*kind).or_default() += 1;
        }
        if let (Some(keep), [(kind, _), ..]) = (&self.run.keep, &findings[..]) {
            start(self);
            let image = format!("{}.{kind}.{}.image", self.run.kind.name(), point.cut);
            lock(&self.disk).store(&keep.join(image))?;
        }
        lock(&self.disk).end();
        Ok(())
    }

    fn compare(&mut self, required: &BTreeMap<u64, State>, findings: &mut Vec<(Kind, String)>) {
        let root = self.mountpoint.join("repository");
        let there: io::Result<BTreeSet<u64>> = fs::read_dir(&root).and_then(|entries| {
            entries
                .map(|entry| {
                    let name = entry?.file_name();
                    let number = name.to_str().and_then(|name| name.strip_suffix(".session"));
                    let number = number.and_then(|number| number.parse().ok());
                    number.ok_or_else(|| io::Error::other(format!("who made {name:?}?")))
                })
                .collect()
        });
        let there = match there {
            Ok(there) => there,
            Err(e) => return findings.push((Kind::Unreadable, format!("the repository: {e}"))),
        };
        for (session, state) in required {
            let is_wrong = match state {
                State::Saved(_) => !there.contains(session),
                State::Going => false,
                State::Gone => there.contains(session),
            };
            if is_wrong {
                let is_there = if there.contains(session) { "is" } else { "is not" };
                let text = format!("session {session} {is_there} there, which was {state:?}");
                findings.push((Kind::Misplaced, text));
            }
        }
        let mut to_save = Vec::new();
        for &session in &there {
            let required = match required.get(&session) {
                Some(&State::Saved(counter)) => counter,
                Some(State::Going | State::Gone) | None => 0,
            };
            match self.session(&root, session, required) {
                Ok(is_locked) => to_save.extend(is_locked.then_some((session, true))),
                Err(finding) => findings.push(finding),
            }
        }
        // And one that has no lock.
        if !there.is_empty() {
            let any = self.random.below(there.len() as u64) as usize;
            to_save.extend(there.iter().nth(any).map(|&session| (session, false)));
        }
        for (session, by_command) in to_save {
            if let Err(what) = self.save_anew(&root, session, by_command) {
                findings.push((Kind::Stuck, format!("session {session}: {what}")));
            }
        }
    }

    /// Looks at one session; answers whether a `session.next` is there.
    fn session(
        &mut self,
        root: &Path,
        session: u64,
        required: u64,
    ) -> std::result::Result<bool, (Kind, String)> {
        let directory = root.join(name(session));
        let unreadable = |what: &str, e: io::Error| {
            let text = format!("session {session}: {what}: {e}");
            (Kind::Unreadable, text)
        };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&directory).map_err(|e| unreadable("its directory", e))? {
            let name = entry.map_err(|e| unreadable("its directory", e))?.file_name();
            names.insert(name.to_string_lossy().into_owned());
        }
        for name in &names {
            // What is to be renamed is an ordinary file, and may be anything.
            if !["session", "session.next", "beside", "logs"].contains(&name.as_str()) {
                return Err((Kind::Debris, format!("session {session}: {name}")));
            }
        }
        let is_locked = names.contains("session.next");
        if is_locked {
            self.outcome.dead_locks += 1;
            let bytes = fs::read(directory.join("session.next"))
                .map_err(|e| unreadable("session.next", e))?;
            // Empty: a lock, for a change of names alone.
            if !bytes.is_empty() {
                self.contents.read(&bytes).map_err(|e| {
                    let text = format!("session {session}: session.next is {e}");
                    (Kind::Debris, text)
                })?;
            }
        }
        if !names.contains("session") {
            return match required {
                0 => Ok(is_locked),
                _ => Err((
                    Kind::Lost,
                    format!("session {session}: nothing, and {required} was acknowledged"),
                )),
            };
        }
        let bytes = fs::read(directory.join("session")).map_err(|e| unreadable("session", e))?;
        let label = self
            .contents
            .read(&bytes)
            .map_err(|e| (Kind::Torn, format!("session {session}: {e}")))?;
        self.outcome.compared += 1;
        if label.session != first_number(session) || label.counter < required {
            let text = format!("session {session}: {label:?}, and {required} was acknowledged");
            return Err((Kind::Lost, text));
        }
        Ok(is_locked)
    }

    /// The next save works, whatever was left, and leaves nothing.
    fn save_anew(&mut self, root: &Path, session: u64, by_command: bool) -> Result<()> {
        let label = Label {
            counter: AFTER_THE_CUT,
            ..Contents::label(session, 0, &mut self.random)
        };
        let bytes = self.contents.make(label);
        let name = SessionName::new(name(session))?;
        let opened = Repository::new(root).session(&name)?;
        if by_command {
            let input = self.run.directory.join("input");
            fs::write(&input, &bytes)?;
            let mut save = Command::new(&self.run.sessionfs);
            save.args(["save", "--repository"]).arg(root);
            run(save.arg("--input").arg(input).arg(name.as_os_str()))?;
        } else {
            opened.save(&bytes)?;
        }
        if opened.load()? != bytes {
            return Err("the next save is not what was saved".into());
        }
        match root.join(name.as_os_str()).join("session.next").exists() {
            true => Err("session.next is there after the next save".into()),
            false => Ok(()),
        }
    }
}
