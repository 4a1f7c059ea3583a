//! Opens of a checkpoint for writing: the writer that each gets on its second walk
//! (DESIGN 4), and the first checkpoint of a session.

use std::sync::Arc;

use fuser::FopenFlags;

use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::{Role, empty_id};
use crate::fs::opened::{Created, Opened, only_appends};
use crate::fs::request::{Caller, Request};
use crate::fs::session::walk::{Again, SecondWalk};
use crate::fs::session::writer::{Origin, Wait, Writer};
use crate::fs::shares::{OF_WRITER, Share};
use crate::repo::{Checkpoint, Session};
use crate::sys::{self, Errno};

impl Fs {
    /// Opens, for reading, a checkpoint that does not exist.
    pub(in crate::fs) fn open_absent(
        &self,
        id: u64,
        parent: u64,
        flags: FopenFlags,
        request: Request,
    ) -> Result<Opened> {
        let session = self.session(parent)?;
        let writer = self.writer(self.origin(session, parent, None, request.caller)?);
        // This writer never writes.
        writer.show_as(id);
        let share = self.reserve(request.caller, 1)?;
        writer.open(false, request.caller.tid, Wait::Never, request.patience)?;
        let handle = self.lasting.handles.add(Handle::Writer(writer), share);
        Ok(Opened {
            handle,
            flags: flags | FopenFlags::FOPEN_NOFLUSH,
            backing: None,
        })
    }

    /// Sends a thread that opens or changes a node to its second walk (DESIGN 4), if the
    /// node is a session's checkpoint, or was one: then the thread may have found it
    /// under another name.
    ///
    /// `find` finds or makes the writer. `other` changes the node as an ordinary file.
    /// `shared` serves a caller that has no second walk: it has no thread id, or walked
    /// no path.
    pub(in crate::fs) fn change_checkpoint<T>(
        &self,
        (role, id, session): (&Role, u64, u64),
        caller: Caller,
        find: impl FnOnce(u64) -> Result<Arc<Writer>>,
        other: impl Fn() -> Result<T>,
        shared: impl Fn(Arc<Writer>) -> Result<T>,
    ) -> Result<T> {
        let is_other = matches!(role, Role::Other);
        if let Some(again) = self.threads.again(caller.tid, id) {
            let done = match again {
                // A checkpoint that was exchanged for another file, or renamed, is an
                // ordinary file now.
                Again::ByNoPath(writer) if !is_other => shared(writer),
                Again::ByNoPath(_) | Again::ByLink => other(),
            };
            if !matches!(done, Err(Fail::WouldBlock)) {
                self.threads.end_walk(caller.tid);
            }
            return done;
        }
        if is_other && caller.tid == 0 {
            return other();
        }
        let writer = match find(session) {
            // The session is gone, so the caller cannot have meant its checkpoint.
            Err(_) if is_other => return other(),
            writer => writer?,
        };
        if caller.tid == 0 {
            return shared(writer);
        }
        let walk = SecondWalk::new(caller.tid, session, id, writer);
        self.threads.begin_walk(caller, walk);
        Err(Errno::STALE.into())
    }

    pub(in crate::fs) fn opened_writer(
        &self,
        writer: Arc<Writer>,
        share: Share,
        flags: FopenFlags,
    ) -> Opened {
        self.lasting
            .sessions
            .of(writer.session_node())
            .opened(&writer);
        Opened {
            handle: self.lasting.handles.add(Handle::Writer(writer), share),
            flags,
            backing: None,
        }
    }

