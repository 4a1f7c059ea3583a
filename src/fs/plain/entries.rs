//! Changes of directories: MKDIR, UNLINK, RMDIR, SYMLINK, MKNOD; and READLINK, STATFS,
//! ACCESS.

use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;

use crate::fs::entry::Entry;
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::{ROOT, Role};
use crate::fs::request::{Caller, Request};
use crate::repo::{LOCK, SessionName};
use crate::sys::{self, Errno, Mode, is_dir, is_file};

impl Fs {
    /// Makes a directory: in the root a session, of exactly this name.
    ///
    /// # Errors
    /// `EINVAL` for a name in the root that is no session name, `EPERM` for the name of a
    /// checkpoint, and those of mkdir(2).
    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, request: Request) -> Result<Entry> {
        let mode = mode & 0o7777;
        if parent == ROOT {
            let name = SessionName::new(name)?;
            request.patience.must_wait()?;
            let mode = Mode::from_raw_mode(mode);
            (self.repository).create_by(&name, |root, name| {
                request.caller.act(|| sys::mkdir(root, name, mode))
            })?;
            return self.lookup(ROOT, name.as_os_str(), request);
        }
        self.must_be_a_file(parent, name)?;
        let dir = self.dir(parent)?;
        request
            .caller
            .act(|| sys::mkdir(&*dir.fd, name, Mode::from_raw_mode(mode)))?;
        self.other_entry(parent, &dir, name, request.caller)
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// `EPERM` in the root and for the name of a checkpoint, and those of
    /// symlink(2).
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
        self.must_be_a_file(parent, name)?;
        let dir = self.dir(parent)?;
        caller.act(|| sys::symlink(target, &*dir.fd, name))?;
        self.other_entry(parent, &dir, name, caller)
    }

    /// Makes a file of any type but a directory. An empty regular file with the name of a
    /// checkpoint is a save.
    ///
    /// # Errors
    /// `EPERM` in the root, and for the name of a checkpoint unless the file is a regular
    /// one; `EBUSY`, and those of mknod(2).
    pub fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        rdev: u32,
        request: Request,
    ) -> Result<Entry> {
        if parent == ROOT {
            return Err(Errno::PERM.into());
        }
        if self.is_checkpoint(parent, name)? && mode & libc::S_IFMT == libc::S_IFREG {
            self.make_empty_checkpoint(parent, mode, request)?;
            return self.lookup(parent, name, request);
        }
        self.must_be_a_file(parent, name)?;
        let dir = self.dir(parent)?;
        request
            .caller
            .act(|| sys::mknod(&*dir.fd, name, mode, rdev))?;
        self.other_entry(parent, &dir, name, request.caller)
    }

    /// Saves an empty file as the first checkpoint.
    pub(in crate::fs) fn make_empty_checkpoint(
        &self,
        parent: u64,
        mode: u32,
        request: Request,
    ) -> Result<()> {
        request.patience.must_wait()?;
        let flags = libc::O_WRONLY | libc::O_EXCL;
        let created = self.create_checkpoint(parent, mode, flags, request)?;
        let handle = created.opened.handle;
        let saved = self.fsync(handle, false, request.patience);
        let released = self.release(handle, request.patience);
        self.lasting.nodes.forget(created.entry.attr.ino.0, 1);
        saved.and(released)
    }

    /// The target of a symlink. A symlink with the name of a checkpoint or lock is never
    /// followed: `ELOOP`, as for an open with `O_NOFOLLOW`.
    ///
    /// # Errors
    /// Those of readlink(2).
    pub fn readlink(&self, id: u64) -> Result<CString> {
        let (parent, name) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
        if self.is_special(parent, &name)? {
            return Err(Errno::LOOP.into());
        }
        let dir = self.dir(parent)?;
        Ok(sys::read_link(&*dir.fd, &name)?)
    }

    /// Fails if this is the name of a checkpoint: only a regular file may have it, as
    /// nothing could be read or saved otherwise. `EPERM` is the errno of symlink(2),
    /// mknod(2) and mkdir(2) for a type of file that a filesystem does not support.
    pub(in crate::fs) fn must_be_a_file(&self, parent: u64, name: &OsStr) -> Result<()> {
        match self.is_checkpoint(parent, name)? {
            true => Err(Errno::PERM.into()),
            false => Ok(()),
        }
    }

    fn is_special(&self, parent: u64, name: &OsStr) -> Result<bool> {
        Ok(self.is_checkpoint(parent, name)? || self.is_lock(parent, name)?)
    }

    /// Removes a file. The name `session` in a session stands for the checkpoint, and
    /// `session.next` for the lock.
    ///
    /// # Errors
    /// `EPERM` in the root, and those of unlink(2).
    pub fn unlink(&self, parent: u64, name: &OsStr, request: Request) -> Result<()> {
        if parent == ROOT {
            return Err(Errno::PERM.into());
        }
        if !self.is_special(parent, name)? {
            let dir = self.dir(parent)?;
            let unlink = || sys::unlink(&*dir.fd, name);
            return Ok(request.caller.act_over(&[dir.fd.as_fd()], unlink)?);
        }
        let session = self.session(parent)?.on_behalf_of(request.caller.behalf());
        if name == LOCK {
            request.patience.must_wait()?;
            let broken = session.break_lock()?;
            return if broken {
                Ok(())
            } else {
                Err(Errno::NOENT.into())
            };
        }
        self.remove_checkpoint(parent, session, request)
    }

    /// Removes an empty directory: in the root a session.
    ///
    /// # Errors
    /// Those of rmdir(2).
    pub fn rmdir(&self, parent: u64, name: &OsStr, request: Request) -> Result<()> {
        if parent == ROOT {
            let name = SessionName::new(name).map_err(|_| Errno::NOENT)?;
            request.patience.must_wait()?;
            let stat = sys::stat(&*self.dir(ROOT)?.fd, name.as_os_str())?;
            self.carry_out_due_removal(stat.stx_ino, request.patience)?;
            self.carry_out_own_removal(stat.stx_ino, request)?;
            // As in any directory, the removal is durable after the next sync. Otherwise
            // an `rm -r` of many sessions would wait for the disk each time.
            let root = self.dir(ROOT)?;
            let rmdir = || sys::rmdir(&*root.fd, name.as_os_str());
            request.caller.act_over(&[root.fd.as_fd()], rmdir)?;
            self.lasting.sessions.cancel_removal(stat.stx_ino);
            return Ok(());
        }
        let dir = self.dir(parent)?;
        let rmdir = || sys::rmdir(&*dir.fd, name);
        Ok(request.caller.act_over(&[dir.fd.as_fd()], rmdir)?)
    }

    /// Checks whether a node may be used in this way (access(2)). Without `allow_other`
    /// every caller is the user of the daemon.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`.
    pub fn access(&self, id: u64, mask: i32) -> Result<()> {
        if matches!(self.role(id)?, Role::Writer(_) | Role::Empty | Role::Report) {
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
            // For a missing repository, those of the place where it will be made.
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
