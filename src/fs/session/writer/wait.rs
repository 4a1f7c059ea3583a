//! Waiting for another writer, or for a foreign `session.next` (DESIGN 2.8).

use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::report::activity::{Activity, WaitingChange};
use crate::fs::request::Patience;
use crate::fs::session::slot::Owner;
use crate::fs::session::writer::state::Writer;
use crate::proc::signals::is_interrupted;

/// How often a waiting change looks whether to give up.
const LOOK: Duration = Duration::from_millis(100);

/// How often to look at a foreign `session.next` while waiting for it: nothing notifies
/// us when it goes.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Whether a change may wait for another writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Wait {
    /// For as long as the mount allows, and until this thread is interrupted.
    For(u32),
    /// Not at all: the kernel holds the lock of the session's directory for this request.
    Never,
}

impl Wait {
    /// The thread that it is for; 0 if unknown.
    pub(super) fn thread(self) -> u32 {
        match self {
            Self::For(tid) => tid,
            Self::Never => 0,
        }
    }
}

impl Writer {
    /// Takes the session's slot, and makes sure that no foreign
    /// `session.next` is in the way.
    pub(super) fn take_slot(&self, wait: Wait, patience: Patience) -> Result<()> {
        let owner = Owner {
            writer: self.ino,
            process: self.opener,
        };
        let user = (&*self.activity, self.caller.uid);
        let mut waiting = Waiting::new(user, self.lock_wait, wait, patience);
        while let Err(other) = self.slot.take(owner, waiting.step()) {
            // It would wait for itself.
            let is_own = owner.process.is_known() && other.process == owner.process;
            if let Err(fail) = waiting.go_on(is_own || self.activity.is_ending()) {
                if fail == Fail::Errno(libc::EBUSY) {
                    self.slot.log_owner(self.session.name());
                }
                return Err(fail);
            }
        }
        loop {
            let refused = match self.session.is_locked() {
                Ok(false) => return Ok(()),
                Ok(true) => waiting.go_on(self.activity.is_ending()),
                Err(error) => Err(error.into()),
            };
            if let Err(fail) = refused {
                let name = self.session.name();
                if fail == Fail::Errno(libc::EBUSY)
                    && !self.statistics.has_failed_so(name, libc::EBUSY)
                {
                    log::warn!(
                        "{name}: EBUSY: session.next of another program is in the way \
                         (sessionfs break-lock, if that has ended)"
                    );
                }
                self.slot.free(self.ino);
                return Err(fail);
            }
            std::thread::sleep(LOCK_POLL);
        }
    }
}

/// A change that waits for another writer, or for a foreign `session.next`.
struct Waiting<'a> {
    /// Where waiting changes are counted, and the user for whom this one waits.
    user: (&'a Activity, u32),
    /// Its entry among the waiting changes of the user, once it waits.
    counted: Option<WaitingChange<'a>>,
    /// `None` if it does not wait.
    deadline: Option<Instant>,
    /// The error if it gives up.
    refused: Fail,
    /// The thread that it is for.
    tid: u32,
    looked: Instant,
}

impl<'a> Waiting<'a> {
    fn new(user: (&'a Activity, u32), lock_wait: Duration, wait: Wait, patience: Patience) -> Self {
        let now = Instant::now();
        let tid = match wait {
            Wait::For(tid) if !lock_wait.is_zero() => Some(tid),
            _ => None,
        };
        let refused = match (tid, patience) {
            (Some(_), Patience::None) => Fail::WouldBlock,
            _ => Fail::Errno(libc::EBUSY),
        };
        Self {
            user,
            counted: None,
            deadline: tid
                .filter(|_| patience == Patience::Wait)
                .map(|_| now + lock_wait),
            refused,
            tid: tid.unwrap_or(0),
            looked: now,
        }
    }

    /// Until when to wait before it looks whether to give up; `None`, for no wait, before
    /// it is counted as waiting.
    fn step(&self) -> Option<Instant> {
        self.counted.as_ref()?;
        self.deadline.map(|at| at.min(Instant::now() + LOOK))
    }

    /// Fails if the wait is over: it is in vain, its time is up, the thread has a pending
    /// signal, or too many changes of its user wait already.
    fn go_on(&mut self, is_in_vain: bool) -> Result<()> {
        let now = Instant::now();
        if is_in_vain && self.refused == Fail::WouldBlock {
            return Err(Fail::Errno(libc::EBUSY));
        }
        if is_in_vain || self.deadline.is_none_or(|at| now >= at) {
            return Err(self.refused);
        }
        if self.counted.is_none() {
            let (activity, user) = self.user;
            let counted = activity.begin_wait(user);
            self.counted = Some(counted.ok_or(Fail::Errno(libc::EBUSY))?);
        }
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            if is_interrupted(self.tid) {
                return Err(Fail::Errno(libc::EINTR));
            }
        }
        Ok(())
    }
}
