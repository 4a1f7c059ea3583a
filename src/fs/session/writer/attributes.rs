//! The attributes of a writer: what is seen and set through its descriptors, and which of
//! it the save publishes.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::time::UNIX_EPOCH;

use fuser::FileAttr;

use crate::fs::attr::{SetAttr, attr_of};
use crate::fs::errno::{Fail, Result};
use crate::fs::request::{Caller, Patience, Request};
use crate::fs::session::writer::staging::Keep;
use crate::fs::session::writer::state::{Writer, WriterState};
use crate::fs::session::writer::wait::Wait;
use crate::repo::{self, Attributes, Checkpoint, Kind, Session, Staged, is_mark};
use crate::sys::{self, OFlags, XattrFlags};

impl Writer {
    /// Sets size and attributes, and returns the new ones. Without an open handle the
    /// change is a save of its own: truncate(2), or an attribute of a checkpoint that
    /// does not exist yet.
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

    /// A change without an open handle is a save of its own: makes it.
    fn save_if_alone(&self, state: &mut WriterState, done: Result<()>) -> Result<()> {
        if state.handles > 0 {
            return done;
        }
        let done = self.keep_failure(state, done);
        let finished = self.finish(state);
        done.and(finished)
    }

    fn set_attributes(
        &self,
        state: &mut WriterState,
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

    /// Changes attributes. Before the first change of the content they are set on the
    /// checkpoint, after it on the staged file, and after a save point on both (DESIGN
    /// 4).
    fn change_attributes(
        &self,
        state: &mut WriterState,
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

    /// The attributes as its descriptors show them.
    pub(in crate::fs) fn attr(&self, patience: Patience) -> Result<FileAttr> {
        self.attr_of(&*self.lock(patience)?)
    }

    fn attr_of(&self, state: &WriterState) -> Result<FileAttr> {
        let shown = self.shown();
        let attr = match (&state.staged, &state.base) {
            (Some(staged), _) => attr_of(&staged.stat()?, shown),
            (None, Some(base)) => attr_of(&sys::fstat(base.as_path_fd())?, shown),
            (None, None) => {
                // A process that creates a file has it open whatever its mode (open(2)),
                // but here the kernel checks the mode before the first OPEN.
                let of_maker = if state.handles == 0 { 0o600 } else { 0 };
                let mode = self.first_mode & !self.first_umask | of_maker;
                empty_attr(&self.session, shown, mode, Some(self.first_owner))?
            }
        };
        // The base may have been replaced and have no link, but this file has its name.
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

    /// The names of all extended attributes, each with a NUL behind it; the name of our
    /// own mark may be among them.
    pub(in crate::fs) fn xattr_names(&self, patience: Patience) -> Result<Vec<u8>> {
        let state = self.lock(patience)?;
        Ok(match (&state.staged, &state.base) {
            (Some(staged), _) => staged.xattr_names()?,
            (None, Some(base)) => sys::list_xattrs(base.as_path_fd())?,
            (None, None) => Vec::new(),
        })
    }

    /// Sets an extended attribute, with the flags of setxattr(2); without a value,
    /// removes it.
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
            let file = match (&state.staged, &state.base) {
                (Some(staged), _) => staged.reader()?,
                (None, Some(base)) => sys::reopen(base.as_path_fd(), OFlags::PATH)?,
                // `change` has just made it.
                (None, None) => return Err(Fail::Errno(libc::EIO)),
            };
            request
                .caller
                .act_on_attribute((name, value), file.as_fd(), || {
                    self.change_attributes(
                        &mut state,
                        |base| self.session.set_xattr(base, name, value, flags),
                        |staged| staged.set_xattr(name, value, flags),
                    )
                })
        };
        let done = set();
        self.save_if_alone(&mut state, done)
    }

    /// Takes the setuid and setgid bits off the staged file, as an open with `O_TRUNC` by
    /// an unprivileged caller does. For other changes the kernel sends the new mode.
    pub(super) fn drop_privileges(&self, state: &mut WriterState) -> Result<()> {
        match &mut state.staged {
            Some(staged) if !state.keeps_privileges => Ok(staged.drop_privileges()?),
            _ => Ok(()),
        }
    }
}

/// The attributes of a checkpoint that has not been saved yet: an empty file, as old as
/// its session.
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

/// The attributes of a checkpoint that does not exist: all may read it, and those may
/// write it who may write the session's directory.
pub(in crate::fs) fn absent_attr(session: &Session, id: u64) -> Result<FileAttr> {
    let dir = sys::fstat(session.dir())?;
    let mode = 0o444 | u32::from(dir.stx_mode) & 0o222;
    Ok(FileAttr {
        // Older than any file, so that no program takes it for newer than what it wants
        // to save.
        mtime: UNIX_EPOCH,
        ..empty_attr(session, id, mode, None)?
    })
}

/// The same, in a directory with the sticky bit, to a caller who may make it: that
/// one is shown it as its own, or the kernel would keep it from putting a file in the
/// place of what is not there (__check_sticky, fs/namei.c, Linux 6.18). Nothing of an
/// absent checkpoint is believed without asking.
pub(in crate::fs) fn shown_as_own(
    attr: FileAttr,
    session: &Session,
    caller: Caller,
) -> Result<FileAttr> {
    let dir = sys::fstat(session.dir())?;
    let is_sticky = u32::from(dir.stx_mode) & libc::S_ISVTX != 0;
    let may_make = || sys::access(session.dir(), libc::W_OK | libc::X_OK);
    if !is_sticky || dir.stx_uid == caller.uid || caller.act(may_make).is_err() {
        return Ok(attr);
    }
    Ok(FileAttr {
        uid: caller.uid,
        perm: attr.perm | 0o200,
        ..attr
    })
}
