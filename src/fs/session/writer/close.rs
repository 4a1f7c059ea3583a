//! The close rule (DESIGN 5): which close of a writer's descriptors is the last one, what
//! becomes of the save, and which process gets the error.
//!
//! If nothing has changed, a close is answered at once. Any other is judged on a worker
//! thread, from what `/proc` shows of the closing process, of the opener, and of related
//! processes.
//!
//! A process can write to a mapping after its last close, until RELEASE comes. A close
//! saves what is there, even if that is only a size (DESIGN 2.3, 2.4): RELEASE does not come
//! for as long as a mapping lasts. What comes later by a mapping is another save, and RELEASE
//! abandons that if a process that opened the file was killed (DESIGN 2.6).
//! Before Linux 6.15 that cannot be seen once its parent has waited for it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::request::Patience;
use crate::fs::session::writer::authors::{Author, End};
use crate::fs::session::writer::state::{Writer, WriterState};
use crate::proc::ending::{self, Closer};
use crate::proc::holders;
use crate::proc::identity::Process;
use crate::proc::kin::{self, Holding, Kin};

/// How long a program that is being started may take to close descriptors that it was not
/// meant to inherit, and how often to look meanwhile.
const EXEC_TIME: Duration = Duration::from_millis(100);
const EXEC_POLL: Duration = Duration::from_millis(1);

/// How often to look again if other processes close the file meanwhile.
const LOOKS: u32 = 3;

/// What a close means. The text names the author that was killed.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing: other processes have the file open.
    Nothing,
    /// Others have it open, but an author was killed: the save must not be made.
    Doom(String),
    /// It was the last close.
    Last { killed: Option<String> },
}

/// Whose end may spoil a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Those that have written, and if what was mapped has been written back, those
    /// that have opened the file.
    Writers,
    /// The same, and those as well if nothing has been written: what is left after
    /// the last close may be for a mapping that has gone with its process.
    WritersAtRelease,
}

