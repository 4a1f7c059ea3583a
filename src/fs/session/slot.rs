//! One writer at a time: the slot of each session (DESIGN 2.8).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::proc::holders;
use crate::proc::identity::Process;
use crate::repo::SessionName;

/// The target of log lines that are wanted although they are no warnings
/// (cli/logging.rs).
const BUSY: &str = "sessionfs::busy";

/// The place of the one writer that may change a session's checkpoint.
#[derive(Debug, Default)]
pub(in crate::fs) struct Slot {
    owner: Mutex<Option<Owner>>,
    freed: Condvar,
    /// The node id of the writer that was logged last as being in the way.
    logged: AtomicU64,
    /// The last save point of an open writer.
    published: Mutex<Option<Published>>,
}

/// The writer that has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct Owner {
    /// The node id of the writer.
    pub(in crate::fs) writer: u64,
    /// The process that opened it.
    pub(in crate::fs) process: Process,
}

/// A save point of a writer that is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct Published {
    /// The inode number of the checkpoint.
    pub(in crate::fs) checkpoint: u64,
    /// The node id of the writer.
    pub(in crate::fs) writer: u64,
    /// The inode number that the opener sees for it.
    pub(in crate::fs) shown: u64,
    /// The opener's process.
    pub(in crate::fs) process: Process,
}

impl Slot {
    /// The writer that has the slot.
    pub(in crate::fs) fn owner(&self) -> Option<Owner> {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot from the writer that has it, if that was opened by the process of
    /// thread `tid`. Returns that writer.
    pub(in crate::fs) fn take_from_own(&self, new: Owner, tid: u32) -> Option<Owner> {
        let known = self.owner().filter(|owner| owner.process.has_thread(tid))?;
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have freed the slot meanwhile.
        (*owner == Some(known)).then(|| {
            *owner = Some(new);
            known
        })
    }

    /// Gives the slot back to the writer from which `by` has taken it.
    pub(in crate::fs) fn give_back(&self, by: u64, to: Owner) {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.is_some_and(|owner| owner.writer == by) {
            *owner = Some(to);
        }
    }

    /// Remembers a save point.
    pub(in crate::fs) fn publish(&self, published: Published) {
        *self.published() = Some(published);
    }

    /// Forgets the save point of a writer, which is closed.
    pub(in crate::fs) fn unpublish(&self, writer: u64) {
        self.published().take_if(|known| known.writer == writer);
    }

    /// The last save point.
    pub(in crate::fs) fn last_published(&self) -> Option<Published> {
        *self.published()
    }

    fn published(&self) -> MutexGuard<'_, Option<Published>> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot for a writer. Waits until `deadline` for a writer of another
    /// process, but never for one of the same process.
    ///
    /// # Errors
    /// The owner, if another writer has the slot.
    pub(in crate::fs) fn take(
        &self,
        new: Owner,
        deadline: Option<Instant>,
    ) -> std::result::Result<(), Owner> {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let other = match *owner {
                Some(other) if other.writer != new.writer => other,
                _ => {
                    *owner = Some(new);
                    return Ok(());
                }
            };
            let is_own = other.process.is_known() && other.process == new.process;
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let Some(left) = left.filter(|left| !is_own && !left.is_zero()) else {
                return Err(other);
            };
            (owner, _) = self
                .freed
                .wait_timeout(owner, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Logs which process keeps others from saving, once for each writer: it may have
    /// been left open for ever.
    pub(in crate::fs) fn log_owner(&self, session: &SessionName) {
        let Some(owner) = self.owner() else {
            return;
        };
        if self.logged.swap(owner.writer, Ordering::Relaxed) == owner.writer {
            return;
        }
        match owner.process.pid {
            0 => log::info!(target: BUSY, "{session}: EBUSY: another process is writing it"),
            pid => log::info!(
                target: BUSY,
                "{session}: EBUSY: process {pid} ({}) is writing it",
                holders::command(pid)
            ),
        }
    }

    /// Frees the slot, if `writer` has it.
    pub(in crate::fs) fn free(&self, writer: u64) {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.is_some_and(|owner| owner.writer == writer) {
            *owner = None;
            self.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn owner(writer: u64, process: Process) -> Owner {
        Owner { writer, process }
    }

    #[test]
    fn a_slot_has_one_owner_and_is_passed_on() {
        let slot = &Slot::default();
        let owner = |writer| owner(writer, Process::UNKNOWN);
        slot.take(owner(1), None).unwrap();
        slot.take(owner(1), None).expect("it has it already");
        assert_eq!(slot.take(owner(2), None), Err(owner(1)));
        slot.free(2);
        slot.take(owner(2), None).expect_err("not its own to free");
        std::thread::scope(|scope| {
            let deadline = Instant::now() + Duration::from_secs(60);
            let waiting = scope.spawn(move || slot.take(owner(2), Some(deadline)));
            slot.free(1);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn rule_2_8_a_writer_never_waits_for_one_of_its_own_process() {
        let slot = Slot::default();
        let process = Process::of(std::process::id());
        slot.take(owner(1, process), None).unwrap();
        let start = Instant::now();
        let deadline = Some(start + Duration::from_secs(60));
        assert_eq!(
            slot.take(owner(2, process), deadline),
            Err(owner(1, process))
        );
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
