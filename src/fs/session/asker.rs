//! The processes that have asked for one removal (DESIGN 2.12), and what each of
//! them has of its user's share (DESIGN 13.3).

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::fs::shares::Share;
use crate::proc::identity::Process;

/// How many processes are remembered of one removal. To others beyond that it is
/// like one that somebody else has asked for.
const MOST: usize = 16;

/// The descriptor that each takes.
pub(in crate::fs) const OF_ASKER: u64 = 1;

/// Processes whose ends are seen.
#[derive(Debug, Default)]
pub(in crate::fs) struct Askers(Mutex<Vec<Asker>>);

/// A process whose end is seen.
#[derive(Debug)]
pub(in crate::fs) struct Asker {
    process: Process,
    pidfd: Arc<OwnedFd>,
    /// Of the descriptor.
    _share: Share,
}

impl Askers {
    pub(in crate::fs) fn new(first: Option<Asker>) -> Self {
        Self(Mutex::new(first.into_iter().collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Asker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One process more; those that have ended are forgotten.
    pub(in crate::fs) fn add(&self, asker: Asker) {
        let mut askers = self.lock();
        askers.retain(|known| known.process != asker.process && !known.has_ended());
        if askers.len() < MOST {
            askers.push(asker);
        }
    }

    /// Whether the process of a thread is one of them.
    pub(in crate::fs) fn has(&self, tid: u32) -> bool {
        let process = Process::of(tid);
        let askers = self.lock();
        let mut known = askers.iter().filter(|asker| asker.process == process);
        known.any(|asker| !asker.has_ended())
    }

    pub(in crate::fs) fn is_any_alive(&self) -> bool {
        !self.lock().iter().all(Asker::has_ended)
    }

    pub(in crate::fs) fn pidfds(&self) -> Vec<Arc<OwnedFd>> {
        let askers = self.lock();
        askers.iter().map(|asker| asker.pidfd.clone()).collect()
    }
}

impl Asker {
    /// That of a thread; `None` if it is outside of our pid namespace.
    pub(in crate::fs) fn of(tid: u32, share: Share) -> Option<Self> {
        let (process, pidfd) = Process::with_pidfd(tid)?;
        Some(Self {
            process,
            pidfd: Arc::new(pidfd),
            _share: share,
        })
    }

    /// A pidfd is readable from before the parent can have waited for the
    /// process (do_notify_parent, kernel/signal.c): who sees that `rm` has
    /// ended finds it ended here.
    fn has_ended(&self) -> bool {
        wait_for_end_of_any(std::slice::from_ref(&self.pidfd), Duration::ZERO)
    }
}

/// Waits until one of the processes has ended, at most `time`.
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
