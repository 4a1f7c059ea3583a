//! The close rule (DESIGN 5): which close of a writer's descriptors is the
//! last, what becomes of the save then, and who is told.
//!
//! A close of a writer that has changed nothing looks at nothing. Any other is
//! judged on a thread that serves nobody else, from what `/proc` tells of the
//! process that closes, of the opener, and of their kin.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::request::Patience;
use crate::fs::session::writer::authors::{Author, Authors};
use crate::fs::session::writer::state::{State, Writer};
use crate::proc::ending::{self, Closer};
use crate::proc::holders;
use crate::proc::identity::Process;
use crate::proc::kin::{self, Holding, Kin};

/// How long a program that is being started may take to close what it was not
/// meant to inherit, and how often it is looked at meanwhile.
const EXEC_TIME: Duration = Duration::from_millis(100);
const EXEC_POLL: Duration = Duration::from_millis(1);

/// How often processes are looked at of which others close the file meanwhile.
const LOOKS: u32 = 3;

/// What a close means. With the process that wrote and has been killed, in words.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing: others hold the file.
    Nothing,
    /// Others hold it, but a process that wrote has been killed.
    Doom(String),
    /// It was the last.
    Last { killed: Option<String> },
}

impl Writer {
    /// A descriptor has been closed by the thread `tid`: the last one commits, or
    /// abandons.
    ///
    /// # Errors
    /// The reason why the save was not made.
    pub(in crate::fs) fn flush(&self, tid: u32, patience: Patience) -> Result<()> {
        if crate::sys::defect::has(crate::sys::defect::Defect::SavedAtRelease) {
            return Ok(());
        }
        if self.is_nameless() {
            return Ok(());
        }
        self.flushes.fetch_add(1, Ordering::SeqCst);
        match self.lock(Patience::None) {
            Ok(mut state) if state.is_untouched() => {
                if state.untold.is_some() && Process::of(tid) == self.opener {
                    return state.untold.take().map_or(Ok(()), |e| Err(Fail::Errno(e)));
                }
                return Ok(());
            }
            _ if patience == Patience::None => return Err(Fail::WouldBlock),
            _ => {}
        }
        let closer = ending::known(tid);
        let how = ending::closer(tid, self.sought());
        let verdict = self.judge(closer, how);
        self.settle(verdict, closer, how)
    }

