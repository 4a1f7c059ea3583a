//! A process or thread, told from any other that gets the same number later (DESIGN 2.6).
//!
//! Process ids may be reused within seconds if a program forks in a loop. So nothing is
//! compared by the number alone, but also by the inode number of a pidfd, which is read
//! without waiting and without `/proc`. Before Linux 6.9 that number is the same for all,
//! and the process id alone must do.

use std::os::fd::OwnedFd;

use super::status;
use crate::sys::process::{has_ended, pidfd, pidfd_identity, pidfd_of_thread, pidfd_thread_group};

/// A process or a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Its number; 0 if it is outside our pid namespace, or has ended.
    pub pid: u32,
    /// The inode number of its pidfd.
    start: u64,
}

impl Process {
    /// A process that cannot be identified.
    pub const UNKNOWN: Self = Self { pid: 0, start: 0 };

    /// The process that a thread belongs to.
    pub fn of(tid: u32) -> Self {
        Self::with_pidfd(tid).map_or(Self::UNKNOWN, |(process, _)| process)
    }

    /// As [`of`](Self::of), with a pidfd by which its end is seen.
    pub fn with_pidfd(tid: u32) -> Option<(Self, OwnedFd)> {
        if tid == 0 {
            return None;
        }
        // Nearly every caller is the first thread of its process.
        if let Ok(pidfd) = pidfd(tid) {
            return Some((Self::behind(tid, &pidfd)?, pidfd));
        }
        let pid = group_of_thread(tid)?;
        let pidfd = pidfd(pid).ok()?;
        Some((Self::behind(pid, &pidfd)?, pidfd))
    }

    /// The thread itself: it ends before its process does.
    pub fn thread(tid: u32) -> Self {
        if tid == 0 {
            return Self::UNKNOWN;
        }
        // Before Linux 6.9 only the first thread of a process has a pidfd.
        let pidfd = pidfd_of_thread(tid).or_else(|_| pidfd(tid));
        match pidfd {
            Ok(pidfd) => Self::behind(tid, &pidfd).unwrap_or(Self::UNKNOWN),
            Err(_) if status::is_thread(tid) => Self { pid: tid, start: 0 },
            Err(_) => Self::UNKNOWN,
        }
    }

    fn behind(pid: u32, pidfd: &OwnedFd) -> Option<Self> {
        let start = pidfd_identity(pidfd).ok()?;
        Some(Self { pid, start })
    }

    /// Whether it is known to have ended, whether or not its parent has waited for it.
    pub fn has_ended(self) -> bool {
        if !self.is_known() {
            return false;
        }
        match Self::with_pidfd(self.pid) {
            Some((process, pidfd)) => process != self || has_ended(&pidfd),
            None => true,
        }
    }

    /// Whether it can be identified.
    pub fn is_known(self) -> bool {
        self.pid != 0
    }

    /// Whether a thread belongs to this process; never if the process is unknown.
    pub fn has_thread(self, tid: u32) -> bool {
        self.is_known() && self == Self::of(tid)
    }

    /// Whether this thread, or the process whose first thread it is, still has its
    /// number: it has not ended, or its parent has not waited for it.
    pub fn exists(self) -> bool {
        self.is_known() && self == Self::thread(self.pid)
    }
}

/// The process of a thread that is not its first.
fn group_of_thread(tid: u32) -> Option<u32> {
    let group = pidfd_of_thread(tid).and_then(pidfd_thread_group);
    // Before Linux 6.13.
    let group = group.unwrap_or_else(|_| status::thread_group(tid));
    (group != 0).then_some(group)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn rule_2_6_a_process_is_told_from_a_later_one_with_its_number() {
        let mut first = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::of(first.id());
        assert!(process.is_known() && process.exists());
        assert_eq!(process.pid, first.id());
        assert!(process.has_thread(first.id()));
        drop(first.stdin.take());
        first.wait().unwrap();
        assert!(!process.exists());
        assert!(!process.has_thread(first.id()));
        // As if its number had been reused.
        let me = Process::of(std::process::id());
        let later = Process {
            start: process.start,
            ..me
        };
        assert!(me.exists() && !later.exists());
        assert!(me.has_thread(std::process::id()) && !later.has_thread(std::process::id()));
        assert_ne!(me, later);
    }

    #[test]
    fn rule_2_6_a_thread_belongs_to_its_process_and_ends_before_it() {
        let me = Process::of(std::process::id());
        let thread = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            let tid = tid.unsigned_abs();
            assert_eq!(Process::of(tid), me);
            assert!(me.has_thread(tid));
            let thread = Process::thread(tid);
            assert!(thread.exists());
            assert_ne!(thread, me);
            thread
        });
        let ended = thread.join().unwrap();
        // The thread is joined a little before it has ended.
        while ended.exists() {
            std::thread::yield_now();
        }
        assert!(me.exists());
    }

    #[test]
    fn rule_2_6_an_unknown_process_never_matches() {
        assert_eq!(Process::of(0), Process::UNKNOWN);
        assert_eq!(Process::thread(0), Process::UNKNOWN);
        assert_eq!(Process::of(u32::MAX), Process::UNKNOWN);
        assert!(!Process::UNKNOWN.is_known());
        assert!(!Process::UNKNOWN.exists());
        assert!(!Process::UNKNOWN.has_thread(0));
    }
}
