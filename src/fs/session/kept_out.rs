//! Other saves than those of writers keep the writers of the session out (DESIGN 2.8).

use std::sync::Arc;

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::ROOT;
use crate::fs::request::Caller;
use crate::fs::session::sessions::Live;
use crate::fs::session::slot::Owner;
use crate::proc::identity::Process;
use crate::sys::Errno;

impl Fs {
    /// While the value lives no writer of this mount begins a save. The caller's
    /// own is not in its way.
    pub(in crate::fs) fn keep_writers_out(&self, session: u64, caller: Caller) -> Result<KeptOut> {
        let live = self.lasting.sessions.of(session);
        let slot = &live.slot;
        // No writer has the number of a node that is no writer's.
        let owner = Owner {
            writer: ROOT,
            process: Process::UNKNOWN,
        };
        let taken_from = match slot.take(owner, None) {
            Ok(()) => None,
            Err(_) => slot.take_from_own(owner, caller.tid),
        };
        slot.take(owner, None).map_err(|_| Errno::BUSY)?;
        Ok(KeptOut {
            live,
            taken_from,
            tid: caller.tid,
        })
    }
}

/// A slot that is taken, and given back when this is dropped.
pub(in crate::fs) struct KeptOut {
    live: Arc<Live>,
    /// The caller's own writer, if that had it.
    taken_from: Option<Owner>,
    tid: u32,
}

impl KeptOut {
    /// Another file has the name: what the caller's process has open for writing
    /// has none any more.
    pub(in crate::fs) fn lose_names(&mut self) {
        self.taken_from = None;
        for writer in self.live.writers_of(self.tid) {
            writer.lose_name();
        }
    }
}

impl Drop for KeptOut {
    fn drop(&mut self) {
        match self.taken_from {
            Some(writer) => self.live.slot.give_back(ROOT, writer),
            None => self.live.slot.free(ROOT),
        }
    }
}
