//! Who is to see that a session has no checkpoint.
//!
//! Everybody is shown an empty `session` then. But an exclusive create would
//! be refused because of it (`cp -r` of a whole session, `tar`, `install`,
//! `set -C`), and a program that has just removed the checkpoint would find
//! it there still; GNU tar tries for ever then. Those are told the truth.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// How many threads that removed a checkpoint are remembered.
const CAPACITY: usize = 256;

/// The threads that removed a checkpoint last, and from which directory.
#[derive(Debug, Default)]
pub(super) struct Removers {
    threads: Mutex<VecDeque<(u32, u64)>>,
}

impl Removers {
    /// The thread has removed the checkpoint of this session's node.
    pub(super) fn remember(&self, tid: u32, session: u64) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|&known| known != (tid, session));
        threads.push_back((tid, session));
        if threads.len() > CAPACITY {
            threads.pop_front();
        }
    }

    /// Whether a session without a checkpoint is to be seen as what it is.
    pub(super) fn sees_absence(&self, tid: u32, session: u64) -> bool {
        let removed = {
            let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.contains(&(tid, session))
        };
        removed || creates_exclusively(tid)
    }

    /// The session has a checkpoint again.
    pub(super) fn forget(&self, session: u64) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|&(_, other)| other != session);
    }
}

/// Whether the thread, which waits for our answer, is in an open(2) with
/// `O_EXCL`. A FUSE lookup does not say what it is for; `/proc/PID/syscall`
/// does, to those who may trace the thread (ptrace(2): root may, and the
/// same user where Yama does not forbid it). Who may not hears "no".
fn creates_exclusively(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let call = fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
    open_flags(&call).is_some_and(|flags| flags & i64::from(libc::O_EXCL) != 0)
}

/// The flags of an open, in the form of proc_pid_syscall(5): the number of the
/// call, and its arguments in hexadecimal.
fn open_flags(call: &str) -> Option<i64> {
    let mut fields = call.split_ascii_whitespace();
    let number: i64 = fields.next()?.parse().ok()?;
    let argument = match number {
        libc::SYS_openat => 2,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => 1,
        _ => return None,
    };
    let flags = fields.nth(argument)?.strip_prefix("0x")?;
    i64::from_str_radix(flags, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_an_open_are_found() {
        let openat = format!(
            "{} 0xffffff9c 0x7f 0xc1 0x1b6 0x0 0x0 0x7ff 0x7fe",
            libc::SYS_openat
        );
        assert_eq!(open_flags(&openat), Some(0xc1));
        assert_eq!(open_flags("running"), None);
        assert_eq!(open_flags(&format!("{} 0x1", libc::SYS_openat)), None);
        assert_eq!(
            open_flags(&format!("{} 0x1 0x2 0xc1", libc::SYS_statx)),
            None
        );
        assert_eq!(open_flags(""), None);
    }

    #[test]
    fn a_remover_is_remembered_until_there_is_a_checkpoint() {
        let removers = Removers::default();
        removers.remember(u32::MAX, 7);
        assert!(removers.sees_absence(u32::MAX, 7));
        assert!(!removers.sees_absence(u32::MAX, 8));
        removers.forget(7);
        assert!(!removers.sees_absence(u32::MAX, 7));
    }
}
