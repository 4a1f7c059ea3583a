//! Changes of the name `session` itself: rename(2), link(2) and unlink(2) (DESIGN 2.11
//! and 2.12).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::checkpoint::{Checkpoint, FileId};
use super::error::{During, Error, Kind, Result};
use super::lock::{self, NEXT};
use super::session::{CHECKPOINT, Session, sync_directory};
use super::staged::Staged;
use crate::sys::{self, Errno, RenameFlags};

impl Session {
    /// Makes the regular file `name` of the directory `from` (which may be an
    /// `O_PATH` descriptor) the checkpoint, as rename(2) does, but durable:
    /// its data is synced before, both directories after (DESIGN 2.11). Mode,
    /// owner and attributes are those of the file. With
    /// [`RenameFlags::EXCHANGE`] the old checkpoint gets the file's name.
    ///
    /// # Errors
    /// [`Kind::Locked`] unless the file is itself the `session.next` of this
    /// session, made by a foreign program; [`Kind::NotAFile`],
    /// [`Kind::NotDurable`], and [`Kind::Os`].
    pub(crate) fn adopt(&self, from: impl AsFd, name: &OsStr, flags: RenameFlags) -> Result<()> {
        self.rename_to_checkpoint(from.as_fd(), name, flags, Vouched::No)
            .map_err(|e| self.tell(e))
    }

    /// As [`adopt`](Self::adopt), for a file that may be another name of the current
    /// checkpoint. That name is removed then, because rename(2) leaves two names of one
    /// file as they are.
    ///
    /// # Errors
    /// As for [`adopt`](Self::adopt).
    pub(crate) fn take_back(&self, from: impl AsFd, name: &OsStr) -> Result<()> {
        let from = from.as_fd();
        let take_back = || {
            let path = sys::open_path(from, name).during("open the new checkpoint")?;
            let which = Checkpoint::from_path_fd(path)?;
            let lock = self.take_lock()?;
            if !self.is_current(Some(&which))? {
                drop(lock);
                return self.rename_to_checkpoint(from, name, RenameFlags::empty(), Vouched::No);
            }
            let left = sys::open_dir(from, OsStr::new(".")).during("open the directory")?;
            self.change_names(&[from], || sys::unlink(from, name))
                .during("rename to session")?;
            drop(lock);
            sync_directory(left.as_fd())
        };
        take_back().map_err(|e| self.tell(e))
    }

    /// Makes `session.next` the checkpoint: the last step of the original's own way of
    /// saving. The caller vouches that the program that renames it has made it.
    ///
    /// # Errors
    /// As for [`adopt`](Self::adopt), except [`Kind::Locked`].
    pub(crate) fn adopt_lock(&self) -> Result<()> {
        let (next, plain) = (OsStr::new(NEXT), RenameFlags::empty());
        self.rename_to_checkpoint(self.dir(), next, plain, Vouched::Yes)
            .map_err(|e| self.tell(e))
    }

    /// Makes a regular file the first checkpoint by giving it that further name, as
    /// link(2) does, but durable.
    ///
    /// # Errors
    /// `EEXIST` ([`Kind::Os`]) if there is a checkpoint, and as for
    /// [`adopt`](Self::adopt).
    pub(crate) fn adopt_link(&self, file: impl AsFd) -> Result<()> {
        self.link_checkpoint(file.as_fd()).map_err(|e| self.tell(e))
    }

    /// Exchanges the checkpoints of two sessions at once and durably, as
    /// renameat2(2) does with `RENAME_EXCHANGE`.
    ///
    /// # Errors
    /// As for [`adopt`](Self::adopt).
    pub(crate) fn exchange(&self, other: &Self) -> Result<()> {
        let exchange = || {
            let _other_lock = other.take_lock()?;
            // Ours becomes the other session's checkpoint, so it must be durable, too.
            if let Some(ours) = self.checkpoint()? {
                sys::fsync(ours.open()?).during("sync the checkpoint")?;
            }
            self.rename_to_checkpoint(
                other.dir(),
                OsStr::new(CHECKPOINT),
                RenameFlags::EXCHANGE,
                Vouched::No,
            )
        };
        exchange().map_err(|e| self.tell(e))
    }

    /// Removes the checkpoint durably. Returns whether there was one.
    ///
    /// # Errors
    /// [`Kind::Locked`], [`Kind::NotDurable`], and [`Kind::Os`].
    pub fn remove_checkpoint(&self) -> Result<bool> {
        self.unlink_checkpoint(None, true).map_err(|e| self.tell(e))
    }

