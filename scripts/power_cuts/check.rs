//! After the cut: the disk as it was left is mounted, and what is there is
//! compared with what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sessionfs::repo::{self, Repository, SessionName};

use rustix::io::Errno;

use crate::acknowledged::{Acknowledged, State, first_number, may_be_foreign, name};
use crate::attributes;
use crate::content::{Contents, Label};
use crate::disk::{Entry, Shared};
use crate::finding::Finding;
use crate::image::{IMAGE, Served};
use crate::load::Recording;
use crate::options::Run;
use crate::place::{Loop, run};
use crate::points::{self, Kept, Point};
use crate::random::Random;
use crate::result::Result;
use crate::saving::BESIDE;

/// The saves that are made after a cut have such counters.
const AFTER_THE_CUT: u64 = 1 << 40;

/// Whose `session.next` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    None,
    Ours,
    Foreign,
}

/// Looks at the marks themselves (DESIGN 3), and does not ask the library.
fn whose(next: &Path) -> io::Result<Lock> {
    let is_sticky = fs::symlink_metadata(next)?.mode() & 0o1000 != 0;
    match rustix::fs::lgetxattr(next, "user.sessionfs.staged", &mut [0_u8; 16]) {
        Ok(_) => Ok(Lock::Ours),
        Err(Errno::NODATA) if is_sticky => Ok(Lock::Ours),
        Err(Errno::NODATA) => Ok(Lock::Foreign),
        Err(errno) => Err(errno.into()),
    }
}

/// All that was seen.
#[derive(Default)]
pub struct Outcome {
    pub points: usize,
    pub at_flushes: usize,
    /// Checkpoints compared.
    pub compared: usize,
    /// Locks of ours found, which the next save has removed.
    pub dead_locks: usize,
    /// Locks of the original found, which have to be broken.
    pub foreign_locks: usize,
    pub findings: BTreeMap<Finding, usize>,
}

/// Tries all points, and tells of each finding.
pub fn check(run: &Run, recording: Recording) -> Result<Outcome> {
    let Recording {
        disk,
        entries,
        acknowledged,
    } = recording;
    let disk = Shared::new(disk);
    let rebuilt = run.directory.join("rebuilt");
    let served = Served::mount(disk.clone(), "power-cuts", &rebuilt)?;
    let device = Loop::attach(&served.path(IMAGE))?;
    let mut checker = Checker {
        run,
        disk,
        device: device.device().to_owned(),
        mountpoint: run.directory.join("disk"),
        contents: Contents::new(),
        random: Random::new(run.seed ^ 0xc0de),
        // From the beginning: nobody may find it before either.
        refused: acknowledged.iter().filter_map(refused).collect(),
        outcome: Outcome::default(),
    };
    let mut required = BTreeMap::new();
    let mut acknowledged = acknowledged.iter().peekable();
    let mut applied = 0;
    for point in points::choose(&entries, run.size.points, &mut Random::new(run.seed)) {
        for entry in &entries[applied..point.covered] {
            if let Entry::Write(offset, data) = entry {
                checker.disk.lock().write(*offset, data);
            }
        }
        applied = point.covered;
        while let Some(a) = acknowledged.next_if(|a| a.position <= point.cut) {
            if refused(a).is_none() {
                required.insert(a.session, a.state);
            }
        }
        checker.point(&point, &entries, &required)?;
        let until = run.until;
        if until.is_some_and(|kind| checker.outcome.findings.contains_key(&kind)) {
            break;
        }
    }
    Ok(checker.outcome)
}

/// A save that may be nowhere: its session's first number, and its counter.
fn refused(a: &Acknowledged) -> Option<(u64, u64)> {
    match a.state {
        State::Refused(counter) => Some((first_number(a.session), counter)),
        State::Saved(_) | State::Going | State::Gone => None,
    }
}

