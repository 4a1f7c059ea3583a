//! The files of a process in `/proc`: those that may be read of any process, and those
//! that may only be read of a process that is not in exec(2) (DESIGN 5, 13.2).
//!
//! Seen on Linux 6.18: `fd/N`, `exe`, `stat`, `syscall` and `maps` of a process wait for
//! the end of its exec (`exec_update_lock`), and exec may wait for us, at the FLUSH of a
//! close-on-exec descriptor. `maps` and `cmdline` also wait for the memory lock of the
//! process, which another filesystem may keep locked: nothing here reads them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A file that can always be read without waiting.
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
    /// proc_pid_uid_map(5), for groups.
    GidMap,
}

/// Reads a file of a process or thread.
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

/// The descriptors of a process. Each entry is a file in the form of proc_pid_fdinfo(5),
/// which can be read without waiting.
///
/// # Errors
/// As of [`read`].
pub fn descriptors(pid: u32) -> io::Result<fs::ReadDir> {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
}

/// The threads of a process: each entry is a directory with its files, of which
/// `children` (proc_tid_children(5)) is read without waiting.
///
/// # Errors
/// As of [`read`].
pub fn threads(pid: u32) -> io::Result<fs::ReadDir> {
    fs::read_dir(format!("/proc/{pid}/task"))
}

/// Whether a process may be in exec(2), after it has given up its old memory: until exec
/// ends, the new memory has a size but no code.
pub fn may_be_in_exec(pid: u32) -> bool {
    let statm = read(pid, File::Statm).unwrap_or_default();
    parse_statm(&statm).is_some_and(|(size, code)| size > 0 && code == 0)
}

/// The size of a process's memory, and of the code in it, in pages of memory
/// (proc_pid_statm(5)).
pub fn parse_statm(statm: &[u8]) -> Option<(u64, u64)> {
    let mut fields = str::from_utf8(statm).ok()?.split_ascii_whitespace();
    let size = fields.next()?.parse().ok()?;
    Some((size, fields.nth(2)?.parse().ok()?))
}

/// A process or thread that is not in exec(2), so that the files that wait for the end of
/// an exec may be read.
#[derive(Debug, Clone, Copy)]
pub struct OutOfExec(u32);

impl OutOfExec {
    /// A process, unless it may be in exec(2). If it begins an exec after this, that ends
    /// as long as it need not wait for us.
    pub fn of(pid: u32) -> Option<Self> {
        (!may_be_in_exec(pid)).then_some(Self(pid))
    }

    /// A process at its end, or a thread that waits for our answer to any request but a
    /// FLUSH: exec sends FLUSHes, too.
    pub fn known(tid: u32) -> Self {
        Self(tid)
    }

    /// The path of one of its files.
    pub fn path(self, name: impl AsRef<Path>) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    /// The path of the link of a descriptor.
    pub fn descriptor(self, number: &OsStr) -> PathBuf {
        self.path("fd").join(number)
    }

    /// The target of a link, without following it.
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

    /// proc_pid_syscall(5). It can be read by root, and by the same user unless Yama
    /// forbids it.
    pub fn syscall(self) -> Option<String> {
        fs::read_to_string(self.path("syscall")).ok()
    }

    /// What identifies its namespace of this kind (namespaces(7)).
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
    fn a_running_process_is_not_in_exec() {
        assert!(OutOfExec::of(std::process::id()).is_some());
        // kthreadd has no memory of its own, and no process has the number 0.
        assert!(!may_be_in_exec(2));
        assert!(!may_be_in_exec(0));
    }

    #[test]
    fn the_size_of_a_process_is_parsed() {
        assert_eq!(parse_statm(b"2000 500 300 12 0 90 0\n"), Some((2000, 12)));
        for odd in [&b""[..], b"1 2 3", b"x 1 1 1", b"\xff 1 1 1"] {
            assert_eq!(parse_statm(odd), None);
        }
    }
}
