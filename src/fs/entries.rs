//! Changes of directories: MKDIR, UNLINK, RMDIR, RENAME, SYMLINK, READLINK,
//! and what belongs to a directory's filesystem (STATFS, ACCESS).

use std::ffi::{CString, OsStr};

use super::errno::{Fail, Patience, Result};
use super::lookup::{is_dir, is_file};
use super::node::{ROOT, Role};
use super::open::own;
use super::{Caller, Entry, Fs};
use crate::repo::{LOCK, SessionName};
use crate::sys::{self, Errno, Mode, RenameFlags};

impl Fs {
    /// Makes a directory: a session in the root, of exactly this name.
    ///
    /// # Errors
    /// `EINVAL` for a name in the root that is no session name, and those of
    /// mkdir(2).
    pub fn mkdir(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        caller: Caller,
        patience: Patience,
    ) -> Result<Entry> {
        let mode = mode & 0o7777;
        if parent == ROOT {
            let name = SessionName::new(name)?;
            must_wait(patience)?;
            let session = self.repository.create_named(&name, mode)?;
            own(session.dir(), &self.dir(ROOT)?.stat, caller)?;
            return self.lookup(ROOT, name.as_os_str(), caller, patience);
        }
        let dir = self.dir(parent)?;
        sys::mkdir(&*dir.fd, name, Mode::from_raw_mode(mode))?;
        own(sys::open_path(&*dir.fd, name)?, &dir.stat, caller)?;
        self.other_entry(parent, &dir, name)
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// `EPERM` in the root, and those of symlink(2).
    pub fn symlink(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> Result<Entry> {
        if parent == ROOT {
            return Err(Errno::PERM.into());
        }
        let dir = self.dir(parent)?;
        sys::symlink(target, &*dir.fd, name)?;
        own(sys::open_path(&*dir.fd, name)?, &dir.stat, caller)?;
        self.other_entry(parent, &dir, name)
    }

    /// Makes a file of any type but a directory.
    ///
    /// # Errors
    /// `EPERM` in the root, `EEXIST` for a checkpoint, and those of mknod(2).
    pub fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Result<Entry> {
        if parent == ROOT {
            return Err(Errno::PERM.into());
        }
        if self.is_checkpoint(parent, name)? {
            return Err(Errno::EXIST.into());
        }
        let dir = self.dir(parent)?;
        sys::mknod(&*dir.fd, name, mode, rdev)?;
        own(sys::open_path(&*dir.fd, name)?, &dir.stat, caller)?;
        self.other_entry(parent, &dir, name)
    }

    /// What a symlink says. One that has the name of a checkpoint or of a
    /// lock is never followed: `ELOOP`, as of an open with `O_NOFOLLOW`.
    ///
    /// # Errors
    /// Those of readlink(2).
    pub fn readlink(&self, id: u64) -> Result<CString> {
        let (parent, name) = self.nodes.place(id).ok_or(Errno::STALE)?;
        if self.is_special(parent, &name)? {
            return Err(Errno::LOOP.into());
        }
        let dir = self.dir(parent)?;
        Ok(sys::read_link(&*dir.fd, &name)?)
    }

    fn is_special(&self, parent: u64, name: &OsStr) -> Result<bool> {
        Ok(self.is_checkpoint(parent, name)? || self.is_lock(parent, name)?)
    }

    /// Removes a file: of a session's `session` the checkpoint, of its
    /// `session.next` the lock.
    ///
    /// # Errors
    /// `EPERM` in the root, and those of unlink(2).
    pub fn unlink(
        &self,
        parent: u64,
        name: &OsStr,
        caller: Caller,
        patience: Patience,
    ) -> Result<()> {
        if parent == ROOT {
            return Err(Errno::PERM.into());
        }
        if !self.is_special(parent, name)? {
            let dir = self.dir(parent)?;
            return Ok(sys::unlink(&*dir.fd, name)?);
        }
        must_wait(patience)?;
        let session = self.session(parent)?;
        if name == LOCK {
            let broken = session.break_lock()?;
            return if broken {
                Ok(())
            } else {
                Err(Errno::NOENT.into())
            };
        }
        // An empty `session` is shown where there is none: that one can be
        // removed as often as anybody likes.
        session.remove_checkpoint()?;
        self.removers.remember(caller.tid, parent);
        Ok(())
    }

    /// Removes an empty directory: a session in the root.
    ///
    /// # Errors
    /// Those of rmdir(2).
    pub fn rmdir(&self, parent: u64, name: &OsStr, patience: Patience) -> Result<()> {
        if parent == ROOT {
            let name = SessionName::new(name).map_err(|_| Errno::NOENT)?;
            must_wait(patience)?;
            return Ok(self.repository.remove_empty(&name)?);
        }
        let dir = self.dir(parent)?;
        Ok(sys::rmdir(&*dir.fd, name)?)
    }

    /// Renames. A regular file renamed to a session's `session` is a save: it
    /// is durable when this answers, and refused while another writer saves.
    ///
    /// # Errors
    /// `EPERM` between the root and a session, `EINVAL` for a name in the
    /// root that is no session name, `EBUSY`, and those of rename(2).
    pub fn rename(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: u32,
        patience: Patience,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        match (from.0 == ROOT, to.0 == ROOT) {
            (true, true) => {
                let old = SessionName::new(from.1).map_err(|_| Errno::NOENT)?;
                let new = SessionName::new(to.1)?;
                must_wait(patience)?;
                let stat = sys::stat(&*self.dir(ROOT)?.fd, from.1)?;
                self.repository.rename(&old, &new, flags)?;
                self.nodes.renamed(stat.stx_ino, ROOT, to.1);
                return Ok(());
            }
            (true, false) | (false, true) => return Err(Errno::PERM.into()),
            (false, false) => {}
        }
        let source = self.dir(from.0)?;
        let stat = sys::stat(&*source.fd, from.1)?;
        if self.is_checkpoint(to.0, to.1)? && is_file(&stat) {
            must_wait(patience)?;
            let session = self.session(to.0)?;
            let slot = self.slots.of(to.0);
            // No writer has the number of a node that is no writer's.
            if !slot.take(ROOT, None) {
                return Err(Errno::BUSY.into());
            }
            // Whoever made `session.next` through this mount has it open still,
            // or is the original's kind of program, which does not mark it.
            let owns_lock =
                from == (to.0, OsStr::new(LOCK)) && self.nodes.open_file(stat.stx_ino).is_some();
            let adopted = if owns_lock {
                session.adopt_lock()
            } else {
                session.adopt(&*source.fd, from.1, flags)
            };
            slot.free(ROOT);
            adopted?;
        } else {
            let target = self.dir(to.0)?;
            sys::rename(&*source.fd, from.1, &*target.fd, to.1, flags)?;
        }
        self.nodes.renamed(stat.stx_ino, to.0, to.1);
        Ok(())
    }

    /// Whether the caller may use a node so (access(2)). Without
    /// `allow_other` every caller is who the daemon is.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`.
    pub fn access(&self, id: u64, mask: i32) -> Result<()> {
        if matches!(self.role(id)?, Role::Writer(_) | Role::Empty) {
            return Ok(());
        }
        if id == ROOT && self.repository.root()?.is_none() {
            return Ok(());
        }
        let fd = self.path_fd(id)?;
        if !is_file(&sys::fstat(&*fd)?) && !is_dir(&sys::fstat(&*fd)?) {
            return Ok(());
        }
        Ok(sys::access(&*fd, mask)?)
    }

    /// The numbers of statvfs(3) for the filesystem of a node.
    ///
    /// # Errors
    /// Those of statvfs(3).
    pub fn statfs(&self, id: u64) -> Result<rustix::fs::StatVfs> {
        let fd = match self.role(id)? {
            Role::Root | Role::Session | Role::Directory => self.dir(id),
            _ => self.locate(id).map(|(dir, _)| dir),
        };
        match fd {
            Ok(dir) => Ok(sys::statvfs(&*dir.fd)?),
            // Of a missing repository, those of the place where it will be.
            Err(_) => {
                let existing = self
                    .repository
                    .path()
                    .ancestors()
                    .find(|path| path.exists());
                let existing = existing.ok_or(Errno::NOENT)?;
                Ok(rustix::fs::statvfs(existing)?)
            }
        }
    }
}

/// For operations that sync.
fn must_wait(patience: Patience) -> Result<()> {
    match patience {
        Patience::None => Err(Fail::WouldBlock),
        Patience::Wait => Ok(()),
    }
}
