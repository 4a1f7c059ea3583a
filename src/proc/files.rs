//! The files of a process in `/proc`: those that may be read of any process, and
//! those that may only be read of one that is not in exec(2) (DESIGN 5, 13.2).
//!
//! Seen on Linux 6.18: the links of a process, its `stat`, its `syscall` and its
//! `maps` wait for the end of its exec (`exec_update_lock`), and exec may wait for
//! us, with the FLUSH of a close-on-exec file. `maps` and `cmdline` wait for the
//! process's memory as well, which somebody else's filesystem may hold up: nothing
//! here reads them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A file that waits for nothing, whatever its process is about.
#[derive(Debug, Clone, Copy)]
pub enum File {
    /// proc_pid_status(5), of a thread as well.
    Status,
    /// proc_pid_statm(5).
    Statm,
    /// proc_pid_comm(5).
    Comm,
    /// proc_pid_mountinfo(5).
    Mountinfo,
    /// proc_pid_uid_map(5).
    UidMap,
    /// The same for groups.
    GidMap,
}

/// Reads a file of a process or a thread.
///
/// # Errors
/// `ENOENT` or `ESRCH` if it has ended, `EACCES` if we may not look.
pub fn read(tid: u32, file: File) -> io::Result<Vec<u8>> {
    let name = match file {
        File::Status => "status",
        File::Statm => "statm",
        File::Comm => "comm",
        File::Mountinfo => "mountinfo",
        File::UidMap => "uid_map",
        File::GidMap => "gid_map",
    };
    fs::read(format!("/proc/{tid}/{name}"))
}

/// The descriptors of a process: each entry is a file in the form of
/// proc_pid_fdinfo(5), which waits for nothing.
///
/// # Errors
/// As of [`read`].
pub fn descriptors(pid: u32) -> io::Result<fs::ReadDir> {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
}

/// Whether a process may be in exec(2), past the point where it has given its
/// old memory up: the new memory has no code before the end of it.
pub fn may_be_in_exec(pid: u32) -> bool {
    let statm = read(pid, File::Statm).unwrap_or_default();
    parse_statm(&statm).is_some_and(|(size, code)| size > 0 && code == 0)
}

/// The size of a process's memory, and of the code in it, in pages
/// (proc_pid_statm(5)).
pub fn parse_statm(statm: &[u8]) -> Option<(u64, u64)> {
    let mut fields = str::from_utf8(statm).ok()?.split_ascii_whitespace();
    let size = fields.next()?.parse().ok()?;
    Some((size, fields.nth(2)?.parse().ok()?))
}

/// A process or a thread that is not in exec(2): what would wait for the end of
/// that may be read of it.
#[derive(Debug, Clone, Copy)]
pub struct OutOfExec(u32);

impl OutOfExec {
    /// A process, unless it may be in exec(2). It may begin one after this, and
    /// gets through it as long as nothing of ours is in its way.
    pub fn of(pid: u32) -> Option<Self> {
        (!may_be_in_exec(pid)).then_some(Self(pid))
    }

    /// A thread that waits for our answer to a call other than a close, which exec
    /// makes as well, or a process at its end.
    pub fn known(tid: u32) -> Self {
        Self(tid)
    }

    /// Where one of its files is.
    pub fn path(self, name: impl AsRef<Path>) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    /// The link of a descriptor.
    pub fn descriptor(self, number: &OsStr) -> PathBuf {
        self.path("fd").join(number)
    }

    /// What a link says, which is not followed.
    ///
    /// # Errors
    /// As of [`read`].
    pub fn link(self, name: impl AsRef<Path>) -> io::Result<PathBuf> {
        fs::read_link(self.path(name))
    }

    /// proc_pid_stat(5).
    ///
    /// # Errors
    /// As of [`read`].
    pub fn stat(self) -> io::Result<Vec<u8>> {
        fs::read(self.path("stat"))
    }

    /// proc_pid_syscall(5), which is for those who may trace the thread: root may,
    /// and the same user where Yama does not forbid it.
    pub fn syscall(self) -> Option<String> {
        fs::read_to_string(self.path("syscall")).ok()
    }

    /// What tells its namespace of this kind (namespaces(7)) from others.
    ///
    /// # Errors
    /// As of [`read`].
    pub fn namespace(self, kind: &str) -> io::Result<OsString> {
        Ok(self.link(Path::new("ns").join(kind))?.into_os_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_is_not_in_exec() {
        assert!(OutOfExec::of(std::process::id()).is_some());
        // kthreadd has no memory of its own, and nobody is 0.
        assert!(!may_be_in_exec(2));
        assert!(!may_be_in_exec(0));
    }

    #[test]
    fn the_code_of_a_process_is_told() {
        assert_eq!(parse_statm(b"2000 500 300 12 0 90 0\n"), Some((2000, 12)));
        for odd in [&b""[..], b"1 2 3", b"x 1 1 1", b"\xff 1 1 1"] {
            assert_eq!(parse_statm(odd), None);
        }
    }
}