    /// Removes the checkpoint if it is still `which`, as unlink(2) does: it is durable
    /// when the directory is synced.
    ///
    /// # Errors
    /// As for [`remove_checkpoint`](Self::remove_checkpoint), except
    /// [`Kind::NotDurable`].
    pub(crate) fn unlink_this_checkpoint(&self, which: &Checkpoint) -> Result<bool> {
        self.unlink_checkpoint(Some(which), false)
            .map_err(|e| self.tell(e))
    }

    /// Gives a checkpoint of this session the name `name` in `dir` as well, as the
    /// first half of a rename away from `session` (DESIGN 2.12). Whoever the session
    /// is [on behalf of](Self::on_behalf_of) must be allowed that rename.
    ///
    /// # Errors
    /// [`Kind::Os`], as of rename(2): with [`RenameFlags::NOREPLACE`] `EEXIST`.
    pub(crate) fn link_away(
        &self,
        checkpoint: &Checkpoint,
        dir: impl AsFd,
        name: &OsStr,
        flags: RenameFlags,
    ) -> Result<Linked> {
        let dir = dir.as_fd();
        let linked = match self.behalf {
            // They need not be allowed a link of it, and must not get one. A rename
            // of another name of the checkpoint, from the same directory, is allowed
            // to whom a rename of `session` is.
            Some(_) => self.link_by_rename(checkpoint, dir, name, flags),
            None => checkpoint.link(dir, name, flags),
        };
        linked.map_err(|e| self.tell(e))
    }

