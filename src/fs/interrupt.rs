//! Whether a caller is to be kept waiting still.
//!
//! fuser answers the kernel's INTERRUPT with "not known" (0.18), and a request
//! that has been taken cannot be given up by the kernel alone: its caller waits
//! for the answer even under SIGKILL (request_wait_answer, fs/fuse/dev.c, Linux
//! 6.18). So what may wait for long looks for the caller's signals itself, and
//! answers `EINTR`.

use std::fs;

use super::process::{field, parse_status};

/// Signals that end or interrupt nothing, or not now: a process that is stopped
/// goes on later, and its call with it.
const HARMLESS: [i32; 8] = [
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
    libc::SIGCHLD,
    libc::SIGURG,
    libc::SIGWINCH,
];

/// Whether a signal waits for a thread, which waits for us. Never asked on a
/// thread that takes requests. `/proc/TID/status` waits for nothing, and the
/// memory of a thread that waits for us is not about to go.
pub(super) fn is_interrupted(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let status = fs::read(format!("/proc/{tid}/status")).unwrap_or_default();
    has_signal(&status)
}

/// A signal for the whole process is only for this thread if there is no other
/// (which might take it, and this one would see errno 512). One that ends the
/// process is given to each of its threads (complete_signal, kernel/signal.c).
fn has_signal(status: &[u8]) -> bool {
    let set = |name| field(status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
    let is_alone = parse_status(status, "Threads:", 10) == Some(1);
    let own = set("SigPnd:").unwrap_or(0);
    let shared = set("ShdPnd:").filter(|_| is_alone).unwrap_or(0);
    let caught = set("SigCgt:").unwrap_or(0);
    let blocked = set("SigBlk:").unwrap_or(0);
    let harmless: u64 = HARMLESS.iter().map(|signal| 1 << (signal - 1)).sum();
    (own | shared) & !blocked & !(harmless & !caught) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_waits_for_this_thread_is_seen() {
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
            assert_eq!(has_signal(status.as_bytes()), expected, "{status}");
        }
    }
}