    /// A writer that starts from the current checkpoint of a session. `id` is the node
    /// that the kernel has looked up, `flags` are those of the open.
    pub(in crate::fs) fn new_writer(
        &self,
        parent: u64,
        id: u64,
        flags: i32,
        caller: Caller,
    ) -> Result<Arc<Writer>> {
        let session = self.session(parent)?;
        let base = session.checkpoint()?;
        self.check_writer(&session, base.as_ref(), caller)?;
        // The checkpoint that the kernel has looked up may have been replaced since.
        let is_same = base.as_ref().map_or(empty_id(parent), |b| b.stat().stx_ino) == id;
        let mut origin = self.origin(session, parent, base, caller)?;
        origin.replaces = flags & libc::O_TRUNC != 0;
        origin.is_read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
        origin.only_appends = only_appends(flags);
        let writer = self.writer(origin);
        if is_same {
            writer.show_as(id);
        }
        Ok(writer)
    }

    fn origin(
        &self,
        session: Session,
        parent: u64,
        base: Option<Checkpoint>,
        caller: Caller,
    ) -> Result<Origin> {
        Ok(Origin {
            share: self.reserve(caller, OF_WRITER)?,
            base,
            slot: self.lasting.sessions.of(parent).slot.clone(),
            directory: parent,
            activity: self.activity.clone(),
            statistics: self.statistics.clone(),
            lock_wait: self.options.lock_wait,
            device: self.device.clone(),
            removed: None,
            replaces: false,
            is_new: false,
            is_read_only: false,
            only_appends: false,
            caller,
            credentials: caller.credentials()?,
            first_mode: None,
            first_owner: first_owner(&session, caller)?,
            session,
        })
    }

    fn writer(&self, origin: Origin) -> Arc<Writer> {
        let ino = self.lasting.next_writer();
        Arc::new(Writer::new(ino, origin))
    }

    /// Creates the checkpoint of a session for a caller that sees none: there is none, or
    /// the caller has removed it.
    pub(in crate::fs) fn create_checkpoint(
        &self,
        parent: u64,
        mode: u32,
        flags: i32,
        request: Request,
    ) -> Result<Created> {
        let session = self.session(parent)?;
        let mut base = session.checkpoint()?;
        let removed = base.take_if(|base| self.has_removed(parent, base, request.caller));
        if let Some(base) = base {
            if flags & libc::O_EXCL != 0 {
                return Err(Errno::EXIST.into());
            }
            // It was made after the kernel's lookup, so the kernel has not checked
            // whether the caller may write it. ESTALE makes it look again, once.
            let id = base.stat().stx_ino;
            let writer = self.new_writer(parent, id, flags, request.caller)?;
            if request.caller.tid != 0 {
                let walk = SecondWalk::new(request.caller.tid, parent, id, writer);
                self.threads.begin_walk(request.caller, walk);
            }
            return Err(Errno::STALE.into());
        }
        self.check_writer(&session, None, request.caller)?;
        let mut origin = self.origin(session, parent, None, request.caller)?;
        origin.removed = removed;
        origin.is_new = true;
        origin.is_read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
        origin.replaces = flags & (libc::O_TRUNC | libc::O_EXCL) == libc::O_TRUNC;
        origin.first_mode = Some(mode & 0o777);
        let writer = self.writer(origin);
        let share = self.reserve(request.caller, 1)?;
        // An empty new file is saved even if nothing is written to it. The removal is
        // part of this writer's save from now on: if the save fails, the old checkpoint
        // stays.
        let opened = writer.open(true, request.caller.tid, Wait::Never, request.patience);
        if opened != Err(Fail::WouldBlock) {
            self.lasting.sessions.cancel_removal(parent);
        }
        opened?;
        Ok(Created {
            entry: self.writer_entry(parent, &writer, request.patience)?,
            opened: self.opened_writer(writer, share, FopenFlags::empty()),
        })
    }
}

/// Owner and group of a first checkpoint: those of the caller, but the group of a setgid
/// directory is inherited (inode(7)).
fn first_owner(session: &Session, caller: Caller) -> Result<(u32, u32)> {
    let dir = sys::fstat(session.dir())?;
    let inherits = u32::from(dir.stx_mode) & libc::S_ISGID != 0;
    let gid = if inherits { dir.stx_gid } else { caller.gid };
    Ok((caller.uid, gid))
}
