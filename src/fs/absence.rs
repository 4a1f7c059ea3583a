//! Who is to see that a session has no checkpoint.
//!
//! Everybody is shown an empty `session` then. But a call that makes what was
//! not there would be refused because of it (`cp -r` of a whole session, `tar`,
//! `install`, `set -C`, `ln`): those are told the truth.

use std::fs;

/// Whether the thread, which waits for our answer, is in a call that refuses
/// to replace anything: an open(2) with `O_EXCL`, say. A FUSE lookup does not
/// tell what it is for; `/proc/PID/syscall` does, to those who may trace the
/// thread (ptrace(2): root may, and the same user where Yama does not forbid
/// it). Who may not hears "no".
pub(super) fn makes_something_new(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let call = fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
    parse(&call).is_some_and(|(number, arguments)| refuses_to_replace(number, &arguments))
}

/// The number of the call and its arguments, in the form of
/// proc_pid_syscall(5).
pub(super) fn parse(call: &str) -> Option<(i64, [u64; 6])> {
    let mut fields = call.split_ascii_whitespace();
    let number = fields.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, arguments))
}

fn refuses_to_replace(number: i64, arguments: &[u64; 6]) -> bool {
    let has = |argument: usize, flag: u32| arguments[argument] & u64::from(flag) != 0;
    match number {
        libc::SYS_openat => has(2, libc::O_EXCL.cast_unsigned()),
        libc::SYS_renameat2 => has(4, libc::RENAME_NOREPLACE),
        libc::SYS_linkat | libc::SYS_symlinkat | libc::SYS_mknodat | libc::SYS_mkdirat => true,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => has(1, libc::O_EXCL.cast_unsigned()),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link | libc::SYS_symlink | libc::SYS_mknod | libc::SYS_mkdir => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_told_the_truth(number: i64, arguments: &str) -> bool {
        parse(&format!("{number} {arguments} 0x7ff 0x7fe"))
            .is_some_and(|(number, arguments)| refuses_to_replace(number, &arguments))
    }

    #[test]
    fn calls_that_replace_nothing_are_told_from_others() {
        let exclusive = "0xffffff9c 0x7f 0xc1 0x1b6 0x0 0x0";
        assert!(is_told_the_truth(libc::SYS_openat, exclusive));
        let other = "0xffffff9c 0x7f 0x241 0x1b6 0x0 0x0";
        assert!(!is_told_the_truth(libc::SYS_openat, other));
        assert!(!is_told_the_truth(libc::SYS_statx, exclusive));
        let rename = "0xffffff9c 0x7f 0xffffff9c 0x7f 0x1 0x0";
        assert!(is_told_the_truth(libc::SYS_renameat2, rename));
        let exchange = "0xffffff9c 0x7f 0xffffff9c 0x7f 0x2 0x0";
        assert!(!is_told_the_truth(libc::SYS_renameat2, exchange));
        assert!(is_told_the_truth(libc::SYS_linkat, other));
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for call in ["", "running", "-1 0x1 0x2", "257 0x1 0x2 0xc1"] {
            assert_eq!(parse(call), None, "{call}");
        }
    }
}
