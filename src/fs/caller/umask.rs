//! The permissions of a first checkpoint that is made by an open for which the kernel
//! does not pass them on (DESIGN 2.7).

use crate::proc::status;
use crate::proc::syscall::Call;

/// The permission bits of a first checkpoint, for the thread that opens it, and the umask
/// that applies to them.
///
/// The thread was shown an empty file, and FUSE_OPEN carries neither of them. The umask
/// is in `/proc/PID/status`. The mode that open(2) was called with is in
/// `/proc/PID/syscall`, if we may trace the thread; otherwise it is 0644, as for
/// truncate(2).
pub(in crate::fs) fn of_first(tid: u32) -> (u32, u32) {
    const PRIVATE: (u32, u32) = (0o600, 0);
    if tid == 0 {
        return PRIVATE;
    }
    let asked = Call::of(tid).and_then(|call| asked_for(call.number, &call.arguments));
    (asked.unwrap_or(0o644), status::umask(tid))
}

/// The mode with which a call creates a file.
fn asked_for(number: i64, arguments: &[u64; 6]) -> Option<u32> {
    let (flags, mode) = match number {
        libc::SYS_openat => (arguments[2], arguments[3]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => (arguments[1], arguments[2]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => (libc::O_CREAT as u64, arguments[1]),
        _ => return None,
    };
    let makes = flags & u64::from(libc::O_CREAT.cast_unsigned()) != 0;
    makes.then_some((mode & 0o777) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_a_call_that_creates_a_file_is_found() {
        let openat = |flags: libc::c_int, mode| {
            let flags = u64::from(flags.cast_unsigned());
            asked_for(libc::SYS_openat, &[0, 0, flags, mode, 0, 0])
        };
        assert_eq!(openat(libc::O_CREAT | libc::O_WRONLY, 0o600), Some(0o600));
        assert_eq!(openat(libc::O_CREAT, 0o104_755), Some(0o755));
        // Without O_CREAT there is no mode, only what was in the register.
        assert_eq!(openat(libc::O_WRONLY | libc::O_TRUNC, 0o600), None);
        assert_eq!(asked_for(libc::SYS_truncate, &[0o777; 6]), None);
        #[cfg(target_arch = "x86_64")]
        {
            let flags = u64::from(libc::O_CREAT.cast_unsigned());
            assert_eq!(
                asked_for(libc::SYS_open, &[0, flags, 0o640, 0, 0, 0]),
                Some(0o640)
            );
            assert_eq!(
                asked_for(libc::SYS_creat, &[0, 0o640, 0, 0, 0, 0]),
                Some(0o640)
            );
        }
    }

    #[test]
    fn a_first_checkpoint_of_an_unseen_caller_is_private() {
        assert_eq!(of_first(0), (0o600, 0));
    }
}
