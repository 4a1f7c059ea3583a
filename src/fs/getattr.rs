//! Attributes of nodes and handles: GETATTR.

use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileType, INodeNo};

use crate::fs::attr::attr_of;
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::{ROOT, Role};
use crate::fs::request::{Patience, Request};
use crate::fs::session::writer::{absent_attr, shown_as_own};
use crate::sys::{self, Errno};

impl Fs {
    /// The attributes of a node, or of a handle if there is one.
    ///
    /// # Errors
    /// `ESTALE` if the node has moved; for the root, `EACCES` if the caller cannot reach
    /// the repository.
    pub fn getattr(&self, id: u64, handle: Option<u64>, request: Request) -> Result<FileAttr> {
        if id == ROOT {
            self.admit(request.caller)?;
        }
        if handle.is_none()
            && let Some(writer) = self.own_sharer(id, request.caller)
        {
            return writer.attr(request.patience);
        }
        let mut attr = self.attributes(id, handle, request.patience)?;
        if let Some(shown) = self.shown_to_writer(id, request.caller) {
            attr.ino = INodeNo(shown);
        }
        if matches!(self.role(id), Ok(Role::Empty))
            && let Some((parent, _)) = self.lasting.nodes.parent_and_name(id)
            && let Ok(session) = self.session(parent)
        {
            attr = shown_as_own(attr, &session, request.caller)?;
        }
        Ok(attr)
    }

    /// As [`getattr`](Self::getattr), without the checks that depend on the caller.
    pub(in crate::fs) fn attributes(
        &self,
        id: u64,
        handle: Option<u64>,
        patience: Patience,
    ) -> Result<FileAttr> {
        if let Some(handle) = handle {
            match &*self.lasting.handles.get(handle)? {
                Handle::File { file, .. } => return Ok(attr_of(&sys::fstat(&**file)?, id)),
                Handle::Writer(writer) => return writer.attr(patience),
                Handle::Directory(_) | Handle::Report(_) => {}
            }
        }
        if let Some(session) = self.lasting.nodes.follows(id) {
            return self.followed_attr(id, session);
        }
        match self.role(id)? {
            Role::Root => self.root_attr(),
            Role::Report => self.report_attr(),
            Role::Writer(writer) => writer.attr(patience),
            Role::Empty => {
                let (parent, _) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
                match self.session(parent) {
                    Ok(session) => absent_attr(&session, id),
                    // A program that still has it open sees a file without a name.
                    Err(_) => Ok(FileAttr {
                        ino: INodeNo(id),
                        nlink: 0,
                        size: 0,
                        blocks: 0,
                        kind: FileType::RegularFile,
                        perm: 0o444,
                        ..self.root_attr()?
                    }),
                }
            }
            Role::Session | Role::Directory => Ok(attr_of(&self.dir(id)?.stat, id)),
            Role::Checkpoint | Role::Other => {
                let file = self.path_fd(id)?;
                Ok(attr_of(&sys::fstat(&*file)?, id))
            }
        }
    }

    /// The root's attributes; those of an empty directory while the repository is
    /// missing.
    pub(in crate::fs) fn root_attr(&self) -> Result<FileAttr> {
        match self.repository.root()? {
            Some(root) => Ok(attr_of(&sys::fstat(&*root)?, ROOT)),
            None => Ok(FileAttr {
                ino: INodeNo(ROOT),
                size: 0,
                blocks: 0,
                atime: UNIX_EPOCH,
                mtime: UNIX_EPOCH,
                ctime: UNIX_EPOCH,
                crtime: UNIX_EPOCH,
                kind: FileType::Directory,
                perm: 0o755,
                nlink: 2,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                rdev: 0,
                blksize: 4096,
                flags: 0,
            }),
        }
    }
}
