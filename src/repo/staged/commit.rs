//! How a staged file becomes the checkpoint, and what it may replace.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use super::file::{Staged, StagedName};
use super::how::{Base, Commit, Committed};
use super::seen::Seen;
use crate::repo::checkpoint::Checkpoint;
use crate::repo::error::{During, Error, Kind, Result};
use crate::repo::lock::{self, MARK, Mark, NEXT};
use crate::repo::session::CHECKPOINT;
use crate::sys::{self, Errno, Mode, OFlags, RenameFlags};

impl Staged {
    /// Makes the file the new checkpoint, if it may replace the current one by `base`.
    /// When it returns `Ok`, the checkpoint is in place and survives a power cut. It
    /// keeps mode, owner, extended attributes and ACL of the checkpoint that it replaces;
    /// a first one gets the mode 0644, less the umask or what the directory's default ACL
    /// does not grant.
    ///
    /// # Errors
    /// The old checkpoint is untouched and nothing is left behind, except with
    /// [`Kind::NotDurable`]: then the new one is in place. [`Kind::Superseded`] if the
    /// current checkpoint is not one that `base` allows; [`Kind::Locked`],
    /// [`Kind::LockBroken`], [`Kind::NotAFile`], and [`Kind::Os`] with the errno.
    pub fn commit(self, base: Base<'_>) -> Result<Checkpoint> {
        let how = Commit {
            base,
            ..Commit::default()
        };
        self.replace(&how).map(|committed| committed.new)
    }

    /// Publishes the file as the new checkpoint, and also returns what it has replaced.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit), and [`Kind::Forbidden`].
    pub(crate) fn replace(mut self, how: &Commit<'_>) -> Result<Committed> {
        self.publish(how).map_err(|e| self.tell(e))
    }

    fn publish(&mut self, how: &Commit<'_>) -> Result<Committed> {
        // Bounded: each time the file has been synced, there may be another checkpoint.
        const LOOKS: u32 = 16;
        let mut replaced = self.replaceable(how)?;
        let mut mode = self.prepare(replaced.as_ref(), how)?;
        self.take_name()?;
        // Before the rename: after it only the sync may fail.
        let path = sys::reopen(&self.file, OFlags::PATH).during("hold the new checkpoint")?;
        let mut new = Checkpoint::from_path_fd(path)?.of(self.session.origin());
        let state = |checkpoint: &Option<Checkpoint>| {
            let checkpoint = checkpoint.as_ref();
            checkpoint.map(|checkpoint| Seen::of(checkpoint.stat()))
        };
        // From here on, programs that follow the protocol wait for us.
        for look in 0.. {
            let current = self.replaceable(how)?;
            let is_same = state(&current) == state(&replaced);
            replaced = current;
            // A first checkpoint takes no other's place, not that of a program that
            // knows no lock either.
            let is_first = replaced.is_none() && how.removed.is_none();
            if is_same && self.take_place(is_first)? {
                break;
            }
            if look == LOOKS {
                return Err(superseded());
            }
            mode = self.prepare(replaced.as_ref(), how)?;
        }
        let synced = self.session.sync_dir();
        // Not earlier: a power cut could keep the name session.next and lose the mark
        // (seen on btrfs, Linux 6.18). A mark that stays on a checkpoint does no harm.
        self.unmark(mode);
        synced?;
        new.refresh(mode);
        Ok(Committed { new, replaced })
    }

    /// Renames it to the checkpoint. Answers whether that is done: not if it is to be
    /// the first, and there is one by now.
    fn take_place(&mut self, is_first: bool) -> Result<bool> {
        if !lock::is_named(&self.session, &self.file).during("look at session.next")? {
            return Err(Error::new(Kind::LockBroken, "publish", Errno::CANCELED));
        }
        let (dir, next) = (self.session.dir(), OsStr::new(NEXT));
        let rename = |flags| sys::rename(dir, next, dir, OsStr::new(CHECKPOINT), flags);
        let renamed = match is_first {
            true => match rename(RenameFlags::NOREPLACE) {
                // A filesystem that does not know the flag (renameat2(2)).
                Err(Errno::INVAL | Errno::NOSYS) => rename(RenameFlags::empty()),
                Err(Errno::EXIST) => return Ok(false),
                other => other,
            },
            false => rename(RenameFlags::empty()),
        };
        renamed.map_err(|errno| match errno {
            // Broken between the look and the rename.
            Errno::NOENT => Error::new(Kind::LockBroken, "publish", Errno::CANCELED),
            errno => Error::new(Kind::Os, "rename session.next to session", errno),
        })?;
        self.name = StagedName::Settled;
        Ok(true)
    }

