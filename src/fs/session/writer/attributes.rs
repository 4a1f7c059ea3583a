//! The attributes of a writer: what the holder of a descriptor sees and sets,
//! and what of it goes with the save.

use std::ffi::CStr;
use std::time::UNIX_EPOCH;

use fuser::FileAttr;

use crate::fs::attr::{SetAttr, attr_of};
use crate::fs::caller::credentials::ACL;
use crate::fs::errno::{Fail, Result};
use crate::fs::request::{Patience, Request};
use crate::fs::session::writer::staging::Keep;
use crate::fs::session::writer::state::{State, Writer};
use crate::fs::session::writer::wait::Wait;
use crate::repo::{self, Attributes, Checkpoint, Kind, Session, Staged, is_mark};
use crate::sys::{self, XattrFlags};

impl Writer {
    /// Sets size and attributes, and answers the new ones. Without an open
    /// handle a change is a save of its own: truncate(2), or an attribute of
    /// a checkpoint that is not there yet.
    pub(in crate::fs) fn set_attr(&self, set: &SetAttr, request: Request) -> Result<FileAttr> {
        let mut state = self.lock(request.patience)?;
        if state.handles == 0 && request.patience == Patience::None {
            return Err(Fail::WouldBlock);
        }
        let mut done = Ok(());
        if let Some(size) = set.size {
            state.authors.note(request.caller.tid);
            let wait = Wait::For(request.caller.tid);
            done = self.truncate(&mut state, size, wait, request.patience);
            done = self.keep_failure(&mut state, done);
        }
        let attributes = set.attributes();
        if !attributes.is_empty() {
            done = done.and_then(|()| self.set_attributes(&mut state, &attributes, request));
        }
        self.save_if_alone(&mut state, done)?;
        self.attr_of(&state)
    }

    /// A change without an open handle is a save of its own.
    fn save_if_alone(&self, state: &mut State, done: Result<()>) -> Result<()> {
        if state.handles > 0 {
            return done;
        }
        let done = self.keep_failure(state, done);
        let finished = self.finish(state);
        done.and(finished)
    }

    fn set_attributes(
        &self,
        state: &mut State,
        attributes: &Attributes,
        request: Request,
    ) -> Result<()> {
        if state.base.is_none() {
            self.change(state, Keep::nothing(request.caller.tid), request.patience)?;
        }
        let now = match (&state.staged, &state.base) {
            (Some(staged), _) => staged.stat()?,
            (None, Some(base)) => sys::fstat(base.as_path_fd())?,
            // `change` has just made it.
            (None, None) => return Err(Fail::Errno(libc::EIO)),
        };
        let _acting = request.caller.to_change(&now, attributes)?;
        self.change_attributes(
            state,
            |base| self.session.set_attributes(base, attributes),
            |staged| staged.set_attributes(attributes),
        )
    }

    /// Changes attributes: before a change of the content of the checkpoint at once,
    /// after it with the save, and after a save point of both (DESIGN 4).
    fn change_attributes(
        &self,
        state: &mut State,
        of_checkpoint: impl Fn(&Checkpoint) -> repo::Result<()>,
        of_staged: impl Fn(&mut Staged) -> repo::Result<()>,
    ) -> Result<()> {
        let at_once = state.staged.is_none() || state.published;
        if let Some(base) = state.base.as_ref().filter(|_| at_once) {
            match of_checkpoint(base) {
                // As on any file that lost its name while it was open.
                Err(error) if error.kind() == Kind::Superseded => {}
                other => other?,
            }
        }
        if let Some(staged) = &mut state.staged {
            of_staged(staged)?;
        }
        Ok(())
    }

    /// What the holder of a descriptor sees of it.
    pub(in crate::fs) fn attr(&self, patience: Patience) -> Result<FileAttr> {
        self.attr_of(&*self.lock(patience)?)
    }

    fn attr_of(&self, state: &State) -> Result<FileAttr> {
        let shown = self.shown();
        let attr = match (&state.staged, &state.base) {
            (Some(staged), _) => attr_of(&staged.stat()?, shown),
            (None, Some(base)) => attr_of(&sys::fstat(base.as_path_fd())?, shown),
            (None, None) => {
                // Whoever makes a file has it open whatever its mode (open(2)):
                // the kernel's check comes before the first open here.
                let his = if state.handles == 0 { 0o600 } else { 0 };
                let mode = self.first_mode & !self.first_umask | his;
                empty_attr(&self.session, shown, mode, Some(self.first_owner))?
            }
        };
        // The base may have been replaced; this file has its name.
        let nlink = if self.is_nameless() { 0 } else { 1 };
        Ok(FileAttr { nlink, ..attr })
    }

