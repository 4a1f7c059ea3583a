//! The close rule (DESIGN 5): which close of a writer's descriptors is the
//! last, what becomes of the save then, and who is told.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{State, Writer};
use crate::fs::errno::{Fail, Patience, Result};
use crate::fs::process::{self, Closer, Held};

/// How long a program may take to close what it was not meant to inherit, and
/// how often it is looked at meanwhile.
const EXEC_TIME: Duration = Duration::from_millis(100);
const EXEC_POLL: Duration = Duration::from_millis(1);

/// What a close means, as far as `/proc` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Verdict {
    /// Nothing: others hold the file, or nothing has changed.
    Nothing,
    /// Others hold it, but a process that wrote has been killed.
    Doom,
    /// It was the last. `killed`: and the end of a killed process.
    Last {
        /// By a signal.
        killed: bool,
    },
    /// The opener comes after a close that failed, and has not heard of it.
    Tell,
}

impl Writer {
    /// What the close by thread `tid` means, as `/proc` tells it.
    pub(in crate::fs) fn judge_close(&self, tid: u32, patience: Patience) -> Result<Verdict> {
        #[cfg(feature = "test-switches")]
        if crate::sys::defect::has(crate::sys::defect::Defect::SavedAtRelease) {
            return Ok(Verdict::Nothing);
        }
        let (untouched, untold) = match self.lock(Patience::None) {
            Ok(state) => (state.is_untouched(), state.untold.is_some()),
            Err(_) => (false, false),
        };
        if untouched && !untold {
            return Ok(Verdict::Nothing);
        }
        let tgid = process::thread_group(tid);
        if untouched {
            let by_opener = tgid == self.opener.tgid;
            return Ok(if by_opener {
                Verdict::Tell
            } else {
                Verdict::Nothing
            });
        }
        let closer = process::closer(tid, self.sought());
        match closer {
            Closer::Holds => return Ok(Verdict::Nothing),
            // A guess, where an early close of a duplicate comes before the
            // first write; without data it is left to RELEASE.
            Closer::Unknown if tgid == self.opener.tgid && self.has_data(patience)? => {
                return Ok(Verdict::Last { killed: false });
            }
            Closer::Unknown => return Ok(Verdict::Nothing),
            Closer::Closed if tgid == self.opener.tgid => {
                return self.judge_close_by_opener(tgid, patience);
            }
            Closer::Closed | Closer::Exiting | Closer::Killed => {}
        }
        let killed = closer == Closer::Killed && self.vouched_for(tgid, patience)?;
        let held = process::held_by_others(&self.opener, tgid, self.sought()) != Held::No;
        Ok(match (held, killed) {
            (false, _) => Verdict::Last {
                killed: killed || self.others_are_being_killed(tgid, patience)?,
            },
            (true, true) => Verdict::Doom,
            (true, false) => Verdict::Nothing,
        })
    }

    /// Who opened it, wrote and closes it, and goes on, wants to know how it
    /// ended: copies that children got by the way do not matter then (DESIGN
    /// 2.3). Before any data, those meant for a child do: it was opened for
    /// the child's sake.
    ///
    /// While a program is being started, the kernel takes the close-on-exec
    /// marks off before it closes what they were on (do_close_on_exec,
    /// fs/file.c, Linux 6.18), and the copies of a process that is about to
    /// start one are gone in a moment: what stays for longer is looked at.
    fn judge_close_by_opener(&self, tgid: u32, patience: Patience) -> Result<Verdict> {
        let deadline = Instant::now() + EXEC_TIME;
        loop {
            let held = if self.has_data(patience)? {
                Held::No
            } else {
                process::held_by_others(&self.opener, tgid, self.sought())
            };
            let is_late = Instant::now() > deadline;
            match held {
                Held::No => {}
                _ if patience == Patience::None => return Err(Fail::WouldBlock),
                _ if !is_late => {
                    std::thread::sleep(EXEC_POLL);
                    continue;
                }
                Held::Meant => return Ok(Verdict::Nothing),
                Held::ByTheWay => {}
            }
            let killed = self.others_are_being_killed(tgid, patience)?;
            return Ok(Verdict::Last { killed });
        }
    }