    /// The current checkpoint, if this save may replace it, and must keep its attributes.
    fn replaceable(&self, how: &Commit<'_>) -> Result<Option<Checkpoint>> {
        let current = self.session.checkpoint()?;
        // The checkpoint that the writer has removed may be really gone by now.
        let is_removed = current.is_none() && how.removed.is_some();
        let id = current.as_ref().map(Checkpoint::id);
        let is_base = match how.base {
            Base::Only(base) if base.map(Checkpoint::id) == id || is_removed => true,
            Base::Only(_) => return Err(superseded()),
            Base::Any => false,
        };
        let Some(current) = current else {
            if self.begun_from.is_some() && !is_removed {
                let may = how.permit.may_create(self.session.dir());
                may.map_err(|_| superseded())?;
            }
            return Ok(None);
        };
        if how.removed.map(Checkpoint::id) == id {
            return Ok(None);
        }
        let began_here = self.begun_from.filter(|seen| seen.is_of(&current));
        if let Some(seen) = began_here
            && !self.own.is_empty()
            && !seen.has_owner_of(&current, &self.own)
        {
            // The file has another owner by now: the attributes that its writer has set
            // as its owner must not be set on it any more (DESIGN 13.1).
            return Err(superseded());
        }
        if !is_base && began_here.is_none() {
            let may = how.permit.may_write(&current);
            may.map_err(|errno| Error::new(Kind::Forbidden, "publish", errno))?;
            if !self.own.is_empty() {
                return Err(superseded());
            }
        }
        Ok(Some(current))
    }

    /// Gives the staged file its final attributes: those that have changed since it was
    /// begun, and that its writer has not set. Makes it durable. Returns the mode that it
    /// must have in the end, without the mark (I4).
    ///
    /// An error of fsync ends the save: the kernel may have dropped the data, and reports
    /// that only once.
    fn prepare(&mut self, replaced: Option<&Checkpoint>, how: &Commit<'_>) -> Result<u32> {
        match replaced {
            #[cfg(feature = "test-switches")]
            Some(_) if self.keeps_attributes_of_the_base() => {}
            Some(replaced) => self.take_after((replaced, replaced.stat()), how)?,
            None => self.be_first(how)?,
        }
        let mode = self.mode()?;
        sys::fsync(&self.file).during("sync the staged file")?;
        Ok(mode)
    }

    /// Links the file to `session.next`, with a flock on it.
    fn take_name(&mut self) -> Result<()> {
        if self.name == StagedName::Next {
            return Ok(());
        }
        lock::own(self.file.as_fd())?;
        let link = || sys::link_fd(&self.file, self.session.dir(), OsStr::new(NEXT));
        let mut linked = link();
        if linked == Err(Errno::EXIST) && !lock::is_locked(&self.session)? {
            linked = link();
        }
        match linked {
            Ok(()) => {
                self.name = StagedName::Next;
                Ok(())
            }
            Err(Errno::EXIST) => Err(Error::new(Kind::Locked, "publish", Errno::BUSY)),
            Err(errno) => Err(errno).during("link session.next"),
        }
    }

    /// Removes the mark from the published file. If that fails, the save is still made:
    /// the mark means nothing under the name `session`.
    fn unmark(&self, mode: u32) {
        let done = match self.mark {
            Mark::Xattr => sys::remove_xattr(&self.file, MARK),
            Mark::Bit => sys::chmod(&self.file, Mode::from_raw_mode(mode)),
            Mark::None => Ok(()),
        };
        if let Err(errno) = done {
            log::warn!(
                "{}: the mark stays on the checkpoint: {errno}",
                self.session.name()
            );
        }
    }
}

fn superseded() -> Error {
    Error::new(Kind::Superseded, "publish", Errno::STALE)
}
