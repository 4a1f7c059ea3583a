//! The state of a session: its checkpoint, and what blocks the next save.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use super::read_report;
use crate::mount::status::{Asker, Report};
use crate::proc::holders::{flock_owner, openers};
use crate::repo::{Checkpoint, Kind, LOCK, Lock, LockOwner, Result, Session, SessionName};
use crate::sys;

/// The state of a session; where several apply, the first counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// `session` is no regular file.
    Odd,
    /// A process is changing it, as far as that is known.
    Saving(Option<u32>),
    /// Another program's `session.next` has blocked saves since then.
    Locked(SystemTime),
    /// A save that died left its `session.next`; the next one removes it.
    DeadLock(SystemTime),
    /// There is no checkpoint yet.
    Empty,
    /// There is a checkpoint, and nothing blocks the next save.
    Clean,
}

impl State {
    /// The name of the state, for programs and people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Odd => "no regular file",
            Self::Saving(_) => "being saved",
            Self::Locked(_) => "locked",
            Self::DeadLock(_) => "dead lock",
            Self::Empty => "empty",
            Self::Clean => "clean",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Saving(Some(pid)) => write!(f, " by {pid}"),
            Self::Locked(since) | Self::DeadLock(since) => write!(f, " for {}", age(*since)),
            Self::Odd | Self::Saving(None) | Self::Empty | Self::Clean => Ok(()),
        }
    }
}

/// What a look at a session has found.
#[derive(Debug)]
pub(super) struct Look {
    /// Size in bytes and time of the checkpoint.
    pub(super) checkpoint: Option<(u64, SystemTime)>,
    /// Its state.
    pub(super) state: State,
}

/// The sessions of a repository that are being saved on a mount of it, and by
/// which processes.
#[derive(Debug, Default)]
pub(super) struct Saving(BTreeMap<String, Option<u32>>);

impl Saving {
    /// What the mounts of this repository report, if they can be asked.
    pub(super) fn of(repository: &Path) -> Self {
        let Ok(repository) = repository.canonicalize() else {
            return Self::default();
        };
        let mut saving = BTreeMap::new();
        for mount in Asker::new(read_report::command).all().unwrap_or_default() {
            let Report::Told(report) = mount.report else {
                continue;
            };
            let is_it = report["repository"].as_str().map(Path::new) == Some(&repository)
                || mount.mountpoint == repository;
            for one in report["saving"].as_array().into_iter().flatten() {
                if let (true, Some(session)) = (is_it, one["session"].as_str()) {
                    let pid = one["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                    saving.insert(session.to_owned(), pid);
                }
            }
        }
        Self(saving)
    }

    fn get(&self, name: &SessionName) -> Option<Option<u32>> {
        self.0.get(&*name.id().to_string_lossy()).copied()
    }
}

/// Looks at a session, and changes nothing.
pub(super) fn look(session: &Session, saving: &Saving) -> Result<Look> {
    let (checkpoint, is_odd) = match session.checkpoint() {
        Ok(checkpoint) => (checkpoint, false),
        Err(error) if error.kind() == Kind::NotAFile => (None, true),
        Err(error) => return Err(error),
    };
    let lock = session.lock()?;
    let state = match (saving.get(session.name()), lock) {
        _ if is_odd => State::Odd,
        (Some(pid), _) => State::Saving(pid),
        (None, Some(lock)) => match lock.owner() {
            LockOwner::Foreign => State::Locked(lock.modified()),
            LockOwner::Living => State::Saving(flock_owner(lock.stat())),
            LockOwner::Dead => State::DeadLock(lock.modified()),
        },
        (None, None) if checkpoint.is_none() => State::Empty,
        (None, None) => State::Clean,
    };
    let brief = |checkpoint: Checkpoint| (checkpoint.len(), checkpoint.modified());
    Ok(Look {
        checkpoint: checkpoint.map(brief),
        state,
    })
}

/// The message about a lock that is a directory, whose content is not ours to remove.
pub(super) const DIRECTORY: &str = "a directory: not a lock, but it blocks saves like one; \
    look into it and move it away";

/// Whether a lock is a directory.
pub(super) fn is_directory(lock: &Lock) -> bool {
    sys::is_dir(lock.stat())
}

/// The processes that are known to be alive and to have this lock, in words.
pub(super) fn living_owner(lock: &Lock) -> Option<String> {
    let words = |(pid, command): &(u32, String)| format!("{pid} ({command})");
    let openers = openers(LOCK, lock.stat().stx_ino);
    let openers: Vec<_> = openers.iter().map(words).collect();
    match (lock.owner(), &openers[..]) {
        (LockOwner::Dead, _) | (LockOwner::Foreign, []) => None,
        (LockOwner::Living, []) => Some(match flock_owner(lock.stat()) {
            Some(pid) => pid.to_string(),
            None => "a process that cannot be seen from here".to_owned(),
        }),
        (LockOwner::Living | LockOwner::Foreign, some) => Some(some.join(", ")),
    }
}

/// How long ago a time is, in one unit; "0 s" for a time in the future.
pub(super) fn age(time: SystemTime) -> String {
    let seconds = time.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ages_are_told_in_one_unit() {
        let ago = |seconds| age(SystemTime::now() - Duration::from_secs(seconds));
        assert_eq!(ago(0), "0 s");
        assert_eq!(ago(61), "1 min");
        assert_eq!(ago(7300), "2 h");
        assert_eq!(ago(200_000), "2 d");
        assert_eq!(age(SystemTime::now() + Duration::from_secs(99)), "0 s");
    }
}
