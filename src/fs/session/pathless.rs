//! Opens that walk no path (DESIGN 2.14): of `/proc/PID/fd/N`, of an `O_PATH`
//! descriptor, of a single file that is bound somewhere, by
//! open_by_handle_at(2); and callers that cannot be told from others (pid 0).
//!
//! Such an open for writing has no second walk on which it could be shown a
//! writer (DESIGN 4): its writer shares the node of the checkpoint that it was
//! found by. The kernel keeps nothing of that node then, and whoever opens it
//! later is served by us, with what the session's checkpoint is by then: who has
//! one file bound into a container reads back what was written to it.
//!
//! For reading it gets the file of its own node, which is kept for as long as
//! the kernel knows the node; one that was replaced beside the mount is gone, and
//! that node follows the session, too.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{FileAttr, FopenFlags};

use crate::fs::attr::attr_of;
use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::opened::{Opened, only_appends};
use crate::fs::request::{Caller, Request};
use crate::fs::session::writer::{Wait, Writer, absent_attr};
use crate::repo::CHECKPOINT;
use crate::sys::{self, Errno, OFlags, is_file};

impl Fs {
    /// Opens a writer that shares the node of a checkpoint. A process that has one
    /// open already comes to that (`/proc/self/fd/N`, `/dev/stdout`): it has one
    /// node, and in `/proc` the two could not be told apart.
    ///
    /// # Errors
    /// `EBUSY` if the kernel reads the node by itself: one inode is open in one
    /// way only, it would answer `EIO` (fs/fuse/iomode.c, Linux 6.18).
    pub(in crate::fs) fn open_shared(
        &self,
        id: u64,
        writer: Arc<Writer>,
        flags: i32,
        request: Request,
    ) -> Result<Opened> {
        let writer = match self.own_sharer(id, request.caller) {
            Some(own) => own,
            None => {
                self.share_node(id, &writer, request)?;
                writer
            }
        };
        if !only_appends(flags) {
            writer.does_more_than_append();
        }
        let share = self.reserve(request.caller, 1)?;
        let (truncates, wait) = (flags & libc::O_TRUNC != 0, Wait::For(request.caller.tid));
        writer.open(truncates, request.caller.tid, wait, request.patience)?;
        Ok(self.opened_writer(writer, share, FopenFlags::FOPEN_DIRECT_IO))
    }

    /// From now on this writer's node is that of a checkpoint, which is served by
    /// us and follows the session.
    ///
    /// # Errors
    /// As of [`open_shared`](Self::open_shared); `EACCES` if the session has
    /// another checkpoint by now that the caller must not write.
    pub(in crate::fs) fn share_node(
        &self,
        id: u64,
        writer: &Writer,
        request: Request,
    ) -> Result<()> {
        if request.caller.tid == 0 {
            self.serve_all_readers();
        }
        writer.check_base(id, request)?;
        // Held, so that no other file gets its number.
        let follows = self.lasting.nodes.follows(id).is_some();
        let own = if follows { None } else { self.path_fd(id).ok() };
        if !self.lasting.nodes.follow(id, own) {
            return Err(Errno::BUSY.into());
        }
        writer.share(id);
        Ok(())
    }

    /// A caller without a number comes by any path: no reader of any checkpoint
    /// is left to the kernel from now on.
    fn serve_all_readers(&self) {
        // In this order: a reader that finds no passthrough asks for the other
        // next, and must not take it for one that may use the page cache.
        let is_first = !self.has_shared_writers.swap(true, Ordering::SeqCst);
        self.passthrough.store(false, Ordering::SeqCst);
        if is_first {
            log::info!(
                "a program outside of this process id namespace writes: \
                 checkpoints are read through the daemon from now on"
            );
        }
    }

    /// Opens what a node follows, for reading.
    pub(in crate::fs) fn open_followed(
        &self,
        id: u64,
        session: u64,
        request: Request,
    ) -> Result<Opened> {
        let Some(checkpoint) = self.followed(session)? else {
            return self.open_absent(id, session, FopenFlags::FOPEN_DIRECT_IO, request);
        };
        request
            .caller
            .act(|| sys::access(&checkpoint, libc::R_OK))?;
        let share = self.reserve(request.caller, 1)?;
        let file = Arc::new(sys::reopen(&checkpoint, OFlags::RDONLY)?);
        let handle = Handle::File {
            file,
            is_synced: false,
            _backing: None,
        };
        Ok(Opened {
            handle: self.lasting.handles.add(handle, share),
            flags: FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
            backing: None,
        })
    }

    /// The caller's own writer that shares a node: fstat(2) of it does not say
    /// which descriptor it is of (fuse_getattr, fs/fuse/dir.c, Linux 6.18), and a
    /// writer sees its own file.
    pub(in crate::fs) fn own_sharer(&self, id: u64, caller: Caller) -> Option<Arc<Writer>> {
        let live = self
            .lasting
            .sessions
            .find(self.lasting.nodes.follows(id)?)?;
        let writers = live.writers_of(caller.tid).into_iter();
        writers
            .filter(|writer| writer.is_shared())
            .find(|writer| writer.node() == id)
    }

    /// The attributes of what a node follows.
    pub(in crate::fs) fn followed_attr(&self, id: u64, session: u64) -> Result<FileAttr> {
        match self.followed(session)? {
            Some(checkpoint) => Ok(attr_of(&sys::fstat(&checkpoint)?, id)),
            None => absent_attr(&self.session(session)?, id),
        }
    }

    /// The checkpoint that a session has now, as an `O_PATH` descriptor.
    pub(in crate::fs) fn followed(&self, session: u64) -> Result<Option<OwnedFd>> {
        let dir = self.dir(session)?;
        let checkpoint = match sys::open_path(&*dir.fd, OsStr::new(CHECKPOINT)) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        if !is_file(&sys::fstat(&checkpoint)?) {
            return Err(Errno::LOOP.into());
        }
        Ok(Some(checkpoint))
    }

    /// What is to be told of a checkpoint whose own file is gone: the kernel walks
    /// the path again, if there is one, and finds another. If there is none, it
    /// comes to the same node, which follows its session by then.
    pub(in crate::fs) fn is_gone(&self, id: u64) -> Fail {
        if self.lasting.nodes.session(id).is_some() {
            self.lasting.nodes.follow(id, None);
        }
        Errno::STALE.into()
    }
}
