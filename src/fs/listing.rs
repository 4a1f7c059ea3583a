//! Directories: OPENDIR and READDIRPLUS.

use std::ffi::{OsStr, OsString};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::entries::must_wait;
use super::errno::{Patience, Result};
use super::handle::Handle;
use super::lookup::{device, is_dir, is_file, other_role};
use super::node::{ROOT, Role};
use super::{Caller, Dir, Entry, Fs, LISTING_TTL};
use crate::repo::CHECKPOINT;
use crate::sys::{self, Errno};

/// The names of a directory as they were when somebody began to read it: a
/// descriptor may have been open for long by then. Until he starts over they
/// have the same places, whatever comes and goes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Listing {
    names: Vec<OsString>,
}

/// One entry of a directory.
#[derive(Debug)]
pub struct Listed {
    /// Where the reading goes on after it.
    pub offset: u64,
    /// The name.
    pub name: OsString,
    /// What it is.
    pub entry: Entry,
}

impl Fs {
    /// Opens a directory.
    ///
    /// # Errors
    /// `ESTALE` if it is not where it was, `EACCES` if it must not be read.
    pub fn opendir(&self, id: u64, caller: Caller, patience: Patience) -> Result<u64> {
        if let Role::Session = self.role(id)? {
            self.settle_removal(id, patience)?;
        }
        let share = self.reserve(caller, 1)?;
        // A repository that is missing lists as empty.
        if id != ROOT || self.repository.root()?.is_some() {
            sys::open_dir(&*self.dir(id)?.fd, OsStr::new("."))?;
        }
        Ok(self.handles.add(Handle::Directory(Mutex::default()), share))
    }

    /// The names in a directory: of the root the sessions, youngest first; of
    /// a session always `session` among them, but to who has removed it.
    fn names(&self, id: u64, caller: Caller) -> Result<Vec<OsString>> {
        let role = self.role(id)?;
        if let Role::Root = role {
            let entries = self.repository.list()?;
            return Ok(entries
                .into_iter()
                .map(|entry| entry.name.as_os_str().to_owned())
                .collect());
        }
        let dir = self.dir(id)?;
        let mut names = sys::read_dir(&*dir.fd)?;
        if let Role::Session = role {
            let is_there = names.iter().any(|name| name == CHECKPOINT);
            // To who has removed it, it is not there; a newer one is.
            let is_removed = self
                .removals
                .asked_by(caller.tid, id)
                .is_some_and(|removal| {
                    sys::stat(&*dir.fd, CHECKPOINT.as_ref()).is_ok_and(|s| removal.is_of(s.stx_ino))
                        || !is_there
                });
            if is_removed {
                names.retain(|name| name != CHECKPOINT);
            } else if !is_there {
                names.insert(0, CHECKPOINT.into());
            }
        }
        Ok(names)
    }

    /// Gives the entries from `offset` on to `take`, until it answers false:
    /// no room for this one. An entry that was taken counts as looked up,
    /// but for `.` and `..`.
    ///
    /// # Errors
    /// `EBADF`; `ESTALE` if the directory is not where it was.
    pub fn readdirplus(
        &self,
        id: u64,
        handle: u64,
        offset: u64,
        caller: Caller,
        mut take: impl FnMut(&Listed) -> bool,
    ) -> Result<()> {
        let handle = self.handles.get(handle)?;
        let Handle::Directory(listing) = &*handle else {
            return Err(Errno::NOTDIR.into());
        };
        let mut listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            listing.names = self.names(id, caller)?;
        }
        if offset == 0 && !take(&self.dot(1, ".", id)?) {
            return Ok(());
        }
        if offset <= 1 && !take(&self.dot(2, "..", self.parent_of(id)?)?) {
            return Ok(());
        }
        let dir = match self.dir(id) {
            Ok(dir) => dir,
            // A repository that is missing lists as empty.
            Err(_) if listing.names.is_empty() => return Ok(()),
            Err(fail) => return Err(fail),
        };
        let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        for (index, name) in listing.names.iter().enumerate().skip(first) {
            // What has vanished since is left out.
            let Ok(Some(entry)) = self.listed_entry(id, &dir, name, caller) else {
                continue;
            };
            let listed = Listed {
                offset: index as u64 + 3,
                name: name.clone(),
                entry,
            };
            if !take(&listed) {
                self.nodes.forget(listed.entry.attr.ino.0, 1);
                return Ok(());
            }
        }
        Ok(())
    }

    fn listed_entry(
        &self,
        parent: u64,
        dir: &Dir,
        name: &OsStr,
        caller: Caller,
    ) -> Result<Option<Entry>> {
        if self.is_checkpoint(parent, name)? {
            return self.lookup_checkpoint(parent, caller).map(Some);
        }
        let file = sys::open_path(&*dir.fd, name)?;
        let stat = sys::fstat(&file)?;
        if device(&stat) != device(&dir.stat) {
            return Ok(None);
        }
        let role = match (parent, is_dir(&stat)) {
            (ROOT, false) => return Ok(None),
            (ROOT, true) => Role::Session,
            _ => other_role(&stat),
        };
        let entry = self.entry(parent, name, role, &stat, self.birth(&stat));
        // The program that lists is about to ask for these attributes. A file
        // that is about to be read has to be asked for again.
        let ttl = if is_file(&stat) {
            Duration::ZERO
        } else {
            LISTING_TTL
        };
        // A permission that is taken away in the repository is gone at once.
        let believed = !self.options.allow_other;
        let attr_ttl = if believed { ttl } else { Duration::ZERO };
        let asked = &self.options;
        Ok(Some(Entry {
            entry_ttl: asked.entry_timeout.map_or(ttl, |_| entry.entry_ttl),
            attr_ttl: asked.attr_timeout.map_or(attr_ttl, |_| entry.attr_ttl),
            ..entry
        }))
    }

    fn parent_of(&self, id: u64) -> Result<u64> {
        if id == ROOT {
            return Ok(ROOT);
        }
        Ok(self.nodes.place(id).ok_or(Errno::STALE)?.0)
    }

    /// `.` or `..`, which the kernel does not count as looked up.
    fn dot(&self, offset: u64, name: &str, id: u64) -> Result<Listed> {
        let attr = self.attributes(id, None, Patience::None)?;
        Ok(Listed {
            offset,
            name: name.into(),
            entry: Entry {
                attr,
                generation: 0,
                entry_ttl: Duration::ZERO,
                attr_ttl: Duration::ZERO,
            },
        })
    }

    /// Makes the entries of a directory durable: fsync(2) of it.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn fsyncdir(&self, id: u64, caller: Caller, patience: Patience) -> Result<()> {
        must_wait(patience)?;
        // Whoever syncs wants his removal to last.
        self.complete_removal(id, caller, patience)?;
        let dir = self.dir(id)?;
        Ok(sys::fsync(sys::open_dir(&*dir.fd, OsStr::new("."))?)?)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.handles.remove(handle);
    }
}
