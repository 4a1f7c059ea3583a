//! How a writer is identified: its node, the inode number that programs see, and whether
//! it has the name `session`.

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

    /// Makes the writer share the node of its checkpoint with that checkpoint's readers.
    pub(in crate::fs) fn share(&self, node: u64) {
        self.show_as(node);
        self.node.store(node, Ordering::Relaxed);
    }

    /// The node by which the kernel knows it.
    pub(in crate::fs) fn node(&self) -> u64 {
        self.node.load(Ordering::Relaxed)
    }

    /// Whether it shares its node with a checkpoint.
    pub(in crate::fs) fn is_shared(&self) -> bool {
        self.node() != self.ino
    }

    /// Checks that the caller may write the base. The kernel has checked the node `id`,
    /// which may stand for another file by now.
    ///
    /// # Errors
    /// `EACCES`; `WouldBlock`.
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

    /// The process that opened it has removed it, or put another file in its place. From
    /// now on it is a file without a name: it can be written and read, and saves nothing.
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

    /// Whether the opener created it, so that the opener's path leads to it, too.
    pub(in crate::fs) fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Relaxed)
    }

    /// Whether it is open, and has or will have the name `session`.
    pub(in crate::fs) fn has_name(&self) -> bool {
        !self.is_nameless() && self.is_open()
    }
}
