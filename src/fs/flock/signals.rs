//! The signals of those who wait.

use crate::fs::process;

/// Whether a thread that waits for our answer has got a signal: the kernel does not
/// tell, as fuser answers INTERRUPT with `ENOSYS`, and the caller cannot be killed.
///
/// `EINTR` to one that finds no signal would be an errno that no program knows
/// (512). So a signal for the whole process counts only where it has no other
/// thread to take it; one that kills is one for each thread (complete_signal,
/// kernel/signal.c, Linux 6.18).
pub(super) fn is_interrupted(tid: u32) -> bool {
    let status = std::fs::read(format!("/proc/{tid}/status")).unwrap_or_default();
    has_signal(&status)
}

fn has_signal(status: &[u8]) -> bool {
    let set = |name| {
        let set = process::field(status, name)?;
        u64::from_str_radix(set, 16).ok()
    };
    let set = |name| set(name).unwrap_or(0);
    let is_alone = process::field(status, "Threads:") == Some("1");
    let pending = set("SigPnd:") | if is_alone { set("ShdPnd:") } else { 0 };
    pending & !set("SigBlk:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_one_that_this_thread_will_find() {
        let status = |own: u64, shared: u64, blocked: u64, threads: u64| {
            let text = format!(
                "Threads:\t{threads}\nSigQ:\t0/1\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t0000000000000000\n"
            );
            has_signal(text.as_bytes())
        };
        assert!(status(1 << 8, 0, 0, 5));
        assert!(!status(1 << 1, 0, 1 << 1, 5), "it is blocked");
        assert!(status(0, 1 << 14, 0, 1));
        assert!(!status(0, 1 << 14, 0, 2), "another one may take it");
        assert!(!status(0, 0, 0, 1));
        assert!(!has_signal(b""));
        assert!(!is_interrupted(std::process::id()));
    }
}
