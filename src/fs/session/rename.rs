//! RENAME and LINK, and what they mean for the name `session` (DESIGN 2.11 and 2.12).

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::fs::entry::Entry;
use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::ROOT;
use crate::fs::request::Request;
use crate::repo::{Kind, LOCK, Linked, Session, SessionName};
use crate::sys::{self, Errno, RenameFlags, Statx, is_file};

/// The node of a directory, and a name in it.
type Dirent<'a> = (u64, &'a OsStr);

impl Fs {
    /// Renames. A regular file renamed to a session's `session` is a save: it is durable
    /// when this returns, and refused while another writer saves.
    ///
    /// # Errors
    /// `EPERM` between the root and a session, and if anything but a regular file would
    /// become a checkpoint; `EINVAL` for a name in the root that is no session name;
    /// `EBUSY`; and those of rename(2).
    pub fn rename(
        &self,
        from: Dirent<'_>,
        to: Dirent<'_>,
        flags: u32,
        request: Request,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        match (from.0 == ROOT, to.0 == ROOT) {
            (true, true) => return self.rename_session(from.1, to.1, flags, request),
            (false, false) => {}
            _ => return Err(Errno::PERM.into()),
        }
        // An exchange is the same in both directions: here the checkpoint is made its
        // target.
        let is_swapped = flags.contains(RenameFlags::EXCHANGE)
            && self.is_checkpoint(from.0, from.1)?
            && !self.is_checkpoint(to.0, to.1)?;
        let (from, to) = if is_swapped { (to, from) } else { (from, to) };
        self.make_shown(from, request)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            self.make_shown(to, request)?;
        }
        let stat = sys::stat(&*self.dir(from.0)?.fd, from.1)?;
        let other = if flags.contains(RenameFlags::EXCHANGE) {
            Some(sys::stat(&*self.dir(to.0)?.fd, to.1)?)
        } else {
            None
        };
        if !is_file(&stat) {
            self.must_be_a_file(to.0, to.1)?;
        }
        if other.is_some_and(|other| !is_file(&other)) {
            self.must_be_a_file(from.0, from.1)?;
        }
        if self.is_checkpoint(to.0, to.1)? {
            if flags.contains(RenameFlags::NOREPLACE) {
                self.carry_out_own_removal_of(to.0, to.1, request)?;
            }
            self.rename_to_checkpoint(from, to.0, &stat, flags, request)?;
        } else if self.keep_as_backup(from, to, flags, request)? {
            return Ok(());
        } else {
            let (source, target) = (self.dir(from.0)?, self.dir(to.0)?);
            self.renaming(|| {
                let rename = || sys::rename(&*source.fd, from.1, &*target.fd, to.1, flags);
                let dirs = [source.fd.as_fd(), target.fd.as_fd()];
                request.caller.act_over(&dirs, rename)?;
                self.lasting.nodes.renamed(stat.stx_ino, to.0, to.1);
                sys::Result::Ok(())
            })?;
        }
        self.lasting.nodes.renamed(stat.stx_ino, to.0, to.1);
        if self.is_checkpoint(to.0, to.1)? {
            self.lasting.nodes.became_checkpoint(stat.stx_ino, to.0);
        }
        if let Some(other) = other {
            self.lasting.nodes.renamed(other.stx_ino, from.0, from.1);
        }
        Ok(())
    }

    fn rename_session(
        &self,
        from: &OsStr,
        to: &OsStr,
        flags: RenameFlags,
        request: Request,
    ) -> Result<()> {
        let old = SessionName::new(from).map_err(|_| Errno::NOENT)?;
        let new = SessionName::new(to)?;
        request.patience.must_wait()?;
        let root = self.dir(ROOT)?;
        let moved = sys::stat(&*root.fd, from)?;
        let other = sys::stat(&*root.fd, to).ok();
        if let Some(replaced) = other.filter(|_| flags.is_empty()) {
            // For a caller that has removed its checkpoint, the replaced session may be
            // empty.
            self.carry_out_own_removal(replaced.stx_ino, request)?;
        }
        Ok(self.repository.rename_by(&old, |root| {
            self.renaming(|| {
                let (old, new) = (old.as_os_str(), new.as_os_str());
                let rename = || sys::rename(root, old, root, new, flags);
                request.caller.act_over(&[root.as_fd()], rename)?;
                self.lasting.nodes.renamed(moved.stx_ino, ROOT, to);
                if let Some(other) = other.filter(|_| flags.contains(RenameFlags::EXCHANGE)) {
                    self.lasting.nodes.renamed(other.stx_ino, ROOT, from);
                }
                Ok(())
            })
        })?)
    }

    /// Renames a directory, while nobody looks it up by name.
    fn renaming<T>(&self, rename: impl FnOnce() -> T) -> T {
        let _renaming = self.names.write().unwrap_or_else(PoisonError::into_inner);
        rename()
    }

    fn rename_to_checkpoint(
        &self,
        from: Dirent<'_>,
        to: u64,
        stat: &Statx,
        flags: RenameFlags,
        request: Request,
    ) -> Result<()> {
        let source = self.dir(from.0)?;
        request.patience.must_wait()?;
        let session = self.session(to)?.on_behalf_of(request.caller.behalf());
        let mut writers = self.keep_writers_out(to, request.caller)?;
        let replaced = session.checkpoint().ok().flatten();
        // A file `session.next` that was made through this mount and is still open here
        // is the caller's own lock, made by a program that saves as the original does.
        let owns_lock =
            from == (to, OsStr::new(LOCK)) && self.lasting.nodes.open_file(stat.stx_ino).is_some();
        let exchanges =
            self.is_checkpoint(from.0, from.1)? && flags.contains(RenameFlags::EXCHANGE);
        // The checkpoint itself, under its other name, as a backup: rename(2) of two
        // names of one file leaves both in place.
        let deferred = self.lasting.sessions.deferred(to, stat.stx_ino);
        let is_same_file = deferred.is_some()
            || (replaced.as_ref()).is_some_and(|old| old.stat().stx_ino == stat.stx_ino);
        self.count_save(&session, || {
            if owns_lock {
                session.adopt_lock()?;
            } else if exchanges {
                let _other_writers = self.keep_writers_out(from.0, request.caller)?;
                session.exchange(&self.session(from.0)?)?;
            } else if flags.is_empty() && is_same_file {
                let take_back = || session.take_back(&*source.fd, from.1);
                match &deferred {
                    Some(removal) => removal.cancel_by(take_back)?,
                    None => take_back()?,
                }
            } else {
                session.adopt(&*source.fd, from.1, flags)?;
            }
            Ok(())
        })?;
        if !exchanges {
            writers.lose_names();
            if let Some(replaced) = replaced {
                self.replacements.keep(&replaced);
            }
        }
        self.lasting.sessions.cancel_removal(to);
        Ok(())
    }

    /// Makes a save that is not a writer's, and counts it.
    fn count_save(&self, session: &Session, save: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let saved = save();
        match saved {
            Ok(()) => self.statistics.saved(session.name(), start.elapsed()),
            Err(Fail::Errno(errno)) => self.statistics.failed(session, errno),
            Err(Fail::WouldBlock) => {}
        }
        saved
    }

    /// Programs that back up the old file by renaming it away (`mv -b`, `sed -i.bak`,
    /// vim) make one save as well: the checkpoint gets the other name in addition, and
    /// its removal is deferred. Returns whether that was done; if not, it is an ordinary
    /// rename.
    fn keep_as_backup(
        &self,
        from: Dirent<'_>,
        to: Dirent<'_>,
        flags: RenameFlags,
        request: Request,
    ) -> Result<bool> {
        if !(flags - RenameFlags::NOREPLACE).is_empty() || !self.is_checkpoint(from.0, from.1)? {
            return Ok(false);
        }
        request.patience.must_wait()?;
        let session = self.session(from.0)?.on_behalf_of(request.caller.behalf());
        let checkpoint = match session.checkpoint() {
            Ok(Some(checkpoint)) => checkpoint,
            Err(error) if error.kind() != Kind::NotAFile => return Err(error.into()),
            _ => return Ok(false),
        };
        if session.is_locked()? {
            return Err(Errno::BUSY.into());
        }
        let target = self.dir(to.0)?;
        match session.link_away(&checkpoint, &*target.fd, to.1, flags)? {
            Linked::Yes => {}
            Linked::ItIsTheSame => return Ok(true),
            Linked::Impossible => return Ok(false),
        }
        self.defer_removal(from.0, session, checkpoint, request)?;
        Ok(true)
    }

    /// Gives a file a further name. A regular file that becomes the checkpoint of a
    /// session without one is a save.
    ///
    /// # Errors
    /// `EPERM` in the root, and if anything but a regular file would become a checkpoint;
    /// `EBUSY`; and those of link(2).
    pub fn link(&self, id: u64, parent: u64, name: &OsStr, request: Request) -> Result<Entry> {
        if parent == ROOT {
            return Err(Errno::PERM.into());
        }
        let file = match self.make_shown_node(id, request)? {
            Some(made) => Arc::new(made),
            None => self.linked_file(id)?,
        };
        if !is_file(&sys::fstat(&*file)?) {
            self.must_be_a_file(parent, name)?;
        }
        self.carry_out_own_removal_of(parent, name, request)?;
        let dir = self.dir(parent)?;
        if self.is_checkpoint(parent, name)? {
            request.patience.must_wait()?;
            let _writers = self.keep_writers_out(parent, request.caller)?;
            let session = self.session(parent)?;
            let session = session.on_behalf_of(request.caller.behalf());
            self.count_save(&session, || Ok(session.adopt_link(&*file)?))?;
            self.lasting.sessions.cancel_removal(parent);
            return self.lookup(parent, name, request);
        }
        let link = || sys::link_fd(&*file, &*dir.fd, name);
        (request.caller).act_over(&[file.as_fd(), dir.fd.as_fd()], link)?;
        self.other_entry(parent, &dir, name, request.caller)
    }

    /// The file to be linked. A file without a name must be refused as on any filesystem;
    /// link(2) of our own descriptor would not refuse it.
    fn linked_file(&self, id: u64) -> Result<Arc<std::os::fd::OwnedFd>> {
        let file = match self.path_fd(id) {
            Err(Fail::Errno(libc::ENOENT | libc::ESTALE)) => self.lasting.nodes.open_file(id),
            other => Some(other?),
        };
        file.ok_or_else(|| Errno::NOENT.into())
    }
}
