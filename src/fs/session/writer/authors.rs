//! The processes that have written to a writer (its authors) or may have it mapped, and
//! whether one was killed (DESIGN 2.6).
//!
//! The kernel writes back a shared mapping later, and does not say which process has
//! changed it. Then the processes that have opened the file are looked at.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::proc::ending;
use crate::proc::identity::Process;
use crate::sys::process::{exit_status, has_ended};

/// How many authors are remembered, and how many of their threads. Beyond that the oldest
/// are forgotten: whether they were killed is not seen then.
const MOST: usize = 256;
const MOST_THREADS: usize = 64;

/// Of how many authors the end is watched by a pidfd, which is a descriptor of the
/// daemon. Openers are watched as well, each on account of its handle.
const WATCHED: usize = 2;

/// The processes that have written, or may have it mapped.
#[derive(Debug, Default)]
pub(super) struct Authors {
    /// Each thread that has written, so that only its first write costs time.
    by_thread: HashMap<u32, Thread>,
    processes: Vec<Author>,
    /// Those that have opened it, and may have it mapped after they have closed it.
    openers: Vec<Author>,
}

/// A thread that has written. Its number may be that of another by now.
#[derive(Debug, Clone, Copy)]
struct Thread {
    thread: Process,
    process: Process,
}

/// A process that has written, or has opened the file.
#[derive(Debug, Clone)]
pub(super) struct Author {
    pub(super) process: Process,
    /// Tells how it ended, even after its parent has waited for it (Linux 6.15).
    pidfd: Option<Arc<OwnedFd>>,
    /// It has closed the file since: what it wrote is complete.
    has_closed: bool,
    /// It has closed a descriptor since: what it wrote may be complete.
    may_have_closed: bool,
}

/// How a process is that has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It lives, or has ended by itself.
    Good,
    /// It has been killed, or is being.
    Killed,
    /// It is gone, and how it ended cannot be seen.
    Unknown,
}

impl Authors {
    /// Notes that a thread has written, and returns its process. Thread 0 is outside our
    /// pid namespace, or is the kernel that writes back a shared mapping.
    pub(super) fn note(&mut self, tid: u32) -> Process {
        let known = self.by_thread.get(&tid).copied();
        if let Some(Thread { process, .. }) = known.filter(|known| self.is_still(*known)) {
            self.add(process, None);
            return process;
        }
        let Some((process, pidfd)) = Process::with_pidfd(tid) else {
            return Process::UNKNOWN;
        };
        self.know(tid, process);
        self.add(process, Some(pidfd));
        process
    }

    /// Notes that a thread opens the file, and returns its process.
    pub(super) fn opens(&mut self, tid: u32) -> Process {
        let Some((process, pidfd)) = Process::with_pidfd(tid) else {
            return Process::UNKNOWN;
        };
        self.know(tid, process);
        if self.openers.iter().all(|opener| opener.process != process) {
            if self.openers.len() >= MOST {
                self.openers.remove(0);
            }
            self.openers.push(Author {
                process,
                pidfd: Some(Arc::new(pidfd)),
                has_closed: false,
                may_have_closed: true,
            });
        }
        process
    }

    fn know(&mut self, tid: u32, process: Process) {
        let thread = match process.pid == tid {
            true => process,
            false => Process::thread(tid),
        };
        if self.by_thread.len() >= MOST_THREADS {
            self.by_thread.clear();
        }
        self.by_thread.insert(tid, Thread { thread, process });
    }

    /// Whether a thread still has its number. The first thread of a process has it for as
    /// long as the process exists, which its pidfd tells.
    fn is_still(&self, known: Thread) -> bool {
        let mut all = self.processes.iter().chain(&self.openers);
        let pidfd = all
            .find(|author| author.process == known.thread && author.pidfd.is_some())
            .and_then(|author| author.pidfd.as_ref());
        match pidfd {
            Some(pidfd) => !has_ended(pidfd),
            None => known.thread.exists(),
        }
    }

