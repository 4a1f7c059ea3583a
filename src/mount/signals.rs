//! The signals that end a mount.

use std::io;

use crate::sys;

/// Calls `tell` with the name of each signal that asks this process to end. These
/// signals must be blocked already.
pub(super) fn listen(tell: impl Fn(&'static str) + Send + 'static) -> io::Result<()> {
    let ignore_hangup = ignored_from_the_start(libc::SIGHUP);
    let listener = move || loop {
        match sys::wait_for_stop_signal() {
            // nohup(1)
            Ok(libc::SIGHUP) if ignore_hangup => {}
            Ok(signal) => tell(name(signal)),
            Err(e) => {
                log::error!("cannot wait for signals: {e}");
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listener)
        .map(|_| ())
}

fn name(signal: i32) -> &'static str {
    match signal {
        libc::SIGINT => "SIGINT",
        libc::SIGTERM => "SIGTERM",
        libc::SIGHUP => "SIGHUP",
        _ => "a signal",
    }
}

/// Whether this process was started with the signal ignored, as by nohup(1). Waiting for
/// a blocked signal receives it even then.
fn ignored_from_the_start(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

fn ignores(status: &str, signal: i32) -> bool {
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_found_in_the_status() {
        let status = "Name:\tx\nSigBlk:\t0000000000004003\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, libc::SIGHUP));
        assert!(!ignores(status, libc::SIGINT));
        assert!(!ignores("", libc::SIGHUP));
    }
}