    /// Whether there is something to tell of: data, or the loss of it.
    fn has_data(&self, patience: Patience) -> Result<bool> {
        let state = self.lock(patience)?;
        Ok(state.has_data || state.failed.is_some())
    }

    /// Whether the content depends on this process: it wrote, or it opened
    /// the file and may have meant to write more.
    fn vouched_for(&self, tgid: u32, patience: Patience) -> Result<bool> {
        let state = self.lock(patience)?;
        Ok(tgid == self.opener.tgid || state.wrote.contains(&tgid))
    }

    /// Whether a process that wrote, and not the one that closes now, is
    /// about to die by a signal: it may be in the middle of a write still,
    /// and its own close is yet to come.
    ///
    /// Who looks at a process in `/proc` may be the last to let go of its
    /// memory, which writes back what is mapped there (seen on Linux 6.18:
    /// proc_pid_status, __mmput, fuse_vma_close): that needs the writer's lock,
    /// and a thread that takes requests.
    fn others_are_being_killed(&self, closer: u32, patience: Patience) -> Result<bool> {
        let wrote = self.lock(patience)?.wrote.clone();
        let mut others = wrote.into_iter().filter(|pid| *pid != closer).peekable();
        if others.peek().is_some() && patience == Patience::None {
            return Err(Fail::WouldBlock);
        }
        Ok(others.any(process::is_being_killed))
    }

    /// Does what a verdict on the close by thread `tid` asks for. Waits for
    /// the disk.
    pub(in crate::fs) fn settle(&self, verdict: Verdict, tid: u32) -> Result<()> {
        let by_opener = process::thread_group(tid) == self.opener.tgid;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = match verdict {
            Verdict::Nothing | Verdict::Tell => Ok(()),
            Verdict::Doom => {
                state.doomed = true;
                Ok(())
            }
            Verdict::Last { killed } => {
                state.doomed |= killed;
                self.finish(&mut state)
            }
        };
        if by_opener {
            let untold = state.untold.take().map(Fail::Errno);
            return settled.and(untold.map_or(Ok(()), Err));
        }
        if let Err(Fail::Errno(errno)) = settled {
            state.untold = Some(errno);
        }
        settled
    }

    /// A handle is gone. Whatever its closes left undecided is decided now;
    /// nobody hears of an error any more, so it goes to the log.
    /// Answers whether it was the last handle.
    pub(in crate::fs) fn release(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.handles = state.handles.saturating_sub(1);
        if state.handles > 0 {
            return false;
        }
        if !state.is_untouched()
            && let Err(fail) = self.finish(&mut state)
        {
            log::error!(
                "{}: the save was lost after its last close: {}",
                self.session.name(),
                std::io::Error::from_raw_os_error(fail.errno().into())
            );
        }
        self.slot.unpublish(self.ino);
        state.removed = None;
        state.shown_base = None;
        state.set_base(None);
        true
    }

    /// Whether a release would have to wait for a commit.
    pub(in crate::fs) fn release_waits(&self) -> bool {
        !matches!(self.lock(Patience::None), Ok(state) if state.is_untouched() || state.handles > 1)
    }

    /// The last close: commits, or abandons a save that must not be. After
    /// it, a descriptor that turns up late begins a new save.
    pub(super) fn finish(&self, state: &mut State) -> Result<()> {
        let result = match state.failed {
            Some(errno) => Err(Fail::Errno(errno)),
            None if state.doomed && state.staged.is_some() => {
                log::warn!(
                    "{}: a process that was writing was killed; the save is abandoned",
                    self.session.name()
                );
                self.statistics.abandoned(self.session.name());
                Err(Fail::Errno(libc::ECANCELED))
            }
            None if state.staged.is_some() => {
                let committed = self.commit(state);
                self.keep_failure(state, committed)
            }
            None => Ok(()),
        };
        let mut abandoned = state.staged.take();
        state.wrote.clear();
        state.has_data = false;
        state.published = false;
        state.doomed = false;
        state.failed = None;
        if let Some(staged) = &mut abandoned {
            staged.withdraw();
            self.activity.settled();
        }
        // Before the abandoned file goes: the next writer need not wait until
        // all its blocks are freed.
        self.slot.free(self.ino);
        drop(abandoned);
        result
    }
}