struct Checker<'a> {
    run: &'a Run,
    disk: Shared,
    device: PathBuf,
    mountpoint: PathBuf,
    contents: Contents,
    random: Random,
    refused: BTreeSet<(u64, u64)>,
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
            let mut disk = checker.disk.lock();
            disk.begin();
            for (offset, data) in &kept {
                disk.write(*offset, data);
            }
        };
        start(self);
        let mut findings = Vec::new();
        match self.run.on.mount(&self.device, &self.mountpoint) {
            Ok(mounted) => {
                self.compare(required, &mut findings);
                mounted.unmount()?;
            }
            Err(e) => findings.push((Finding::Unreadable, format!("mount: {e}"))),
        }
        self.outcome.points += 1;
        self.outcome.at_flushes += usize::from(matches!(point.kept, Kept::Nothing));
        for (kind, what) in &findings {
            println!("{}: {kind}: {what} ({point:?})", self.run.on.name());
            *self.outcome.findings.entry(*kind).or_default() += 1;
        }
        if let (Some(keep), [(kind, _), ..]) = (&self.run.size.keep, &findings[..]) {
            start(self);
            let image = format!("{}.{kind}.{}.image", self.run.on.name(), point.cut);
            self.disk.lock().store(&keep.join(image))?;
        }
        self.disk.lock().end();
        Ok(())
    }

    fn compare(&mut self, required: &BTreeMap<u64, State>, findings: &mut Vec<(Finding, String)>) {
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
            Err(e) => return findings.push((Finding::Unreadable, format!("the repository: {e}"))),
        };
        for (session, state) in required {
            let is_wrong = match state {
                State::Saved(_) => !there.contains(session),
                State::Going | State::Refused(_) => false,
                State::Gone => there.contains(session),
            };
            if is_wrong {
                let is_there = if there.contains(session) {
                    "is"
                } else {
                    "is not"
                };
                let text = format!("session {session} {is_there} there, which was {state:?}");
                findings.push((Finding::Misplaced, text));
            }
        }
        let mut to_save = Vec::new();
        let mut labels = BTreeMap::new();
        for &session in &there {
            let required = match required.get(&session) {
                Some(&State::Saved(counter)) => counter,
                Some(State::Going | State::Gone | State::Refused(_)) | None => 0,
            };
            match self.session(&root, session, required) {
                Ok((lock, label)) => {
                    labels.extend(label.map(|label| (session, label)));
                    if lock != Lock::None {
                        to_save.push((session, lock));
                    }
                }
                Err(finding) => findings.push(finding),
            }
        }
        // And one more, whether it has a lock or not.
        if !there.is_empty() {
            let any = self.random.below(there.len() as u64) as usize;
            to_save.extend(there.iter().nth(any).map(|&session| (session, Lock::None)));
        }
        for (session, lock) in to_save {
            let kept = labels.get(&session).copied();
            if let Err(what) = self.save_anew(&root, (session, lock), kept) {
                findings.push((Finding::Stuck, format!("session {session}: {what}")));
            }
        }
    }

    /// Looks at one session; answers whose lock is there, and what is its checkpoint.
    fn session(
        &mut self,
        root: &Path,
        session: u64,
        required: u64,
    ) -> std::result::Result<(Lock, Option<Label>), (Finding, String)> {
        let directory = root.join(name(session));
        let unreadable = |what: &str, e: io::Error| {
            let text = format!("session {session}: {what}: {e}");
            (Finding::Unreadable, text)
        };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&directory).map_err(|e| unreadable("its directory", e))? {
            let name = entry
                .map_err(|e| unreadable("its directory", e))?
                .file_name();
            names.insert(name.to_string_lossy().into_owned());
        }
        for name in &names {
            // What is to be renamed is an ordinary file, and may be anything.
            if !["session", "session.next", BESIDE, "logs"].contains(&name.as_str()) {
                return Err((Finding::Debris, format!("session {session}: {name}")));
            }
        }
        let next = directory.join("session.next");
        let lock = match names.contains("session.next") {
            true => whose(&next).map_err(|e| unreadable("session.next", e))?,
            false => Lock::None,
        };
        if lock == Lock::Foreign && !may_be_foreign(session) {
            let text = format!("session {session}: session.next is not marked");
            return Err((Finding::Stuck, text));
        }
        // Where it is staged under that name, it may be anything.
        if lock == Lock::Ours && std::env::var_os("SESSIONFS_WITHOUT_TMPFILE").is_none() {
            let bytes = fs::read(next).map_err(|e| unreadable("session.next", e))?;
            // Empty: a lock, for a change of names alone.
            if !bytes.is_empty() {
                self.contents.read(&bytes).map_err(|e| {
                    let text = format!("session {session}: session.next is {e}");
                    (Finding::Debris, text)
                })?;
            }
        }
        if !names.contains("session") {
            return match required {
                0 => Ok((lock, None)),
                _ => Err((
                    Finding::Lost,
                    format!("session {session}: nothing, and {required} was acknowledged"),
                )),
            };
        }
        let bytes = fs::read(directory.join("session")).map_err(|e| unreadable("session", e))?;
        let label = self
            .contents
            .read(&bytes)
            .map_err(|e| (Finding::Torn, format!("session {session}: {e}")))?;
        self.outcome.compared += 1;
        if self.refused.contains(&(label.session, label.counter)) {
            return Err((Finding::Unasked, format!("session {session}: {label:?}")));
        }
        if label.session != first_number(session) || label.counter < required {
            let text = format!("session {session}: {label:?}, and {required} was acknowledged");
            return Err((Finding::Lost, text));
        }
        // I1 as a whole: content and attributes are of one version.
        match attributes::wrong(&directory.join("session"), label) {
            Ok(None) => Ok((lock, Some(label))),
            Ok(Some(what)) => Err((
                Finding::Mixed,
                format!("session {session}: {what}: {label:?}"),
            )),
            Err(e) => Err(unreadable("session", e)),
        }
    }

    /// The next save works, whatever was left, and leaves nothing but the attributes
    /// of the checkpoint that was there.
    fn save_anew(
        &mut self,
        root: &Path,
        (session, lock): (u64, Lock),
        kept: Option<Label>,
    ) -> Result<()> {
        let label = Label {
            counter: AFTER_THE_CUT,
            attributes: kept.map_or(0, |label| label.attributes),
            ..Contents::label(first_number(session), 0, &mut self.random)
        };
        let bytes = self.contents.make(label);
        let name = SessionName::new(name(session))?;
        let opened = Repository::new(root).session(&name)?;
        if lock == Lock::Foreign {
            self.outcome.foreign_locks += 1;
            match opened.save(&bytes) {
                Err(e) if e.kind() == repo::Kind::Locked => {}
                other => return Err(format!("a save beside a foreign lock: {other:?}").into()),
            }
            opened.break_lock()?;
        }
        if lock == Lock::Ours {
            self.outcome.dead_locks += 1;
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
        let directory = root.join(name.as_os_str());
        if directory.join("session.next").exists() {
            return Err("session.next is there after the next save".into());
        }
        match attributes::wrong(&directory.join("session"), label)? {
            Some(what) => Err(format!("after the next save: {what}: {label:?}").into()),
            None => Ok(()),
        }
    }
}
