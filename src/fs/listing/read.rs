//! The requests for directories: OPENDIR, READDIRPLUS, RELEASEDIR and FSYNCDIR.

use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::fs::attr::attr_of;
use crate::fs::dir::Dir;
use crate::fs::entry::{Entry, LISTING_TTL};
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::{ROOT, Role, other_role};
use crate::fs::listing::pieces::{AFTER_LAST, AFTER_SHOWN, Pieces};
use crate::fs::listing::sorted::Sorted;
use crate::fs::listing::state::Listing;
use crate::fs::options::Missing;
use crate::fs::request::{Caller, Patience, Request};
use crate::repo::CHECKPOINT;
use crate::sys::{self, Errno, device, is_dir, is_file};

/// One entry of a directory.
#[derive(Debug)]
pub struct Listed {
    /// The offset at which the listing continues after it.
    pub offset: u64,
    /// The name.
    pub name: OsString,
    /// What the kernel is told about it.
    pub entry: Entry,
}

impl Fs {
    /// Opens a directory.
    ///
    /// # Errors
    /// `ESTALE` if it has moved, `EACCES` if it must not be read.
    pub fn opendir(&self, id: u64, request: Request) -> Result<u64> {
        if let Role::Session = self.role(id)? {
            self.carry_out_due_removal(id, request.patience)?;
        }
        let share = self.reserve(request.caller, 1)?;
        let role = self.role(id)?;
        let listing = match role {
            // A missing repository lists as empty.
            Role::Root => {
                if let Some(root) = self.repository.root()? {
                    sys::open_dir(&*root, OsStr::new("."))?;
                }
                Listing::Root(None)
            }
            _ => {
                let dir = sys::open_dir(&*self.dir(id)?.fd, OsStr::new("."))?;
                Listing::Other(Pieces::new(dir, matches!(role, Role::Session)))
            }
        };
        let handle = Handle::Directory(Mutex::new(listing));
        Ok(self.lasting.handles.add(handle, share))
    }

    /// Passes the entries from `offset` on to `take`, until that returns false because it
    /// has no room for another. An entry that was taken counts as looked up, except `.`
    /// and `..`.
    ///
    /// # Errors
    /// `EBADF`; `ESTALE` if the directory has moved; `ENOMEM`.
    pub fn readdirplus(
        &self,
        id: u64,
        handle: u64,
        offset: u64,
        caller: Caller,
        take: impl FnMut(&Listed) -> bool,
    ) -> Result<()> {
        let handle = self.lasting.handles.get(handle)?;
        let Handle::Directory(listing) = &*handle else {
            return Err(Errno::NOTDIR.into());
        };
        let mut listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *listing {
            Listing::Root(sessions) => self.read_root(sessions, offset, caller, take),
            Listing::Other(pieces) => self.read_pieces((id, pieces), offset, caller, take),
        }
    }

