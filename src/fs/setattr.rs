//! Changing attributes: SETATTR (DESIGN 2.7, 13.1).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use fuser::FileAttr;

use crate::fs::attr::{SetAttr, attr_of};
use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::{ROOT, Role};
use crate::fs::request::{Caller, Request};
use crate::fs::session::writer::Writer;
use crate::repo::Checkpoint;
use crate::sys::{self, Errno, OFlags};

impl Fs {
    /// Sets attributes, and returns the new ones. A new size of a checkpoint is a save:
    /// truncate(2) gets a writer by a second walk, as an open for writing does.
    ///
    /// # Errors
    /// Those of chmod(2), chown(2), utimensat(2) and truncate(2).
    pub fn setattr(
        &self,
        id: u64,
        set: &SetAttr,
        handle: Option<u64>,
        request: Request,
    ) -> Result<FileAttr> {
        if id == ROOT {
            self.admit(request.caller)?;
        }
        let handle = handle
            .map(|handle| self.lasting.handles.get(handle))
            .transpose()?;
        if let Some(Handle::Writer(writer)) = handle.as_deref() {
            return writer.set_attr(set, request);
        }
        if let Some(handle @ Handle::File { .. }) = handle.as_deref() {
            return self.set_other(id, set, Some(handle), request);
        }
        match self.role(id)? {
            Role::Writer(writer) => {
                self.threads.end_walk(request.caller.tid);
                let done = writer.set_attr(set, request);
                // A writer without an open handle is done, but the kernel may know its
                // node for long.
                if done != Err(Fail::WouldBlock) && !writer.is_open() {
                    self.lasting.nodes.retire(id);
                }
                done
            }
            role @ (Role::Checkpoint | Role::Empty | Role::Other)
                if set.size.is_some()
                    && let Some(session) = self.lasting.nodes.session(id) =>
            {
                self.change_checkpoint(
                    (&role, id, session),
                    request.caller,
                    |session| match self.own_writer(session, request.caller) {
                        Some(own) => Ok(own),
                        None => self.new_writer(session, id, libc::O_WRONLY, request.caller),
                    },
                    || self.set_other(id, set, None, request),
                    |writer| {
                        if !writer.is_open() {
                            self.share_node(id, &writer, request)?;
                        }
                        writer.set_attr(set, request)
                    },
                )
            }
            Role::Empty => {
                let (parent, _) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
                let writer = self.new_writer(parent, id, libc::O_WRONLY, request.caller)?;
                writer.set_attr(set, request)
            }
            Role::Checkpoint => {
                let parent = self.lasting.nodes.session(id).ok_or(Errno::STALE)?;
                let path = self.path_fd(id)?;
                let fd = sys::reopen(&*path, OFlags::PATH)?;
                let checkpoint = Checkpoint::from_path_fd(fd)?;
                let session = self.session(parent)?;
                let attributes = set.attributes();
                let now = sys::fstat(checkpoint.as_path_fd())?;
                let acting = request.caller.to_change(&now, &attributes)?;
                session.set_attributes(&checkpoint, &attributes)?;
                drop(acting);
                Ok(attr_of(&sys::fstat(checkpoint.as_path_fd())?, id))
            }
            Role::Report => Err(Errno::PERM.into()),
            Role::Root | Role::Session | Role::Directory | Role::Other => {
                self.set_other(id, set, None, request)
            }
        }
    }

    /// The writer that the calling process has open: truncate(2) by path acts on that
    /// (DESIGN 2.15).
    fn own_writer(&self, session: u64, caller: Caller) -> Option<Arc<Writer>> {
        let live = self.lasting.sessions.find(session)?;
        live.writers_of(caller.tid).into_iter().next()
    }

    fn set_other(
        &self,
        id: u64,
        set: &SetAttr,
        handle: Option<&Handle>,
        request: Request,
    ) -> Result<FileAttr> {
        let attributes = set.attributes();
        let apply = |fd: BorrowedFd<'_>| {
            if attributes.is_empty() {
                return Ok(());
            }
            let _acting = request.caller.to_change(&sys::fstat(fd)?, &attributes)?;
            attributes.apply(fd)
        };
        if let Some(Handle::File { file, .. }) = handle {
            if let Some(size) = set.size {
                sys::set_len(&**file, size)?;
            }
            apply(file.as_fd())?;
            return Ok(attr_of(&sys::fstat(&**file)?, id));
        }
        let fd = self.path_fd(id)?;
        if let Some(size) = set.size {
            self.check_link(id, request)?;
            sys::set_len(sys::reopen(&*fd, OFlags::WRONLY)?, size)?;
        }
        apply(fd.as_fd())?;
        Ok(attr_of(&sys::fstat(&*fd)?, id))
    }
}
