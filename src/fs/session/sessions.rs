//! The sessions in use: one object for each that has writers, or a removal.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::fs::session::removal::Removal;
use crate::fs::session::slot::{Owner, Slot};
use crate::fs::session::writer::Writer;
use crate::proc::identity::Process;

/// From this many sessions on, those not in use are forgotten before the table grows.
const FEW: usize = 64;

/// The sessions in use, by the inode number of their directory.
#[derive(Debug, Default)]
pub(in crate::fs) struct Sessions {
    by_node: Mutex<HashMap<u64, Known>>,
    /// Notified when a removal has been deferred.
    pub(super) deferred: Condvar,
}

/// What is known of one session, under the lock of all.
#[derive(Debug, Default)]
pub(super) struct Known {
    live: Arc<Live>,
    /// The removal of its checkpoint, deferred or done.
    pub(super) removal: Option<Arc<Removal>>,
}

/// A session in use.
#[derive(Debug, Default)]
pub(in crate::fs) struct Live {
    /// The slot of the one writer that may change its checkpoint, and that writer's last
    /// save point.
    pub(in crate::fs) slot: Arc<Slot>,
    /// The writers that have been opened, youngest last.
    writers: Mutex<Vec<Weak<Writer>>>,
}

impl Sessions {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session, if it is in use.
    pub(in crate::fs) fn find(&self, session: u64) -> Option<Arc<Live>> {
        Some(self.lock().get(&session)?.live.clone())
    }

    /// A session, which is in use from now on.
    pub(in crate::fs) fn of(&self, session: u64) -> Arc<Live> {
        let mut sessions = self.lock();
        if let Some(known) = sessions.get(&session) {
            return known.live.clone();
        }
        if sessions.len() >= FEW && sessions.len() == sessions.capacity() {
            sessions.retain(|_, known| known.is_in_use());
        }
        sessions.entry(session).or_default().live.clone()
    }

    /// The sessions that have a writer in their slot, and that writer.
    pub(in crate::fs) fn owners(&self) -> Vec<(u64, Owner)> {
        let sessions = self.lock();
        let owned = sessions.iter();
        owned
            .filter_map(|(session, known)| Some((*session, known.live.slot.owner()?)))
            .collect()
    }
}

impl Known {
    /// Whether anything still uses it. Each writer keeps a reference to the slot.
    pub(super) fn is_in_use(&self) -> bool {
        self.removal.is_some()
            || Arc::strong_count(&self.live) > 1
            || Arc::strong_count(&self.live.slot) > 1
    }
}

impl Live {
    /// Remembers a writer that has been opened.
    pub(in crate::fs) fn opened(&self, writer: &Arc<Writer>) {
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

    /// The writers with a name that the process of thread `tid` has open: the one in the
    /// slot first, then youngest first.
    pub(in crate::fs) fn writers_of(&self, tid: u32) -> Vec<Arc<Writer>> {
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
        let first = self.slot.owner().map(|owner| owner.writer);
        writers.sort_by_key(|writer| Some(writer.ino) != first);
        writers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_remembered_as_long_as_it_is_in_use() {
        let owner = |writer| Owner {
            writer,
            process: Process::UNKNOWN,
        };
        let sessions = Sessions::default();
        let slot = sessions.of(7).slot.clone();
        slot.take(owner(1), None).unwrap();
        assert_eq!(sessions.of(7).slot.take(owner(2), None), Err(owner(1)));
        let other = sessions.of(8).slot.take(owner(2), None);
        other.expect("another session's");
        assert_eq!(sessions.owners().len(), 2);
        sessions.of(8).slot.free(2);
        assert_eq!(sessions.owners(), [(7, owner(1))]);
        sessions.forget_ended();
        assert!(sessions.find(7).is_some() && sessions.find(8).is_none());
        for node in 100..1000 {
            drop(sessions.of(node));
        }
        assert!(sessions.lock().len() < 200, "{}", sessions.lock().len());
        drop(slot);
        sessions.forget_ended();
        assert!(sessions.find(7).is_none());
    }
}
