//! Opens that walk no path (DESIGN 2.14): `/proc/PID/fd/N`, an `O_PATH` descriptor opened
//! again, a bind mount of the single file, open_by_handle_at(2). Also callers that cannot
//! be told apart (pid 0).
//!
//! Such an open for writing has no second walk, so it cannot be given a node of its own
//! (DESIGN 4). Its writer shares the node of the checkpoint that was opened. From then on
//! the kernel caches nothing of that node: the daemon serves every later open of it with
//! the current checkpoint of the session. So a container that has the single file bound
//! reads back what it wrote.
//!
//! An open for reading gets the node's own file, which is kept open as long as the kernel
//! knows the node. If the file was replaced by other means than this mount, it is gone,
//! and the node follows the session, too.

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
    /// Opens a writer that shares the node of a checkpoint. If the process already has
    /// such a writer open, it gets that one (`/proc/self/fd/N`, `/dev/stdout`): both
    /// would have the same node, and could not be told apart in `/proc`.
    ///
    /// # Errors
    /// `EBUSY` if a passthrough reader has the node open: the kernel allows only one way
    /// of reading for each inode, and would answer `EIO` (fs/fuse/iomode.c, Linux 6.18).
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

    /// Makes this writer share the node of a checkpoint. From then on the daemon serves
    /// that node, and it follows the session.
    ///
    /// # Errors
    /// As [`open_shared`](Self::open_shared); `EACCES` if the session has another
    /// checkpoint by now, which the caller must not write.
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
        // Kept open, so that its inode number is not reused.
        let follows = self.lasting.nodes.follows(id).is_some();
        let own = if follows { None } else { self.path_fd(id).ok() };
        if !self.lasting.nodes.follow(id, own) {
            return Err(Errno::BUSY.into());
        }
        writer.share(id);
        Ok(())
    }

    /// A caller without a thread id may have opened any checkpoint. So from now on the
    /// daemon serves all readers: none uses passthrough.
    fn serve_all_readers(&self) {
        // The order matters: a reader that finds passthrough off checks the other flag
        // next, and must not use the page cache then.
        let is_first = !self.has_shared_writers.swap(true, Ordering::SeqCst);
        self.passthrough.store(false, Ordering::SeqCst);
        if is_first {
            log::warn!(
                "a program writes whose process cannot be seen from this pid namespace: \
                 if it is killed, what it has written is saved; \
                 checkpoints are read through the daemon from now on"
            );
        }
    }

    /// Opens, for reading, the current checkpoint of the session that a node follows.
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

    /// The writer of the calling process that shares a node. fstat(2) does not say which
    /// descriptor it is for (fuse_getattr, fs/fuse/dir.c, Linux 6.18), and a writer must
    /// see its own file.
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

    /// The attributes of the current checkpoint of the session that a node follows.
    pub(in crate::fs) fn followed_attr(&self, id: u64, session: u64) -> Result<FileAttr> {
        match self.followed(session)? {
            Some(checkpoint) => Ok(attr_of(&sys::fstat(&checkpoint)?, id)),
            None => absent_attr(&self.session(session)?, id),
        }
    }

    /// The current checkpoint of a session, as an `O_PATH` descriptor.
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

    /// The error for a node whose own file is gone. On `ESTALE` the kernel walks the path
    /// again, if there is one, and finds the current checkpoint. If there is none, it
    /// asks for the same node, which follows its session from now on.
    pub(in crate::fs) fn is_gone(&self, id: u64) -> Fail {
        if self.lasting.nodes.session(id).is_some() {
            self.lasting.nodes.follow(id, None);
        }
        Errno::STALE.into()
    }
}
