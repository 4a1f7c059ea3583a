//! The processes that have written to a writer, and whether one of them was killed
//! before it had closed the file (DESIGN 2.6).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::proc::ending;
use crate::proc::identity::Process;
use crate::sys::process::exit_status;

/// How many are remembered, and how many threads of them. Beyond that the first ones
/// are forgotten: they may have been killed and nobody knows.
const MOST: usize = 256;
const MOST_THREADS: usize = 64;

/// Of how many the end is watched by a pidfd, which is a descriptor of the daemon.
const WATCHED: usize = 2;

/// The processes that have written.
#[derive(Debug, Default)]
pub(super) struct Authors {
    /// Each thread that has written, so that only its first write costs anything.
    by_thread: HashMap<u32, Process>,
    processes: Vec<Author>,
}

/// A process that has written.
#[derive(Debug, Clone)]
pub(super) struct Author {
    pub(super) process: Process,
    /// Tells how it ended, also after its parent has heard of it (Linux 6.15).
    pidfd: Option<Arc<OwnedFd>>,
    /// It has closed the file since, and what it wrote is complete.
    has_closed: bool,
}

impl Authors {
    /// A thread writes; answers its process. Thread 0 is one that we cannot see, or
    /// the kernel that writes a shared mapping back.
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

    /// A process does not hold the file any more. It may come to write again.
    pub(super) fn has_closed(&mut self, process: Process) {
        self.by_thread.retain(|_, other| *other != process);
        if let Some(author) = self.find(process) {
            author.has_closed = true;
            author.pidfd = None;
        }
    }

    /// Those that have not closed it, as far as anybody knows.
    pub(super) fn holding(&self) -> impl Iterator<Item = &Author> {
        self.processes.iter().filter(|author| !author.has_closed)
    }
}

impl Author {
    /// Whether it has been killed, or is being. It may be in the middle of a write
    /// still, and its own close is yet to come, or never comes: one that shares its
    /// table of descriptors (`CLONE_FILES`) closes nothing at its end.
    ///
    /// What looks at a process in `/proc` may be the last to let go of its
    /// memory, which writes back what is mapped there (seen on Linux 6.18:
    /// proc_pid_status, __mmput, fuse_vma_close): that needs the writer's lock,
    /// and a thread that takes requests.
    pub(super) fn is_killed(&self) -> bool {
        const SIGNAL: i32 = 0x7f;
        if let Some(pidfd) = &self.pidfd
            && let Ok(Some(status)) = exit_status(pidfd)
        {
            return status & SIGNAL != 0;
        }
        // It has its number still, if its parent has not heard of its end.
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
    fn rule_2_6_the_end_of_an_author_is_known_after_its_parent_has_heard_of_it() {
        let mut authors = Authors::default();
        let mut killed = process();
        let mut ended = process();
        for child in [&killed, &ended] {
            let process = authors.note(child.id());
            assert!(process.is_known() && authors.contains(process));
            assert_eq!(authors.note(child.id()), process);
        }
        let is_killed = |authors: &Authors| authors.holding().any(Author::is_killed);
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
    fn rule_2_6_nobody_writes_what_is_written_back() {
        let mut authors = Authors::default();
        assert_eq!(authors.note(0), Process::UNKNOWN);
        assert_eq!(authors.holding().count(), 0);
    }
}
