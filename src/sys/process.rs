//! What the kernel says of a process by a pidfd: nothing is read in `/proc`, and nothing
//! waits.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{fstat, fstatfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::call::{Result, errno_of};

/// `PIDFD_THREAD` (Linux 6.9): for any thread, not only the first one.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());

/// The type of pidfs, the filesystem of pidfds since Linux 6.9 (linux/magic.h).
const PIDFS: rustix::fs::FsWord = 0x5049_4446;

/// A pidfd of the process whose first thread is `pid`.
///
/// # Errors
/// Those of pidfd_open(2): `ESRCH` if there is no such process, and `EINVAL`, or
/// `ENOENT` since Linux 6.14, of any other thread of one.
pub fn pidfd(pid: u32) -> Result<OwnedFd> {
    pidfd_open(number(pid)?, PidfdFlags::empty())
}

/// A pidfd of a thread (Linux 6.9).
///
/// # Errors
/// Those of pidfd_open(2); `EINVAL` before Linux 6.9.
pub fn pidfd_of_thread(tid: u32) -> Result<OwnedFd> {
    pidfd_open(number(tid)?, THREAD)
}

fn number(pid: u32) -> Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or(Errno::SRCH)
}

/// A number that no other process or thread has until the machine is restarted: the inode
/// number of its pidfd (pidfs, Linux 6.9). Before that all pidfds have one inode, and
/// this is 0.
///
/// # Errors
/// Those of fstat(2).
pub fn pidfd_identity(pidfd: impl AsFd) -> Result<u64> {
    static HAS_PIDFS: OnceLock<bool> = OnceLock::new();
    let pidfd = pidfd.as_fd();
    let has_pidfs = || fstatfs(pidfd).is_ok_and(|filesystem| filesystem.f_type == PIDFS);
    if !*HAS_PIDFS.get_or_init(has_pidfs) {
        return Ok(0);
    }
    Ok(fstat(pidfd)?.st_ino)
}

/// The first version of `struct pidfd_info` (linux/pidfd.h, Linux 6.13).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    credentials: [u32; 8],
    exit_code: i32,
}

/// The process that the thread of a pidfd belongs to (Linux 6.13).
///
/// # Errors
/// Those of ioctl(2): `ESRCH` if it has ended, `ENOTTY` before Linux 6.13.
pub fn pidfd_thread_group(pidfd: impl AsFd) -> Result<u32> {
    /// `PIDFD_INFO_PID`.
    const PID: u64 = 1;
    let info = info(pidfd, PID)?;
    if info.mask & PID == 0 || info.tgid == 0 {
        return Err(Errno::SRCH);
    }
    Ok(info.tgid)
}

/// How the process of a pidfd has ended, in the form of wait(2); `None` if its parent has
/// not waited for it yet (Linux 6.15).
///
/// # Errors
/// Those of ioctl(2): `ENOTTY` before Linux 6.13.
pub fn exit_status(pidfd: impl AsFd) -> Result<Option<i32>> {
    /// `PIDFD_INFO_EXIT`.
    const EXIT: u64 = 1 << 3;
    match info(pidfd, EXIT) {
        Ok(info) => Ok((info.mask & EXIT != 0).then_some(info.exit_code)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[allow(unsafe_code)]
fn info(pidfd: impl AsFd, mask: u64) -> Result<Info> {
    /// `PIDFD_GET_INFO`: `_IOWR(0xff, 11, struct pidfd_info)`.
    const GET_INFO: u32 = 3 << 30 | (size_of::<Info>() as u32) << 16 | 0xff << 8 | 11;
    let mut info = Info {
        mask,
        ..Info::default()
    };
    // SAFETY: the size encoded in the request is that of `info`, which outlives the call;
    // the kernel writes no more than that.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO.into(), &raw mut info) };
    match result {
        0 => Ok(info),
        _ => Err(errno_of(&std::io::Error::last_os_error())),
    }
}

/// Whether the process of a pidfd has ended.
pub fn has_ended(pidfd: impl AsFd) -> bool {
    let pidfd = pidfd.as_fd();
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    // It does not wait; without an answer the process counts as alive.
    let now = Timespec::default();
    poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_is_told_from_its_process_and_leads_to_it() {
        let (told, tid) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            told.send(tid.unsigned_abs()).unwrap();
            let _ = wait.recv();
        });
        let tid = tid.recv().unwrap();
        let me = std::process::id();
        assert!(pidfd(tid).is_err());
        let (of_thread, of_process) = (pidfd_of_thread(tid).unwrap(), pidfd(me).unwrap());
        assert_eq!(pidfd_thread_group(&of_thread), Ok(me));
        assert_eq!(pidfd_thread_group(&of_process), Ok(me));
        let identity = pidfd_identity(&of_process).unwrap();
        assert_eq!(pidfd_identity(pidfd(me).unwrap()), Ok(identity));
        assert_ne!(pidfd_identity(&of_thread), Ok(identity));
        drop(go_on);
        thread.join().unwrap();
        assert_eq!(pidfd(0).unwrap_err(), Errno::SRCH);
        assert_eq!(pidfd(u32::MAX).unwrap_err(), Errno::SRCH);
    }
}