    fn add(&mut self, process: Process, pidfd: Option<OwnedFd>) {
        let is_new = self.find(process).is_none();
        if is_new && self.processes.len() >= MOST {
            self.processes.remove(0);
        }
        if is_new {
            self.processes.push(Author {
                process,
                pidfd: None,
                has_closed: false,
                may_have_closed: false,
            });
        }
        let pidfd = self.to_watch(process, pidfd);
        if let Some(author) = self.find(process) {
            author.has_closed = false;
            author.may_have_closed = false;
            author.pidfd = author.pidfd.take().or(pidfd);
        }
    }

    /// What to watch a process by: its pidfd as an opener, else this one if there is room.
    fn to_watch(&self, process: Process, pidfd: Option<OwnedFd>) -> Option<Arc<OwnedFd>> {
        let mut openers = self.openers.iter();
        if let Some(opener) = openers.find(|opener| opener.process == process) {
            return opener.pidfd.clone();
        }
        let is_opener = |author: &Author| self.openers.iter().any(|o| o.process == author.process);
        let watched = self.processes.iter();
        let watched = watched.filter(|author| author.pidfd.is_some() && !is_opener(author));
        (watched.count() < WATCHED).then_some(pidfd?).map(Arc::new)
    }

    fn find(&mut self, process: Process) -> Option<&mut Author> {
        self.processes.iter_mut().find(|a| a.process == process)
    }

    /// Whether this process has written.
    pub(super) fn contains(&self, process: Process) -> bool {
        self.processes.iter().any(|a| a.process == process)
    }

    /// Notes that a process does not have the file open any more. It may open it again
    /// and write.
    pub(super) fn has_closed(&mut self, process: Process) {
        if let Some(author) = self.find(process) {
            author.has_closed = true;
            author.pidfd = None;
        }
        self.forget_threads(|known| known.process == process);
    }

    /// Notes that a process has closed a descriptor of the file. It may have others.
    pub(super) fn may_have_closed(&mut self, process: Process) {
        if let Some(author) = self.find(process) {
            author.may_have_closed = true;
        }
    }

    /// The authors that have not closed the file, as far as known.
    pub(super) fn not_closed(&self) -> impl Iterator<Item = &Author> {
        self.processes.iter().filter(|author| !author.has_closed)
    }

    /// The processes that have opened the file, whether they have closed it or not.
    pub(super) fn openers(&self) -> impl Iterator<Item = &Author> {
        self.openers.iter()
    }

    /// Forgets the authors, after a save or an abandoned one. Openers stay: they may have
    /// the file mapped.
    pub(super) fn begin_anew(&mut self) {
        self.processes.clear();
        self.forget_threads(|_| true);
    }

    /// Their processes are looked up, and watched, when they write again. Openers are
    /// always watched.
    fn forget_threads(&mut self, which: impl Fn(&Thread) -> bool) {
        let openers = &self.openers;
        let is_opener = |known: &Thread| openers.iter().any(|o| o.process == known.process);
        self.by_thread
            .retain(|_, known| !which(known) || is_opener(known));
    }
}

impl Author {
    /// Whether it was killed, or is being killed. It may still be in the middle of a
    /// write, and its close may come later, or never: a process that shares its
    /// descriptor table (`CLONE_FILES`) closes nothing when it ends, and a mapping is no
    /// descriptor.
    ///
    /// Must not be called with the writer's lock, nor on a thread that takes requests. A
    /// look at a process in `/proc` may release the last reference to its memory, and
    /// then writes back what is mapped there (seen on Linux 6.18: proc_pid_status,
    /// __mmput, fuse_vma_close). That needs the writer's lock and a thread that takes
    /// requests.
    pub(super) fn end(&self) -> End {
        if let Some(end) = self.told_end() {
            return end;
        }
        // It still has its number if its parent has not waited for it. If it has it
        // afterwards, this process was looked at and no later one.
        if self.process.exists()
            && ending::is_being_killed(self.process.pid)
            && self.process.exists()
        {
            return End::Killed;
        }
        // The kernel records the end before it frees the number.
        let is_gone = !self.process.exists();
        match self.told_end() {
            Some(end) => end,
            None if is_gone && !self.may_have_closed => End::Unknown,
            None => End::Good,
        }
    }

