//! The attributes of a writer: what the holder of a descriptor sees and sets,
//! and what of it goes with the save.

use std::ffi::{CStr, CString};

use fuser::FileAttr;

use super::{State, Writer};
use crate::fs::attr::{SetAttr, attr_of, merge, overlay, without_privileges};
use crate::fs::errno::{Fail, Patience, Result};
use crate::fs::process;
use crate::repo::{Attributes, Kind, Session};
use crate::sys;

impl Writer {
    /// Sets size and attributes, and answers the new ones. Without an open
    /// handle a change is a save of its own: truncate(2), or an attribute of
    /// a checkpoint that is not there yet.
    pub(in crate::fs) fn set_attr(
        &self,
        set: &SetAttr,
        tid: u32,
        patience: Patience,
    ) -> Result<FileAttr> {
        let mut state = self.lock(patience)?;
        if state.handles == 0 && patience == Patience::None {
            return Err(Fail::WouldBlock);
        }
        let mut done = Ok(());
        if let Some(size) = set.size {
            state.authors.note(tid);
            done = self.truncate(&mut state, size, patience);
            done = self.keep_failure(&mut state, done);
        }
        done = done.and_then(|()| self.set_attributes(&mut state, set.attributes(), patience));
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

    /// Before a change they go to the checkpoint at once, after it with the
    /// save, and after a save point to both (DESIGN 4).
    fn set_attributes(
        &self,
        state: &mut State,
        attributes: Attributes,
        patience: Patience,
    ) -> Result<()> {
        let at_once = state.staged.is_none() || state.published;
        if attributes.is_empty() {
            // Only a new size.
        } else if let Some(base) = state.base.as_ref().filter(|_| at_once) {
            match self.session.set_attributes(base, &attributes) {
                // As on any file that lost its name while it was open.
                Err(error) if error.kind() == Kind::Superseded => {}
                other => other?,
            }
        }
        if state.base.is_none() {
            self.change(state, false, patience)?;
        }
        if state.staged.is_some() {
            merge(&mut state.attributes, attributes);
        }
        Ok(())
    }

    /// What the holder of a descriptor sees of it.
    pub(in crate::fs) fn attr(&self, patience: Patience) -> Result<FileAttr> {
        self.attr_of(&*self.lock(patience)?)
    }

    fn attr_of(&self, state: &State) -> Result<FileAttr> {
        let shown = self.shown();
        let mut attr = match &state.base {
            Some(base) => attr_of(&sys::fstat(base.as_path_fd())?, shown),
            None => {
                // Whoever makes a file has it open whatever its mode (open(2)):
                // the kernel's check comes before the first open here.
                let his = if state.handles == 0 { 0o600 } else { 0 };
                let mode = self.first_mode | his;
                empty_attr(&self.session, shown, mode, Some(self.first_owner))?
            }
        };
        // The base may have been replaced; this file has its name.
        attr.nlink = 1;
        if let Some(staged) = &state.staged {
            let own = attr_of(&staged.stat()?, shown);
            attr = FileAttr {
                perm: attr.perm,
                uid: attr.uid,
                gid: attr.gid,
                nlink: 1,
                ..own
            };
            overlay(&mut attr, &state.attributes);
        }
        Ok(attr)
    }

    /// The value of an extended attribute; `ENODATA` if there is none.
    pub(in crate::fs) fn xattr(&self, name: &CStr, patience: Patience) -> Result<Vec<u8>> {
        let state = self.lock(patience)?;
        let set = state.attributes.xattrs.iter().find(|(n, _)| **n == *name);
        let value = match (set, &state.base) {
            (Some((_, value)), _) => value.clone().ok_or(sys::Errno::NODATA),
            (None, Some(base)) => sys::get_xattr(base.as_path_fd(), name),
            (None, None) => Err(sys::Errno::NODATA),
        };
        Ok(value?)
    }

    /// Sets or removes an extended attribute.
    pub(in crate::fs) fn set_xattr(
        &self,
        name: CString,
        value: Option<Vec<u8>>,
        patience: Patience,
    ) -> Result<()> {
        let mut state = self.lock(patience)?;
        if state.handles == 0 && patience == Patience::None {
            return Err(Fail::WouldBlock);
        }
        let attributes = Attributes {
            xattrs: vec![(name, value)],
            ..Attributes::default()
        };
        let done = self.set_attributes(&mut state, attributes, patience);
        self.save_if_alone(&mut state, done)
    }

    /// What an open with `O_TRUNC` by somebody unprivileged takes off a
    /// setuid file goes with the save. Before any other change the kernel
    /// sends the mode.
    pub(super) fn drop_privileges(&self, state: &mut State) -> Result<()> {
        if let Some(mode) = without_privileges(self.attr_of(state)?.perm.into())
            && !process::keeps_privileges(self.opener.pid)
        {
            let attributes = Attributes {
                mode: Some(mode),
                ..Attributes::default()
            };
            merge(&mut state.attributes, attributes);
        }
        Ok(())
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
