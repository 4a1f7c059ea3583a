//! Slow saves.

use std::thread::{self, JoinHandle};

use super::observe::{Strace, is_in_call, threads};
use super::tools;
use super::{Session, wait_until};

/// Saves on a thread of its own.
pub fn save(session: &Session, content: &'static str) -> JoinHandle<std::io::Result<()>> {
    let file = session.file();
    thread::spawn(move || tools::save(file, content))
}

/// Waits until a thread of the daemon is in an fsync(2) that is being delayed.
pub fn wait_for_fsync(pid: u32) {
    wait_until("a save is in fsync", || {
        let threads = threads(pid, None);
        threads.iter().any(|&tid| is_in_call(tid, libc::SYS_fsync))
    });
}

/// Delays every fsync(2) of the daemon by a second, until the returned value is dropped.
pub fn slow_disk(pid: u32) -> Strace {
    let delay = "inject=fsync:delay_enter=1000000";
    Strace::attach_to_all(pid, ["-e", "trace=fsync", "-e", delay])
}
