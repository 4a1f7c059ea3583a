//! Pending signals of a caller that waits for our answer.
//!
//! fuser 0.18 answers the kernel's INTERRUPT with "not known", and the kernel cannot take
//! back a request alone: its caller waits for the answer even under SIGKILL
//! (request_wait_answer, fs/fuse/dev.c, Linux 6.18). So an operation that takes long
//! looks for the caller's signals itself. One that waits for other processes ends at any
//! signal, and answers `EINTR`. One that copies ends only at signals that end the caller.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::files::{File, read};
use super::status::{field, parse_status};

/// How often a copying operation looks at the caller's signals.
const LOOK: Duration = Duration::from_millis(50);

/// Signals that end a process with a core dump. They stay pending as they are until the
/// thread handles them. For all others that end a process, the kernel gives each of its
/// threads a SIGKILL (complete_signal, kernel/signal.c).
const DUMPING: [libc::c_int; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGSYS,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// Signals that end or interrupt nothing, or only stop the process: it continues later,
/// and its call with it.
const HARMLESS: [libc::c_int; 8] = [
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
    libc::SIGCHLD,
    libc::SIGURG,
    libc::SIGWINCH,
];

/// Whether a thread that waits for our answer has a pending signal. Never asked on a
/// thread that takes requests. `/proc/TID/status` can be read without waiting, and the
/// thread's memory is not about to be released, as it waits for us.
pub fn is_interrupted(tid: u32) -> bool {
    tid != 0 && Signals::of_thread(tid).is_some_and(|signals| signals.interrupt())
}

/// A function that says whether a thread is not about to be ended by a signal. It may be
/// called as often as needed, but only on a thread that may wait: a look at a process may
/// release the last reference to its memory.
pub fn lives(tid: u32) -> impl Fn() -> bool {
    let last = Cell::new(Instant::now());
    move || {
        if tid == 0 || last.get().elapsed() < LOOK {
            return true;
        }
        last.set(Instant::now());
        // If the thread is gone, nothing waits for the answer.
        Signals::of_thread(tid).is_some_and(|signals| !signals.end())
    }
}

/// The signal sets of a thread; signal 1 is the lowest bit.
#[derive(Debug)]
struct Signals {
    /// Pending for the thread, and for any thread of its process.
    own: u64,
    shared: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
    is_alone: bool,
}

impl Signals {
    fn of_thread(tid: u32) -> Option<Self> {
        let status = read(tid, File::Status).ok()?;
        Some(Self::of(&status))
    }

    /// From the text of proc_pid_status(5); a set that is missing counts as empty.
    fn of(status: &[u8]) -> Self {
        let set = |name| {
            let set = field(status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
            set.unwrap_or(0)
        };
        Self {
            own: set("SigPnd:"),
            shared: set("ShdPnd:"),
            blocked: set("SigBlk:"),
            ignored: set("SigIgn:"),
            caught: set("SigCgt:"),
            is_alone: parse_status(status, "Threads:", 10) == Some(1),
        }
    }

    /// Whether one of them interrupts the thread.
    ///
    /// A signal for the whole process counts only if this is its only thread: otherwise
    /// another thread may take it, and this one's call would fail with errno 512. A
    /// signal that ends the process is given to each of its threads (complete_signal,
    /// kernel/signal.c).
    fn interrupt(&self) -> bool {
        let shared = if self.is_alone { self.shared } else { 0 };
        (self.own | shared) & !self.blocked & !(set_of(&HARMLESS) & !self.caught) != 0
    }

    /// Whether one of them ends the process.
    fn end(&self) -> bool {
        let handled = self.blocked | self.ignored | self.caught;
        let fatal = set_of(&[libc::SIGKILL]) | set_of(&DUMPING) & !handled;
        (self.own | self.shared) & fatal != 0
    }
}

fn set_of(signals: &[libc::c_int]) -> u64 {
    signals
        .iter()
        .fold(0, |set, signal| set | 1 << (signal - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_of_a_thread_is_seen() {
        let status = |threads: u32, own: u64, shared: u64, blocked: u64, caught: u64| {
            format!(
                "Threads:\t{threads}\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        let of = |signal: i32| 1_u64 << (signal - 1);
        let (kill, term, stop, child) = (
            of(libc::SIGKILL),
            of(libc::SIGTERM),
            of(libc::SIGTSTP),
            of(libc::SIGCHLD),
        );
        for (status, expected) in [
            (status(1, 0, 0, 0, 0), false),
            (status(3, kill, 0, 0, 0), true),
            (status(1, 0, term, 0, 0), true),
            (status(1, 0, term, term, 0), false),
            (status(3, 0, term, 0, term), false),
            (status(1, 0, stop, 0, 0), false),
            (status(1, 0, stop, 0, stop), true),
            (status(1, 0, child, 0, child), true),
            (String::new(), false),
            (status(2, 0, kill, 0, 0), false),
            ("SigPnd:\tx\n".to_owned(), false),
        ] {
            let interrupt = Signals::of(status.as_bytes()).interrupt();
            assert_eq!(interrupt, expected, "{status}");
        }
    }

    #[test]
    fn a_fatal_signal_is_recognized() {
        let status = |pending, shared, blocked, ignored, caught| {
            format!(
                "Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        let (kill, quit, terminate) = (1 << 8, 1 << 2, 1 << 14);
        for (pending, shared, blocked, ignored, caught, dies) in [
            (0, 0, 0, 0, 0, false),
            (kill, 0, 0, 0, 0, true),
            (0, quit, 0, 0, 0, true),
            (quit, 0, quit, 0, 0, false),
            (0, quit, 0, quit, 0, false),
            (0, quit, 0, 0, quit, false),
            // It is blocked or caught, as otherwise there would be a SIGKILL.
            (0, terminate, 0, 0, 0, false),
        ] {
            let status = status(pending, shared, blocked, ignored, caught);
            let end = Signals::of(status.as_bytes()).end();
            assert_eq!(end, dies, "{status}");
        }
        assert!(!Signals::of(b"").end());
    }

    #[test]
    fn a_living_thread_is_seen_as_alive() {
        let lives = lives(std::process::id());
        let start = Instant::now();
        while start.elapsed() < 2 * LOOK {
            assert!(lives());
        }
    }
}