impl Writer {
    /// A descriptor has been closed by the thread `tid`. The last close commits, or
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
                if state.unreported.is_some() && Process::of(tid) == self.opener {
                    return state
                        .unreported
                        .take()
                        .map_or(Ok(()), |e| Err(Fail::Errno(e)));
                }
                return Ok(());
            }
            _ if patience == Patience::None => return Err(Fail::WouldBlock),
            _ => {}
        }
        let closer = ending::known(tid);
        let how = ending::closer(tid, self.sought(), kin::until());
        let verdict = self.judge(closer, how);
        self.settle(verdict, closer, how)
    }

    /// What a close by `closer` means, where `/proc` says `how` it closes.
    fn judge(&self, closer: Process, how: Closer) -> Verdict {
        let by_opener = closer == self.opener;
        match how {
            Closer::Holds => return Verdict::Nothing,
            // A guess: it may be an early close of a duplicate, before the first write.
            // Without data it is decided at RELEASE.
            Closer::Unknown if by_opener && self.has_to_tell() => {
                return Verdict::Last { killed: None };
            }
            Closer::Unknown => return Verdict::Nothing,
            // It has opened the file, written to it, closes it and goes on, and must get
            // the result (DESIGN 2.3). Copies that its children have inherited do not
            // matter.
            Closer::Closed if by_opener && self.has_to_tell() => {
                let killed = self.other_killed(closer, Who::Writers);
                return Verdict::Last { killed };
            }
            Closer::Closed | Closer::Exiting | Closer::Killed => {}
        }
        // Descendants are looked for before anything else is: processes that inherited
        // the file from this one are found through it, and perhaps not later.
        let mut descendants = Kin::default();
        descendants.add_descendants(closer.pid);
        let killed = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.kin.add_all(descendants);
            let wrote = by_opener || state.is_written_back || state.authors.contains(closer);
            (how == Closer::Killed && wrote).then(|| in_words(closer, End::Killed))
        };
        // An opener that has written nothing may have opened the file for a program that
        // it starts, or other threads of it may be starting programs.
        let patience = if how == Closer::Closed && by_opener {
            EXEC_TIME
        } else {
            Duration::ZERO
        };
        match (self.is_held_by_others(closer, patience), killed) {
            (false, killed) => Verdict::Last {
                killed: killed.or_else(|| self.other_killed(closer, Who::Writers)),
            },
            (true, Some(killed)) => Verdict::Doom(killed),
            (true, None) => Verdict::Nothing,
        }
    }

    /// Whether any known process but `closer` has the file open. A process that may be
    /// about to close it gets `exec_time` for that.
    fn is_held_by_others(&self, closer: Process, exec_time: Duration) -> bool {
        let deadline = Instant::now() + exec_time;
        let mut looks = 0;
        loop {
            let flushes = self.flushes.load(Ordering::SeqCst);
            let holding = self.holding_of_others(closer);
            match holding {
                Holding::Yes => return true,
                Holding::UntilExec if Instant::now() >= deadline => return true,
                Holding::UntilExec => std::thread::sleep(EXEC_POLL),
                // A process may have passed the file on and closed it before its turn.
                Holding::No => {
                    looks += 1;
                    if looks == LOOKS || flushes == self.flushes.load(Ordering::SeqCst) {
                        return false;
                    }
                }
            }
        }
    }

    fn holding_of_others(&self, closer: Process) -> Holding {
        let mut kin = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut kin = state.kin.clone();
            for author in state.authors.not_closed() {
                kin.add(author.process);
            }
            kin
        };
        let until = kin::until();
        if self.opener != closer && self.opener.exists() {
            let holding = kin::holds(self.opener.pid, self.sought(), until);
            if holding != Holding::No {
                return holding;
            }
        }
        kin.add(closer);
        kin.holding(closer, self.sought(), until)
    }

    /// Whether the opener must get the result of its save: it has written data, or data
    /// was lost.
    fn has_to_tell(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_own_data || state.failed.is_some()
    }

    /// An author other than `closer` that was killed before it closed the file, for the
    /// log.
    pub(super) fn other_killed(&self, closer: Process, who: Who) -> Option<String> {
        let authors: Vec<Author> = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let may_be_mapped = state.staged.is_some()
                && (state.is_written_back || who == Who::WritersAtRelease && !state.has_data);
            let openers = state.authors.openers().filter(|_| may_be_mapped);
            state.authors.not_closed().chain(openers).cloned().collect()
        };
        let others = authors.iter().filter(|author| author.process != closer);
        let mut ends = others.map(|author| (author.process, author.end()));
        let (process, end) = ends.find(|(_, end)| *end != End::Good)?;
        Some(in_words(process, end))
    }

    /// Does what the verdict on a close asks for. Waits for the disk.
    fn settle(&self, verdict: Verdict, closer: Process, how: Closer) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(how, Closer::Holds | Closer::Unknown) {
            state.authors.has_closed(closer);
        } else if how == Closer::Unknown {
            state.authors.may_have_closed(closer);
        }
        let settled = match verdict {
            Verdict::Nothing => Ok(()),
            Verdict::Doom(killed) => {
                state.killed.get_or_insert(killed);
                Ok(())
            }
            Verdict::Last { killed } => {
                // A process that has written nothing has lost nothing. If an author was
                // killed before this close, its parent knows that from wait(2). An error
                // here would make timeout(1) whose output is the file end with 125
                // instead of 124.
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
            let unreported = state.unreported.take().map(Fail::Errno);
            return settled.and(unreported.map_or(Ok(()), Err));
        }
        if let Err(Fail::Errno(errno)) = settled {
            state.unreported = Some(errno);
        }
        settled
    }

    /// A handle is gone. What its closes left undecided is decided now. No call gets the
    /// error any more, so it goes to the log. Returns whether it was the last handle.
    pub(in crate::fs) fn release(&self) -> bool {
        // Looked at without the lock, and only where a release may wait.
        let killed = self
            .release_waits()
            .then(|| self.other_killed(Process::UNKNOWN, Who::WritersAtRelease));
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
            // One that was abandoned is not lost, and has been logged.
            && fail != Fail::Errno(libc::ECANCELED)
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

    /// The last close: commits, or abandons a save that must not be made. A descriptor
    /// that appears after it begins a new save.
    pub(super) fn finish(&self, state: &mut WriterState) -> Result<()> {
        if self.is_nameless() {
            // The file goes away with its last descriptor.
            self.slot.free(self.ino);
            return Ok(());
        }
        let result = match state.failed {
            Some(errno) => Err(Fail::Errno(errno)),
            None if state.staged.is_some()
                && let Some(killed) = &state.killed =>
            {
                log::warn!("{}: {killed}; the save is abandoned", self.session.name());
                self.statistics.abandoned(&self.session);
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
        state.authors.begin_anew();
        state.has_own_data = false;
        state.has_data = false;
        state.is_written_back = false;
        state.published = false;
        state.killed = None;
        state.failed = None;
        if let Some(staged) = &mut abandoned {
            staged.withdraw();
            self.activity.settled();
        }
        // Before the abandoned file is closed: the next writer need not wait until all
        // its blocks are freed.
        self.slot.free(self.ino);
        drop(abandoned);
        result
    }
}

/// The end of a process for the log: its pid and its command, which may contain anything.
fn in_words(process: Process, end: End) -> String {
    let command = holders::command(process.pid);
    let name = match command.is_empty() {
        true => format!("process {}", process.pid),
        false => format!("process {} ({})", process.pid, command.escape_debug()),
    };
    match end {
        End::Unknown => format!("{name} was writing and is gone, and how it ended cannot be seen"),
        _ => format!("{name} was killed while it was writing"),
    }
}
