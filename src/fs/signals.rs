//! Whether who waits for an answer is about to die. A thread cannot be killed
//! while a request of its own is being served (request_wait_answer,
//! fs/fuse/dev.c, Linux 6.18): what takes long has to look.

use std::cell::Cell;
use std::fs;
use std::time::{Duration, Instant};

use super::process::field;

/// How often a thread is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Signals that end a process with a core dump, which stay as they are until the
/// thread can look at them; of all others that end it the kernel makes a SIGKILL
/// for each thread (complete_signal, kernel/signal.c).
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

/// Whether a thread goes on living, asked as often as one likes. For a thread of
/// ours that may wait: who looks at a process may be the last to let go of its
/// memory.
pub(super) fn lives(tid: u32) -> impl Fn() -> bool {
    let last = Cell::new(Instant::now());
    move || {
        if tid == 0 || last.get().elapsed() < LOOK {
            return true;
        }
        last.set(Instant::now());
        // That there is nobody any more means that nobody waits.
        fs::read(format!("/proc/{tid}/status")).is_ok_and(|status| !is_dying(&status))
    }
}

/// `status` is in the form of proc_pid_status(5).
fn is_dying(status: &[u8]) -> bool {
    let set = |name| field(status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
    let set = |name| set(name).unwrap_or(0);
    let bit = |signal: libc::c_int| 1_u64 << (signal - 1);
    let dumping = DUMPING.into_iter().fold(0, |all, signal| all | bit(signal));
    let handled = set("SigBlk:") | set("SigIgn:") | set("SigCgt:");
    let pending = set("SigPnd:") | set("ShdPnd:");
    pending & (bit(libc::SIGKILL) | dumping & !handled) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_signal_is_told_from_others() {
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
            // Blocked or caught, or there would be a SIGKILL.
            (0, terminate, 0, 0, 0, false),
        ] {
            let status = status(pending, shared, blocked, ignored, caught);
            assert_eq!(is_dying(status.as_bytes()), dies, "{status}");
        }
        assert!(!is_dying(b""));
    }

    #[test]
    fn a_thread_that_lives_is_left_alone() {
        let lives = lives(std::process::id());
        let start = Instant::now();
        while start.elapsed() < 2 * LOOK {
            assert!(lives());
        }
    }
}
