//! Keeps a session's writers out while something else than a writer saves (DESIGN 2.8).

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
    /// Until the returned value is dropped, no writer of this mount begins a save. A
    /// writer of the calling process does not count: its slot is borrowed.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another process's writer has the slot.
    pub(in crate::fs) fn keep_writers_out(&self, session: u64, caller: Caller) -> Result<KeptOut> {
        let live = self.lasting.sessions.of(session);
        let slot = &live.slot;
        // The root is no writer, so its node id stands for "no writer".
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

/// The slot of a session, taken. It is given back when this is dropped.
pub(in crate::fs) struct KeptOut {
    live: Arc<Live>,
    /// The writer of the calling process that the slot was taken from, if it had it.
    taken_from: Option<Owner>,
    tid: u32,
}

impl KeptOut {
    /// Another file has got the name `session`: the writers of the calling process become
    /// files without a name.
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
