//! What a writer is known by: its node, the number that programs see, and whether
//! the name `session` is its own.

use std::sync::atomic::Ordering;

use crate::fs::errno::Result;
use crate::fs::request::Request;
use crate::fs::session::writer::state::Writer;
use crate::proc::identity::Process;
use crate::sys;

impl Writer {
    /// From now on programs see this inode number.
    pub(in crate::fs) fn show_as(&self, ino: u64) {
        self.shown.store(ino, Ordering::Relaxed);
    }

    pub(super) fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    /// The kernel knows it by the node of its checkpoint, as it does the readers
    /// of that.
    pub(in crate::fs) fn share(&self, node: u64) {
        self.show_as(node);
        self.node.store(node, Ordering::Relaxed);
    }

    /// The node that the kernel knows it by.
    pub(in crate::fs) fn node(&self) -> u64 {
        self.node.load(Ordering::Relaxed)
    }

    /// Whether its node is that of a checkpoint, too.
    pub(in crate::fs) fn is_shared(&self) -> bool {
        self.node() != self.ino
    }

    /// Whether the caller may write what it starts from: the kernel has asked of
    /// the node `id`, which may stand for another file by now.
    ///
    /// # Errors
    /// `EACCES`
    pub(in crate::fs) fn check_base(&self, id: u64, request: Request) -> Result<()> {
        let state = self.lock(request.patience)?;
        let other = state.base.as_ref().filter(|base| base.stat().stx_ino != id);
        let asked = other.map(|base| {
            request
                .caller
                .act(|| sys::access(base.as_path_fd(), libc::W_OK))
        });
        Ok(asked.unwrap_or(Ok(()))?)
    }

    /// Its own process has removed it, or put another file in its place: from
    /// now on it is a file without a name. It can be written and read, and saves
    /// nothing.
    pub(in crate::fs) fn lose_name(&self) {
        self.is_nameless.store(true, Ordering::SeqCst);
        self.slot.free(self.ino);
        self.slot.unpublish(self.ino);
    }

    pub(super) fn is_nameless(&self) -> bool {
        self.is_nameless.load(Ordering::SeqCst)
    }

    /// The process that opened it.
    pub(in crate::fs) fn opener(&self) -> Process {
        self.opener
    }

    /// Whether its opener comes to it by the path as well.
    pub(in crate::fs) fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Relaxed)
    }

    /// Whether it is open, and the file that its name stands for, or is to stand
    /// for.
    pub(in crate::fs) fn has_name(&self) -> bool {
        !self.is_nameless() && self.is_open()
    }
}