    fn link_by_rename(
        &self,
        checkpoint: &Checkpoint,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        flags: RenameFlags,
    ) -> Result<Linked> {
        let during = "link the checkpoint";
        match sys::stat(dir, name) {
            Ok(_) if flags.contains(RenameFlags::NOREPLACE) => {
                return Err(Errno::EXIST).during(during);
            }
            Ok(there) if FileId::of(&there) == checkpoint.id() => return Ok(Linked::ItIsTheSame),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).during(during),
        }
        let temporary = match checkpoint.link_anywhere(self.dir()) {
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => return Ok(Linked::Impossible),
            other => other.during(during)?,
        };
        let rename = || sys::rename(self.dir(), &temporary, dir, name, flags);
        let renamed = self.change_names(&[self.dir(), dir], rename);
        if renamed.is_err() {
            remove_link(self.dir(), &temporary);
        }
        renamed.during(during)?;
        Ok(Linked::Yes)
    }

    fn unlink_checkpoint(&self, which: Option<&Checkpoint>, syncs: bool) -> Result<bool> {
        let name = OsStr::new(CHECKPOINT);
        // If it has been replaced, the lock is not needed; if not, it may be replaced
        // until we have the lock.
        if !self.is_current(which)? {
            return Ok(false);
        }
        let lock = self.take_lock()?;
        if !self.is_current(which)? {
            return Ok(false);
        }
        match self.change_names(&[self.dir()], || sys::unlink(self.dir(), name)) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            // Replaced meanwhile, by a program that knows no lock.
            Err(Errno::PERM) if !self.is_current(which)? => return Ok(false),
            Err(errno) => return Err(errno).during("remove the checkpoint"),
        }
        drop(lock);
        if syncs {
            self.sync_dir()?;
        }
        Ok(true)
    }

    fn is_current(&self, which: Option<&Checkpoint>) -> Result<bool> {
        let Some(which) = which else {
            return Ok(true);
        };
        match sys::stat(self.dir(), OsStr::new(CHECKPOINT)) {
            Ok(stat) => Ok(FileId::of(&stat) == which.id()),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).during("look at the checkpoint"),
        }
    }

    fn link_checkpoint(&self, file: BorrowedFd<'_>) -> Result<()> {
        let path = sys::reopen(file, sys::OFlags::PATH).during("open the new checkpoint")?;
        let source = synced(path)?;
        let lock = self.lock_for(source.as_fd(), Vouched::No)?;
        let link = || sys::link_fd(file, self.dir(), OsStr::new(CHECKPOINT));
        self.change_names(&[file, self.dir()], link)
            .during("link to session")?;
        drop(lock);
        self.sync_dir()
    }

    fn rename_to_checkpoint(
        &self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        flags: RenameFlags,
        vouched: Vouched,
    ) -> Result<()> {
        // Looked at before it is opened, which would wake a process that waits at a FIFO.
        let path = sys::open_path(from, name).during("open the new checkpoint")?;
        let source = synced(path)?;
        let lock = self.lock_for(source.as_fd(), vouched)?;
        let left = self.directory_left(from)?;
        let rename = || sys::rename(from, name, self.dir(), OsStr::new(CHECKPOINT), flags);
        self.change_names(&[from, self.dir()], rename)
            .during("rename to session")?;
        // One sync for both changes; a crash before it leaves a dead lock behind.
        drop(lock);
        self.sync_dir()?;
        left.map_or(Ok(()), |left| sync_directory(left.as_fd()))
    }

    /// Takes the lock for a rename of `source` to `session`; `None` if `source` is itself
    /// the `session.next` of a program that may publish it.
    fn lock_for(&self, source: BorrowedFd<'_>, vouched: Vouched) -> Result<Option<Staged>> {
        if !lock::is_named(self, source).during("look at session.next")? {
            return self.take_lock();
        }
        if vouched == Vouched::No && !lock::is_foreign(self, source)? && lock::is_locked(self)? {
            return Err(locked());
        }
        Ok(None)
    }

    /// Takes the lock: until the returned value is dropped, no save is published.
    ///
    /// Removing and renaming must work on a full disk, where there is no room for the
    /// lock: then no other save can be made either, and it is enough that there is no
    /// lock now.
    fn take_lock(&self) -> Result<Option<Staged>> {
        match Staged::named(self) {
            Ok(lock) => Ok(Some(lock)),
            Err(e)
                if [Errno::NOSPC, Errno::DQUOT]
                    .map(Errno::raw_os_error)
                    .contains(&e.errno()) =>
            {
                if lock::is_locked(self)? {
                    return Err(locked());
                }
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// The directory that a rename leaves, opened so that it can be synced; `None` if it
    /// is this session's own.
    fn directory_left(&self, from: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
        let id = |stat: sys::Statx| FileId::of(&stat);
        let ours = sys::fstat(self.dir()).during("stat the directory")?;
        let left = sys::fstat(from).during("stat the directory")?;
        if id(ours) == id(left) {
            return Ok(None);
        }
        let left = sys::open_dir(from, OsStr::new(".")).during("open the directory")?;
        Ok(Some(left))
    }
}

/// The result of giving a checkpoint another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// It has the name.
    Yes,
    /// It had the name before.
    ItIsTheSame,
    /// The filesystem has no hard links, or allows no more of this file.
    Impossible,
}

impl Checkpoint {
    /// Gives the checkpoint the further name `name` in `dir`, replacing any file of that
    /// name at once, as a rename to that name would.
    ///
    /// # Errors
    /// [`Kind::Os`], as for rename(2): `EEXIST` with [`RenameFlags::NOREPLACE`].
    pub(crate) fn link(&self, dir: impl AsFd, name: &OsStr, flags: RenameFlags) -> Result<Linked> {
        let (dir, during) = (dir.as_fd(), "link the checkpoint");
        match sys::link_fd(self.as_path_fd(), dir, name) {
            Ok(()) => return Ok(Linked::Yes),
            Err(Errno::EXIST) if !flags.contains(RenameFlags::NOREPLACE) => {}
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => return Ok(Linked::Impossible),
            Err(errno) => return Err(errno).during(during),
        }
        match sys::stat(dir, name) {
            Ok(there) if FileId::of(&there) == self.id() => return Ok(Linked::ItIsTheSame),
            // It is gone by now.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).during(during),
        }
        let temporary = self.link_anywhere(dir).during(during)?;
        let renamed = sys::rename(dir, &temporary, dir, name, RenameFlags::empty());
        if let Err(errno) = renamed {
            remove_link(dir, &temporary);
            return Err(errno).during(during);
        }
        Ok(Linked::Yes)
    }

    /// Links it to a new temporary name in `dir`.
    fn link_anywhere(&self, dir: BorrowedFd<'_>) -> sys::Result<OsString> {
        let mut number = 0_u32;
        loop {
            let name = OsString::from(format!(".session.{}.{number}", std::process::id()));
            match sys::link_fd(self.as_path_fd(), dir, &name) {
                Ok(()) => return Ok(name),
                Err(Errno::EXIST) if number < u32::MAX => number += 1,
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Removes a name of a checkpoint that was to become another one.
fn remove_link(dir: BorrowedFd<'_>, temporary: &OsStr) {
    if let Err(errno) = sys::unlink(dir, temporary) {
        log::warn!("{} stays behind: {errno}", temporary.display());
    }
}

/// Whether it is known that the renaming program made `session.next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vouched {
    Yes,
    No,
}

/// Opens the regular file of an `O_PATH` descriptor, and makes it durable.
fn synced(path: OwnedFd) -> Result<File> {
    let file = Checkpoint::from_path_fd(path)?.open()?;
    sys::fsync(&file).during("sync the new checkpoint")?;
    Ok(file)
}

fn locked() -> Error {
    Error::new(Kind::Locked, "rename", Errno::BUSY)
}
