//! The processes that have removed a checkpoint which still exists for others (DESIGN
//! 2.12), and what each of them takes of its user's share (DESIGN 13.3).

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::fs::shares::Share;
use crate::proc::identity::Process;

/// How many processes are remembered for one removal. Further ones are treated as
/// processes that have not removed it.
const MOST: usize = 16;

/// How many descriptors of the daemon one such process takes.
pub(in crate::fs) const OF_REMOVER: u64 = 1;

/// The processes that have removed one checkpoint.
#[derive(Debug, Default)]
pub(in crate::fs) struct Removers(Mutex<Vec<Remover>>);

/// A process that has removed a checkpoint. Its end is seen by a pidfd.
#[derive(Debug)]
pub(in crate::fs) struct Remover {
    process: Process,
    pidfd: Arc<OwnedFd>,
    /// Its share of descriptors, for the pidfd.
    share: Share,
}

impl Removers {
    pub(in crate::fs) fn new(first: Option<Remover>) -> Self {
        Self(Mutex::new(first.into_iter().collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Remover>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a process, and forgets those that have ended.
    pub(in crate::fs) fn add(&self, remover: Remover) {
        let mut removers = self.lock();
        removers.retain(|known| known.process != remover.process && !known.has_ended());
        let own = removers
            .iter()
            .filter(|known| known.share.is_of_same_user(&remover.share));
        if own.count() < MOST {
            removers.push(remover);
        }
    }

    /// Whether the process of this thread is one of them.
    pub(in crate::fs) fn has(&self, tid: u32) -> bool {
        let process = Process::of(tid);
        let removers = self.lock();
        let mut known = removers.iter().filter(|remover| remover.process == process);
        known.any(|remover| !remover.has_ended())
    }

    pub(in crate::fs) fn is_any_alive(&self) -> bool {
        !self.lock().iter().all(Remover::has_ended)
    }

    /// The pidfds of those that live: one that has ended would end every wait at once.
    pub(in crate::fs) fn pidfds(&self) -> Vec<Arc<OwnedFd>> {
        let removers = self.lock();
        removers
            .iter()
            .filter(|remover| !remover.has_ended())
            .map(|remover| remover.pidfd.clone())
            .collect()
    }
}

impl Remover {
    /// The process of a thread; `None` if it is outside our pid namespace.
    pub(in crate::fs) fn of(tid: u32, share: Share) -> Option<Self> {
        let (process, pidfd) = Process::with_pidfd(tid)?;
        Some(Self {
            process,
            pidfd: Arc::new(pidfd),
            share,
        })
    }

    /// A pidfd becomes readable before the parent's wait(2) can return (do_notify_parent,
    /// kernel/signal.c). So a program that has seen `rm` end finds it ended here, too.
    fn has_ended(&self) -> bool {
        wait_for_end_of_any(std::slice::from_ref(&self.pidfd), Duration::ZERO)
    }
}

/// Waits until one of the processes has ended, for `time` at most. Returns whether one
/// has.
pub(in crate::fs) fn wait_for_end_of_any(pidfds: &[Arc<OwnedFd>], time: Duration) -> bool {
    let mut polled: Vec<_> = pidfds
        .iter()
        .map(|pidfd| PollFd::new(&**pidfd, PollFlags::IN))
        .collect();
    let time = Timespec::try_from(time).unwrap_or(Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    });
    poll(&mut polled, Some(&time)).is_ok_and(|ready| ready > 0)
}