    /// The sessions, youngest first.
    fn read_root(
        &self,
        sessions: &mut Option<Arc<Sorted>>,
        offset: u64,
        caller: Caller,
        mut take: impl FnMut(&Listed) -> bool,
    ) -> Result<()> {
        let sessions = match sessions {
            Some(sessions) if offset > 0 => sessions,
            _ => {
                *sessions = None;
                sessions.insert(self.sorted(caller)?)
            }
        };
        if offset == 0 && !take(&self.dot(1, ".", ROOT)?) {
            return Ok(());
        }
        if offset <= 1 && !take(&self.dot(2, "..", ROOT)?) {
            return Ok(());
        }
        let dir = match self.dir(ROOT) {
            Ok(dir) => dir,
            // A missing repository lists as empty.
            Err(_) if sessions.len() == 0 => return Ok(()),
            Err(fail) => return Err(fail),
        };
        let first = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        for index in first..sessions.len() {
            let Some(name) = sessions.get(index) else {
                return Ok(());
            };
            // A session that has vanished since is left out.
            let Ok(Some(entry)) = self.listed_entry(ROOT, &dir, name, caller) else {
                continue;
            };
            let listed = Listed {
                offset: index as u64 + 3,
                name: name.to_owned(),
                entry,
            };
            if !self.pass_to(&listed, &mut take) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The names of the sessions as they are now. If they are the same as in the last
    /// listing by that user, they share its memory.
    fn sorted(&self, caller: Caller) -> Result<Arc<Sorted>> {
        let new = Sorted::new(&self.repository, &self.listings.memory, caller.uid)?;
        let last = &self.listings.last;
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.upgrade().filter(|last| last.is_same(&new)) {
            return Ok(last);
        }
        let new = Arc::new(new);
        *last = Arc::downgrade(&new);
        Ok(new)
    }

    /// The entries of any other directory, in the filesystem's order. A session's listing
    /// contains `session` even if there is none (see [`Missing`]), unless the caller has
    /// removed it.
    fn read_pieces(
        &self,
        (id, pieces): (u64, &mut Pieces),
        offset: u64,
        caller: Caller,
        mut take: impl FnMut(&Listed) -> bool,
    ) -> Result<()> {
        let dir = pieces.dir()?;
        let mut is_first = true;
        if offset == 0 {
            let (hides, shows) = self.sees(id, &dir, caller)?;
            pieces.begin(hides, shows);
            // If it cannot be looked up, it is left out.
            if shows && let Ok(entry) = self.lookup_checkpoint(id, caller) {
                let listed = Listed {
                    offset: AFTER_SHOWN,
                    name: CHECKPOINT.into(),
                    entry,
                };
                if !self.pass_to(&listed, &mut take) {
                    return Ok(());
                }
                is_first = false;
            }
        }
        pieces.seek(offset)?;
        loop {
            let (name, after) = match pieces.first() {
                Ok(Some(first)) => first,
                // The entries so far are returned, and the error at the next call.
                Err(errno) if is_first => return Err(errno.into()),
                Err(_) => return Ok(()),
                Ok(None) => break,
            };
            let listed = self.listed((id, &dir), name, after, caller);
            if let Some(listed) = listed {
                if !self.pass_to(&listed, &mut take) {
                    pieces.keep_unlisted(&self.listings.memory, caller.uid);
                    return Ok(());
                }
                is_first = false;
                pieces.list_first();
            } else {
                pieces.skip_first();
            }
        }
        if pieces.lacks_session()
            && let Ok(entry) = self.lookup_checkpoint(id, caller)
        {
            let listed = Listed {
                offset: AFTER_LAST,
                name: CHECKPOINT.into(),
                entry,
            };
            if self.pass_to(&listed, &mut take) {
                pieces.list_missing_session();
            }
        }
        Ok(())
    }

    /// What a caller that begins to read a directory sees: whether an existing `session`
    /// is hidden from it, and whether a missing one is shown.
    fn sees(&self, id: u64, dir: &Dir, caller: Caller) -> Result<(bool, bool)> {
        if !matches!(self.role(id)?, Role::Session) {
            return Ok((false, false));
        }
        let there = match sys::stat(&*dir.fd, CHECKPOINT.as_ref()) {
            Ok(stat) => Some(stat.stx_ino),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        // A checkpoint that the caller has removed is hidden; a newer one is not.
        let removal = self.lasting.sessions.removed_by(caller.tid, id);
        let is_removed =
            removal.is_some_and(|removal| there.is_none_or(|there| removal.is_of(there)));
        let is_shown = there.is_none() && self.options.missing == Missing::Empty;
        Ok((is_removed, !is_removed && is_shown))
    }

    /// One entry of a directory; `None` if it has vanished since, or is not part of the
    /// mount.
    fn listed(
        &self,
        (id, dir): (u64, &Dir),
        name: &OsStr,
        offset: u64,
        caller: Caller,
    ) -> Option<Listed> {
        if name == ".." {
            return self.dot(offset, "..", self.parent_of(id).ok()?).ok();
        }
        let entry = if name == "." {
            Entry {
                attr: attr_of(&dir.stat, id),
                generation: 0,
                entry_ttl: Duration::ZERO,
                attr_ttl: Duration::ZERO,
            }
        } else {
            self.listed_entry(id, dir, name, caller).ok()??
        };
        Some(Listed {
            offset,
            name: name.to_owned(),
            entry,
        })
    }

    /// Passes an entry, which counts as looked up, to `take`; undoes the count if it has
    /// no room.
    fn pass_to(&self, listed: &Listed, take: &mut impl FnMut(&Listed) -> bool) -> bool {
        let is_taken = take(listed);
        if !is_taken && listed.name != "." && listed.name != ".." {
            self.lasting.nodes.forget(listed.entry.attr.ino.0, 1);
        }
        is_taken
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
        // The listing program is about to ask for these attributes. But those of a file
        // that may be read next must be asked for again.
        let ttl = if is_file(&stat) {
            Duration::ZERO
        } else {
            LISTING_TTL
        };
        // A permission that is taken away in the repository must be gone at once.
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
        Ok(self
            .lasting
            .nodes
            .parent_and_name(id)
            .ok_or(Errno::STALE)?
            .0)
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
    pub fn fsyncdir(&self, id: u64, request: Request) -> Result<()> {
        request.patience.must_wait()?;
        // A caller that syncs wants its removal to be durable.
        self.carry_out_own_removal(id, request)?;
        let dir = self.dir(id)?;
        Ok(sys::fsync(sys::open_dir(&*dir.fd, OsStr::new("."))?)?)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.lasting.handles.remove(handle);
    }
}