    /// The value of an extended attribute; `ENODATA` if there is none.
    pub(in crate::fs) fn xattr(&self, name: &CStr, patience: Patience) -> Result<Vec<u8>> {
        let state = self.lock(patience)?;
        Ok(match (&state.staged, &state.base) {
            (Some(staged), _) => staged.xattr(name)?,
            (None, Some(_)) if is_mark(name) => return Err(sys::Errno::NODATA.into()),
            (None, Some(base)) => sys::get_xattr(base.as_path_fd(), name)?,
            (None, None) => return Err(sys::Errno::NODATA.into()),
        })
    }

    /// The names of all extended attributes, each with a NUL behind it; that of
    /// our own mark may be among them.
    pub(in crate::fs) fn xattr_names(&self, patience: Patience) -> Result<Vec<u8>> {
        let state = self.lock(patience)?;
        Ok(match (&state.staged, &state.base) {
            (Some(staged), _) => staged.xattr_names()?,
            (None, Some(base)) => sys::list_xattrs(base.as_path_fd())?,
            (None, None) => Vec::new(),
        })
    }

    /// Sets an extended attribute, with flags as of setxattr(2), or removes it if
    /// there is no value.
    pub(in crate::fs) fn set_xattr(
        &self,
        name: &CStr,
        (value, flags): (Option<&[u8]>, XattrFlags),
        request: Request,
    ) -> Result<()> {
        let mut state = self.lock(request.patience)?;
        if state.handles == 0 && request.patience == Patience::None {
            return Err(Fail::WouldBlock);
        }
        let mut set = || {
            if is_mark(name) {
                return Err(value
                    .map_or(sys::Errno::NODATA, |_| sys::Errno::PERM)
                    .into());
            }
            if state.base.is_none() {
                self.change(
                    &mut state,
                    Keep::nothing(request.caller.tid),
                    request.patience,
                )?;
            }
            // As the caller: the kernel has asked whether he may, but for an ACL it
            // goes by the owner that it was told of last. Only of who can be seen
            // the groups are known.
            let is_seen = request.caller.tid != 0 || *name == *ACL;
            let credentials = is_seen.then(|| request.caller.credentials()).transpose()?;
            let _acting = credentials.as_ref().map(|his| his.begin()).transpose()?;
            self.change_attributes(
                &mut state,
                |base| self.session.set_xattr(base, name, value, flags),
                |staged| staged.set_xattr(name, value, flags),
            )
        };
        let done = set();
        self.save_if_alone(&mut state, done)
    }

    /// What an open with `O_TRUNC` by somebody unprivileged takes off a
    /// setuid file goes with the save. Before any other change the kernel
    /// sends the mode.
    pub(super) fn drop_privileges(&self, state: &mut State) -> Result<()> {
        match &mut state.staged {
            Some(staged) if !state.keeps_privileges => Ok(staged.drop_privileges()?),
            _ => Ok(()),
        }
    }
}

/// The attributes of a checkpoint that nobody has saved yet: an empty file,
/// as old as its session.
pub(in crate::fs) fn empty_attr(
    session: &Session,
    ino: u64,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<FileAttr> {
    let dir = sys::fstat(session.dir())?;
    let (uid, gid) = owner.unwrap_or((dir.stx_uid, dir.stx_gid));
    Ok(FileAttr {
        size: 0,
        blocks: 0,
        kind: fuser::FileType::RegularFile,
        perm: (mode & 0o7777) as u16,
        nlink: 1,
        uid,
        gid,
        rdev: 0,
        ..attr_of(&dir, ino)
    })
}

/// The attributes of a checkpoint that is not there: everybody may read it,
/// and who may make it, by the mode of its directory, may write it.
pub(in crate::fs) fn absent_attr(session: &Session, id: u64) -> Result<FileAttr> {
    let dir = sys::fstat(session.dir())?;
    let mode = 0o444 | u32::from(dir.stx_mode) & 0o222;
    Ok(FileAttr {
        // Older than anything: what makes it must not take it for newer.
        mtime: UNIX_EPOCH,
        ..empty_attr(session, id, mode, None)?
    })
}
