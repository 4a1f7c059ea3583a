//! The processes that have written to a writer (its authors), and whether one was killed
//! before it had closed the file (DESIGN 2.6).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::proc::ending;
use crate::proc::identity::Process;
use crate::sys::process::exit_status;

/// How many authors are remembered, and how many of their threads. Beyond that the oldest
/// are forgotten: whether they were killed is not seen then.
const MOST: usize = 256;
const MOST_THREADS: usize = 64;

/// Of how many authors the end is watched by a pidfd, which is a descriptor of the
/// daemon.
const WATCHED: usize = 2;

/// The processes that have written.
#[derive(Debug, Default)]
pub(super) struct Authors {
    /// Each thread that has written, so that only its first write costs time.
    by_thread: HashMap<u32, Process>,
    processes: Vec<Author>,
}

/// A process that has written.
#[derive(Debug, Clone)]
pub(super) struct Author {
    pub(super) process: Process,
    /// Tells how it ended, even after its parent has waited for it (Linux 6.15).
    pidfd: Option<Arc<OwnedFd>>,
    /// It has closed the file since: what it wrote is complete.
    has_closed: bool,
}

impl Authors {
    /// Notes that a thread has written, and returns its process. Thread 0 is outside our
    /// pid namespace, or is the kernel that writes back a shared mapping.
    pub(super) fn note(&mut self, tid: u32) -> Process {
        if let Some(process) = self.by_thread.get(&tid) {
            return *process;
        }
        let Some((process, pidfd)) = Process::with_pidfd(tid) else {
            return Process::UNKNOWN;
        };
        if self.by_thread.len() >= MOST_THREADS {
            self.by_thread.clear();
        }
        self.by_thread.insert(tid, process);
        self.add(process, pidfd);
        process
    }

    fn add(&mut self, process: Process, pidfd: OwnedFd) {
        if let Some(author) = self.find(process) {
            author.has_closed = false;
            return;
        }
        if self.processes.len() >= MOST {
            self.processes.remove(0);
        }
        let watched = self.processes.iter().filter(|a| a.pidfd.is_some()).count();
        self.processes.push(Author {
            process,
            pidfd: (watched < WATCHED).then(|| Arc::new(pidfd)),
            has_closed: false,
        });
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
        self.by_thread.retain(|_, other| *other != process);
        if let Some(author) = self.find(process) {
            author.has_closed = true;
            author.pidfd = None;
        }
    }

    /// The authors that have not closed the file, as far as known.
    pub(super) fn not_closed(&self) -> impl Iterator<Item = &Author> {
        self.processes.iter().filter(|author| !author.has_closed)
    }
}

impl Author {
    /// Whether it was killed, or is being killed. It may still be in the middle of a
    /// write, and its close may come later, or never: a process that shares its
    /// descriptor table (`CLONE_FILES`) closes nothing when it ends.
    ///
    /// Must not be called with the writer's lock, nor on a thread that takes requests. A
    /// look at a process in `/proc` may release the last reference to its memory, and
    /// then writes back what is mapped there (seen on Linux 6.18: proc_pid_status,
    /// __mmput, fuse_vma_close). That needs the writer's lock and a thread that takes
    /// requests.
    pub(super) fn is_killed(&self) -> bool {
        const SIGNAL: i32 = 0x7f;
        if let Some(pidfd) = &self.pidfd
            && let Ok(Some(status)) = exit_status(pidfd)
        {
            return status & SIGNAL != 0;
        }
        // It still has its number if its parent has not waited for it.
        self.process.exists() && ending::is_being_killed(self.process.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn process() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn rule_2_6_the_end_of_an_author_is_seen_after_its_parent_has_waited_for_it() {
        let mut authors = Authors::default();
        let mut killed = process();
        let mut ended = process();
        for child in [&killed, &ended] {
            let process = authors.note(child.id());
            assert!(process.is_known() && authors.contains(process));
            assert_eq!(authors.note(child.id()), process);
        }
        let is_killed = |authors: &Authors| authors.not_closed().any(Author::is_killed);
        assert!(!is_killed(&authors));
        drop(ended.stdin.take());
        ended.wait().unwrap();
        assert!(!is_killed(&authors), "it ended by itself");
        let process = authors.note(killed.id());
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(is_killed(&authors));
        authors.has_closed(process);
        assert!(!is_killed(&authors), "what it wrote was complete");
        assert!(authors.contains(process));
    }

    #[test]
    fn rule_2_6_written_back_pages_have_no_author() {
        let mut authors = Authors::default();
        assert_eq!(authors.note(0), Process::UNKNOWN);
        assert_eq!(authors.not_closed().count(), 0);
    }
}