    /// What the close by a process means, of which `/proc` says `how` it closes.
    fn judge(&self, closer: Process, how: Closer) -> Verdict {
        let by_opener = closer == self.opener;
        match how {
            Closer::Holds => return Verdict::Nothing,
            // A guess, where an early close of a duplicate comes before the
            // first write; without data it is left to RELEASE.
            Closer::Unknown if by_opener && self.has_to_tell() => {
                return Verdict::Last { killed: None };
            }
            Closer::Unknown => return Verdict::Nothing,
            // It has opened the file, wrote to it, closes it and goes on, and wants
            // to know how it ended (DESIGN 2.3): copies that children got by the
            // way do not matter.
            Closer::Closed if by_opener && self.has_to_tell() => {
                let killed = self.other_killed(closer);
                return Verdict::Last { killed };
            }
            Closer::Closed | Closer::Exiting | Closer::Killed => {}
        }
        // Before anything is known of the others: those who inherited the file
        // from this one are found by it, and later perhaps not any more.
        let mut descendants = Kin::default();
        descendants.add_descendants(closer.pid);
        let killed = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.kin.add_all(descendants);
            let wrote = by_opener || state.authors.contains(closer);
            (how == Closer::Killed && wrote).then(|| in_words(closer))
        };
        // An opener that has written nothing may have opened it for a program that
        // it is starting, or others of its threads start programs meanwhile.
        let patience = if how == Closer::Closed && by_opener {
            EXEC_TIME
        } else {
            Duration::ZERO
        };
        match (self.is_held(closer, patience), killed) {
            (false, killed) => Verdict::Last {
                killed: killed.or_else(|| self.other_killed(closer)),
            },
            (true, Some(killed)) => Verdict::Doom(killed),
            (true, None) => Verdict::Nothing,
        }
    }

    /// Whether any process but this one holds the file, as far as is known. One that
    /// may be about to let go of it has so much time.
    fn is_held(&self, closer: Process, exec_time: Duration) -> bool {
        let deadline = Instant::now() + exec_time;
        let mut looks = 0;
        loop {
            let flushes = self.flushes.load(Ordering::SeqCst);
            let held = self.held_by_others(closer);
            match held {
                Holding::Yes => return true,
                Holding::UntilExec if Instant::now() >= deadline => return true,
                Holding::UntilExec => std::thread::sleep(EXEC_POLL),
                // What is looked at may hand it on and close it before its turn.
                Holding::No => {
                    looks += 1;
                    if looks == LOOKS || flushes == self.flushes.load(Ordering::SeqCst) {
                        return false;
                    }
                }
            }
        }
    }

    fn held_by_others(&self, closer: Process) -> Holding {
        let mut kin = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut kin = state.kin.clone();
            for author in state.authors.holding() {
                kin.add(author.process);
            }
            kin
        };
        let until = kin::until();
        if self.opener != closer && self.opener.exists() {
            let held = kin::holds(self.opener.pid, self.sought(), until);
            if held != Holding::No {
                return held;
            }
        }
        kin.add(closer);
        kin.holding(closer, self.sought(), until)
    }

    /// Whether the opener wants to know how its save ends: of its own data, or of
    /// the loss of any.
    fn has_to_tell(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_own_data || state.failed.is_some()
    }

    /// A process that wrote, and is not the one that closes now, and has been killed
    /// before it closed the file; in words.
    pub(super) fn other_killed(&self, closer: Process) -> Option<String> {
        let authors: Vec<Author> = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.authors.holding().cloned().collect()
        };
        let mut others = authors.iter().filter(|author| author.process != closer);
        let killed = others.find(|author| author.is_killed())?;
        Some(in_words(killed.process))
    }

    /// Does what a verdict on a close asks for. Waits for the disk.
    fn settle(&self, verdict: Verdict, closer: Process, how: Closer) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(how, Closer::Holds | Closer::Unknown) {
            state.authors.has_closed(closer);
        }
        let settled = match verdict {
            Verdict::Nothing => Ok(()),
            Verdict::Doom(killed) => {
                state.killed.get_or_insert(killed);
                Ok(())
            }
            Verdict::Last { killed } => {
                // A process that has written nothing has lost nothing, and one that
                // was killed before this close is known to its parent by wait(2):
                // timeout(1), whose output the file is, would end with 125 instead
                // of 124 for a close that fails.
                let has_written = if closer == self.opener {
                    state.has_own_data
                } else {
                    state.authors.contains(closer)
                };
                let is_told = has_written || state.killed.is_none() || state.failed.is_some();
                state.killed = state.killed.take().or(killed);
                let finished = self.finish(&mut state);
                if is_told { finished } else { Ok(()) }
            }
        };
        if closer == self.opener {
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
        // Looked at without the lock, and not where a release does not wait.
        let killed = self
            .release_waits()
            .then(|| self.other_killed(Process::UNKNOWN));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.handles = state.handles.saturating_sub(1);
        if state.handles > 0 {
            return false;
        }
        if state.staged.is_some() {
            state.killed = state.killed.take().or(killed.flatten());
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
        if self.is_nameless() {
            // It goes with its last descriptor.
            self.slot.free(self.ino);
            return Ok(());
        }
        let result = match state.failed {
            Some(errno) => Err(Fail::Errno(errno)),
            None if state.staged.is_some()
                && let Some(killed) = &state.killed =>
            {
                log::warn!(
                    "{}: {killed} was killed while it was writing; the save is abandoned",
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
        state.is_void |= result.is_err();
        state.authors = Authors::default();
        state.has_own_data = false;
        state.published = false;
        state.killed = None;
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

/// A process in words, for the log; its name is what anybody may have made of it.
fn in_words(process: Process) -> String {
    let command = holders::command(process.pid);
    match command.is_empty() {
        true => format!("process {}", process.pid),
        false => format!("process {} ({})", process.pid, command.escape_debug()),
    }
}