    /// How it has ended, if its parent has waited for it and the kernel tells.
    fn told_end(&self) -> Option<End> {
        let status = exit_status(self.pidfd.as_ref()?).ok()??;
        Some(match ending::is_of_killed(status) {
            true => End::Killed,
            false => End::Good,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn process() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
    }

    fn kill(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn rule_2_6_the_end_of_an_author_is_seen_after_its_parent_has_waited_for_it() {
        let mut authors = Authors::default();
        let (killed, ended) = (process(), process());
        for child in [&killed, &ended] {
            let process = authors.note(child.id());
            assert!(process.is_known() && authors.contains(process));
            assert_eq!(authors.note(child.id()), process);
        }
        let is_killed = |authors: &Authors| authors.not_closed().any(|a| a.end() != End::Good);
        assert!(!is_killed(&authors));
        end(ended);
        assert!(!is_killed(&authors), "it ended by itself");
        let process = authors.note(killed.id());
        kill(killed);
        assert!(is_killed(&authors));
        authors.has_closed(process);
        assert!(!is_killed(&authors), "what it wrote was complete");
        assert!(authors.contains(process));
    }

    #[test]
    fn rule_2_6_an_author_that_is_gone_unseen_may_have_been_killed() {
        let mut authors = Authors::default();
        let opener = std::process::id();
        authors.opens(opener);
        authors.note(opener);
        let children: Vec<Child> = (0..=WATCHED).map(|_| process()).collect();
        let processes: Vec<Process> = children.iter().map(|c| authors.note(c.id())).collect();
        let ends = |authors: &Authors| authors.not_closed().map(Author::end).collect::<Vec<_>>();
        assert!(ends(&authors).iter().all(|end| *end == End::Good));
        children.into_iter().for_each(kill);
        let expected = [End::Good, End::Killed, End::Killed, End::Unknown];
        assert_eq!(ends(&authors), expected);
        // It has closed a descriptor, and nobody could see whether it was the last.
        authors.may_have_closed(processes[WATCHED]);
        assert_eq!(ends(&authors).last(), Some(&End::Good));
    }

    #[test]
    fn rule_2_6_the_end_of_an_opener_is_known_whatever_was_saved_meanwhile() {
        let mut authors = Authors::default();
        let (killed, ended) = (process(), process());
        for child in [&killed, &ended] {
            let process = authors.opens(child.id());
            assert_eq!(authors.opens(child.id()), process);
            assert_eq!(authors.note(child.id()), process);
            authors.has_closed(process);
        }
        authors.begin_anew();
        kill(killed);
        end(ended);
        let ends: Vec<End> = authors.openers().map(Author::end).collect();
        assert_eq!(ends, [End::Killed, End::Good]);
        assert_eq!(authors.not_closed().count(), 0);
    }

    #[test]
    fn rule_2_6_a_number_that_another_has_by_now_is_not_taken_for_the_first() {
        let mut authors = Authors::default();
        let (first, second) = (process(), process());
        let gone = authors.note(first.id());
        // As if the second one had got the first one's number.
        let thread = authors.by_thread.remove(&first.id()).unwrap();
        authors.by_thread.insert(second.id(), thread);
        end(first);
        let process = authors.note(second.id());
        assert_eq!(process, Process::of(second.id()));
        assert!(process != gone && authors.contains(process));
        // The same without a pidfd of the first one.
        authors.has_closed(gone);
        authors.by_thread.insert(second.id(), thread);
        assert_eq!(authors.note(second.id()), process);
        end(second);
    }

    #[test]
    fn rule_2_6_written_back_pages_have_no_author() {
        let mut authors = Authors::default();
        assert_eq!(authors.note(0), Process::UNKNOWN);
        assert_eq!(authors.opens(0), Process::UNKNOWN);
        assert_eq!(authors.not_closed().count() + authors.openers().count(), 0);
    }
}
