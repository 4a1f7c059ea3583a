//! What crashes and other programs have left in a repository (DESIGN I4).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::cli::failure::{one_line, warn};
use crate::cli::progress::{Progress, Unit};
use crate::cli::state::{DIRECTORY, is_directory};
use crate::cli::{human, output};
use crate::proc::holders;
use crate::repo::{
    CHECKPOINT, Kind, LOCK, Lock, LockOwner, Repository, Result, Session, SessionName,
};

/// What has been found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// A `session.next` of ours of this time, whose save has died.
    DeadLock(SystemTime),
    /// One of ours; whether its save is alive cannot be told.
    UndecidedLock(SystemTime),
    /// One of another program, which no process is seen to have open.
    ForeignLock(SystemTime),
    /// A directory in the place of a lock.
    DirectoryAsLock(SystemTime),
    /// A second name of a checkpoint, of a rename.
    Link,
    /// `session` is no regular file.
    NotAFile,
    /// The directory of a doctor that was killed.
    DeadProbe,
    /// The directory of a doctor; whether it was killed cannot be told.
    UndecidedProbe,
    /// It could not be looked at, for this reason.
    Unreadable(String),
}

impl What {
    /// Its name in JSON.
    fn key(&self) -> &'static str {
        match self {
            Self::DeadLock(_) => "dead_lock",
            Self::UndecidedLock(_) => "undecided_lock",
            Self::ForeignLock(_) => "foreign_lock",
            Self::DirectoryAsLock(_) => "directory_as_lock",
            Self::Link => "link",
            Self::NotAFile => "not_a_file",
            Self::DeadProbe => "dead_probe",
            Self::UndecidedProbe => "undecided_probe",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// The time of a lock.
    fn since(&self) -> Option<SystemTime> {
        match self {
            Self::DeadLock(since)
            | Self::UndecidedLock(since)
            | Self::ForeignLock(since)
            | Self::DirectoryAsLock(since) => Some(*since),
            _ => None,
        }
    }

    /// Whether it is proven that no process needs it.
    fn is_dead(&self) -> bool {
        matches!(self, Self::DeadLock(_) | Self::DeadProbe)
    }
}

/// A finding, and where it is.
#[derive(Debug)]
pub(super) struct Finding {
    session: Option<SessionName>,
    /// Where, in the repository.
    path: PathBuf,
    what: What,
    removed: bool,
}

impl Finding {
    pub(super) fn is_removed(&self) -> bool {
        self.removed
    }

    pub(super) fn object(&self) -> Value {
        let mut object = self
            .session
            .as_ref()
            .map_or_else(Map::new, output::object_of);
        let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
        add("path", self.path.to_string_lossy().into());
        add("kind", self.what.key().into());
        add("dead", self.what.is_dead().into());
        add("removed", self.removed.into());
        if let Some(since) = self.what.since() {
            add("since", human::seconds(since).into());
        }
        if let What::Unreadable(reason) = &self.what {
            add("reason", reason.as_str().into());
        }
        object.into()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", one_line(&self.path.to_string_lossy()))?;
        let advice = "sessionfs break-lock removes it";
        match &self.what {
            What::DeadLock(since) => {
                let since = human::time(*since);
                write!(f, "left at {since} by a save that died")?;
            }
            What::UndecidedLock(since) => {
                let since = human::time(*since);
                write!(f, "left at {since} by a save that may have died; {advice}")?;
            }
            What::ForeignLock(since) => {
                let since = human::time(*since);
                write!(
                    f,
                    "left at {since} by another program, and not seen open anywhere; {advice}"
                )?;
            }
            What::DirectoryAsLock(since) => {
                write!(f, "made at {}: {DIRECTORY}", human::time(*since))?;
            }
            What::Link => write!(
                f,
                "a second name of a checkpoint, left by an interrupted rename"
            )?,
            What::NotAFile => write!(f, "it is not a regular file")?,
            What::DeadProbe => write!(f, "left by a doctor that was killed")?,
            What::UndecidedProbe => write!(f, "left by a doctor that may have been killed")?,
            What::Unreadable(reason) => write!(f, "{}", one_line(reason))?,
        }
        match (self.removed, self.what.is_dead()) {
            (true, _) => write!(f, "; removed"),
            (false, true) => write!(f, "; --fix removes it"),
            (false, false) => Ok(()),
        }
    }
}

/// Finds everything; with `fix`, removes what is dead.
pub(super) fn all(repository: &Repository, fix: bool) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for left in repository.left_probes()? {
        let what = if left.is_dead {
            What::DeadProbe
        } else {
            What::UndecidedProbe
        };
        let remove = || repository.remove_dead_probe(&left.name);
        findings.push(found(None, left.name.clone().into(), what, fix, remove));
    }
    let sessions = repository.list()?;
    let total = sessions.len() as u64;
    let mut progress = Progress::new("looking", Unit::Sessions, Some(total));
    for (done, entry) in sessions.into_iter().enumerate() {
        progress.at(done as u64);
        let name = &entry.name;
        let looked = repository
            .session(name)
            .and_then(|session| in_session(&session, fix, &mut progress));
        match looked {
            Ok(more) => findings.extend(more),
            // Removed meanwhile.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => findings.push(Finding {
                session: Some(name.clone()),
                path: name.as_os_str().into(),
                what: What::Unreadable(human::reason(e.errno())),
                removed: false,
            }),
        }
    }
    Ok(findings)
}

fn in_session(session: &Session, fix: bool, progress: &mut Progress) -> Result<Vec<Finding>> {
    let name = session.name();
    let path = |file: &Path| Path::new(name.as_os_str()).join(file);
    let debris = session.debris()?;
    let mut found_here = Vec::new();
    if debris.is_no_file {
        found_here.push((path(CHECKPOINT.as_ref()), What::NotAFile));
    }
    for link in &debris.links {
        found_here.push((path(link.as_ref()), What::Link));
    }
    if let Some(what) = debris.lock.as_ref().and_then(of_lock) {
        found_here.push((path(LOCK.as_ref()), what));
    }
    let found_here = found_here.into_iter().map(|(path, what)| {
        progress.clear();
        let remove = || session.remove_dead_lock();
        found(Some(name), path, what, fix, remove)
    });
    Ok(found_here.collect())
}

/// What a lock is; `None` if a process is seen to be using it.
fn of_lock(lock: &Lock) -> Option<What> {
    let since = lock.modified();
    if is_directory(lock) {
        return Some(What::DirectoryAsLock(since));
    }
    let what = match lock.owner() {
        LockOwner::Dead => return Some(What::DeadLock(since)),
        // It may be dead where there is no flock(2) to tell.
        LockOwner::Living => What::UndecidedLock(since),
        LockOwner::Foreign => What::ForeignLock(since),
    };
    let is_used = holders::flock_owner(lock.stat()).is_some()
        || !holders::openers(LOCK, lock.stat().stx_ino).is_empty();
    (!is_used).then_some(what)
}

/// A finding; it is removed if `fix` is set and it is dead.
fn found(
    session: Option<&SessionName>,
    path: PathBuf,
    what: What,
    fix: bool,
    remove: impl FnOnce() -> Result<bool>,
) -> Finding {
    let removed = if fix && what.is_dead() {
        remove().unwrap_or_else(|e| {
            let path = path.display();
            warn(&format!(
                "cannot remove {path}: {}",
                human::reason(e.errno())
            ));
            false
        })
    } else {
        false
    };
    Finding {
        session: session.cloned(),
        path,
        what,
        removed,
    }
}
