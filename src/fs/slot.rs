//! One writer at a time: the slot of each session (DESIGN 2.8).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::writer::Writer;
use crate::proc::holders;
use crate::proc::identity::Process;
use crate::repo::SessionName;

/// The slots of all sessions that have writers, by the inode number of the
/// session's directory.
#[derive(Debug, Default)]
pub(super) struct Slots {
    by_session: Mutex<HashMap<u64, Weak<Slot>>>,
}

/// A session's place for the one writer that may change its checkpoint.
#[derive(Debug, Default)]
pub(super) struct Slot {
    owner: Mutex<Option<Owner>>,
    freed: Condvar,
    /// The writer that the log has told of last.
    told: AtomicU64,
    /// What an open writer has made of the checkpoint.
    published: Mutex<Option<Published>>,
    /// The writers that have been opened, youngest last.
    writers: Mutex<Vec<Weak<Writer>>>,
}

/// Who has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// The node id of the writer.
    pub(super) writer: u64,
    /// The process that opened it.
    pub(super) process: Process,
}

/// A save point of a writer that is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    /// The inode number of the checkpoint.
    pub(super) checkpoint: u64,
    /// The node id of the writer.
    pub(super) writer: u64,
    /// The number that its opener sees it under.
    pub(super) shown: u64,
    /// The opener's process.
    pub(super) process: Process,
}

impl Slots {
    /// The slot of a session, if it has writers.
    pub(super) fn find(&self, session: u64) -> Option<Arc<Slot>> {
        let slots = self.by_session.lock();
        let slots = slots.unwrap_or_else(PoisonError::into_inner);
        slots.get(&session)?.upgrade()
    }

    /// The slot of a session.
    pub(super) fn of(&self, session: u64) -> Arc<Slot> {
        let mut slots = self
            .by_session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&session).and_then(Weak::upgrade) {
            return slot;
        }
        if slots.len() >= 64 && slots.len() == slots.capacity() {
            slots.retain(|_, slot| slot.strong_count() > 0);
        }
        let slot = Arc::new(Slot::default());
        slots.insert(session, Arc::downgrade(&slot));
        slot
    }
}

impl Slots {
    /// The sessions that are being changed, and by whom.
    pub(super) fn owners(&self) -> Vec<(u64, Owner)> {
        let slots = self.by_session.lock();
        let slots = slots.unwrap_or_else(PoisonError::into_inner);
        let owner = |slot: &Weak<Slot>| slot.upgrade()?.owner();
        let taken = slots.iter();
        taken
            .filter_map(|(session, slot)| Some((*session, owner(slot)?)))
            .collect()
    }
}

impl Slot {
    fn owner(&self) -> Option<Owner> {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer is opened.
    pub(super) fn opened(&self, writer: &Arc<Writer>) {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if writers
            .iter()
            .any(|known| known.as_ptr() == Arc::as_ptr(writer))
        {
            return;
        }
        if writers.len() == writers.capacity() {
            writers.retain(|writer| writer.strong_count() > 0);
        }
        writers.push(Arc::downgrade(writer));
    }

    /// The writers that the process of thread `tid` has open under their name:
    /// the one that changes the checkpoint first, and then the youngest.
    pub(super) fn writers_of(&self, tid: u32) -> Vec<Arc<Writer>> {
        let mut writers: Vec<_> = {
            let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            writers.iter().rev().filter_map(Weak::upgrade).collect()
        };
        writers.retain(|writer| writer.has_name());
        if writers.is_empty() {
            return writers;
        }
        let process = Process::of(tid);
        writers.retain(|writer| process.is_known() && writer.opener() == process);
        let first = self.owner().map(|owner| owner.writer);
        writers.sort_by_key(|writer| Some(writer.ino) != first);
        writers
    }

    /// Takes the slot from a writer of the process of thread `tid`, if that is
    /// who has it.
    pub(super) fn take_from_own(&self, new: Owner, tid: u32) -> Option<Owner> {
        let known = self.owner().filter(|owner| owner.process.has_thread(tid))?;
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have given it back meanwhile.
        (*owner == Some(known)).then(|| {
            *owner = Some(new);
            known
        })
    }

    /// Gives the slot back to a writer that it was taken from by `by`.
    pub(super) fn give_back(&self, by: u64, to: Owner) {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.is_some_and(|owner| owner.writer == by) {
            *owner = Some(to);
        }
    }

    /// Remembers a save point.
    pub(super) fn publish(&self, published: Published) {
        *self.published() = Some(published);
    }

    /// The writer is closed.
    pub(super) fn unpublish(&self, writer: u64) {
        self.published().take_if(|known| known.writer == writer);
    }

    /// The last save point.
    pub(super) fn last_published(&self) -> Option<Published> {
        *self.published()
    }

    fn published(&self) -> MutexGuard<'_, Option<Published>> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot for a writer, waiting until `deadline` for whoever has
    /// it, but not for a writer of the same process.
    ///
    /// # Errors
    /// The owner, if that is another writer.
    pub(super) fn take(
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

    /// Tells the log who keeps others from saving, once for each writer: it may
    /// have been left open for ever.
    pub(super) fn tell_owner(&self, session: &SessionName) {
        let Some(owner) = self.owner() else {
            return;
        };
        if self.told.swap(owner.writer, Ordering::Relaxed) == owner.writer {
            return;
        }
        match owner.process.pid {
            0 => log::info!("{session}: EBUSY: another process is writing it"),
            pid => log::info!(
                "{session}: EBUSY: process {pid} ({}) is writing it",
                holders::command(pid)
            ),
        }
    }

    /// Gives the slot back, if `writer` has it.
    pub(super) fn free(&self, writer: u64) {
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
        let slots = Slots::default();
        let slot = &*slots.of(7);
        let owner = |writer| owner(writer, Process::UNKNOWN);
        slot.take(owner(1), None).unwrap();
        slot.take(owner(1), None).expect("it has it already");
        assert_eq!(slots.of(7).take(owner(2), None), Err(owner(1)));
        slots.of(8).take(owner(2), None).expect("another session's");
        assert_eq!(slots.owners(), [(7, owner(1))], "nobody has the other one");
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
    fn rule_2_8_nobody_waits_for_a_writer_of_its_own_process() {
        let slots = Slots::default();
        let slot = slots.of(7);
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
