//! What `/proc` shows of a process or thread as a whole, in the forms of
//! proc_pid_status(5), proc_pid_statm(5) and proc_pid_stat(5) (DESIGN 5).

use std::fs;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::files::{File, read};
use crate::sys;

/// Whether there is a thread of this number, which may be the first of a process.
/// getpgid(2) tells everyone, also where `/proc` does not (`hidepid`).
pub fn is_thread(tid: u32) -> bool {
    let tid = i32::try_from(tid).ok().and_then(Pid::from_raw);
    tid.is_some_and(|tid| rustix::process::getpgid(Some(tid)) != Err(sys::Errno::SRCH))
}

/// The process that a thread belongs to; 0 if unknown.
pub fn thread_group(tid: u32) -> u32 {
    let Some(pid) = i32::try_from(tid).ok().and_then(Pid::from_raw) else {
        return 0;
    };
    // Only the first thread of a process has a pidfd of that number. Nearly every caller
    // is one, and reading its status takes ten times as long.
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(_) => tid,
        Err(_) => status_field(tid, "Tgid:", 10).unwrap_or(0),
    }
}

/// The umask of a thread's process (since Linux 4.7); 077 if unknown.
pub fn umask(tid: u32) -> u32 {
    status_field(tid, "Umask:", 8).unwrap_or(0o077)
}

/// Whether a thread keeps the setuid and setgid bits of files it changes (`CAP_FSETID`,
/// capabilities(7)); false if unknown.
pub fn keeps_privileges(tid: u32) -> bool {
    let status = read(tid, File::Status).unwrap_or_default();
    has_fsetid(&status)
}

pub fn has_fsetid(status: &[u8]) -> bool {
    has_capabilities(status, 1 << 4)
}

/// Whether a thread has all of these effective capabilities: bits as in
/// linux/capability.h. `status` is in the form of proc_pid_status(5).
pub fn has_capabilities(status: &[u8], wanted: u64) -> bool {
    field(status, "CapEff:")
        .and_then(|set| u64::from_str_radix(set, 16).ok())
        .is_some_and(|set| set & wanted == wanted)
}

/// The supplementary groups of a thread; none if unknown.
pub fn groups(tid: u32) -> Vec<u32> {
    let status = read(tid, File::Status).unwrap_or_default();
    parse_groups(&status)
}

pub fn parse_groups(status: &[u8]) -> Vec<u32> {
    let groups = field(status, "Groups:").unwrap_or_default();
    let groups = groups.split_ascii_whitespace();
    groups.filter_map(|group| group.parse().ok()).collect()
}

fn status_field(tid: u32, name: &str, radix: u32) -> Option<u32> {
    let status = read(tid, File::Status).ok()?;
    parse_status(&status, name, radix)
}

pub fn parse_status(status: &[u8], name: &str, radix: u32) -> Option<u32> {
    u32::from_str_radix(field(status, name)?, radix).ok()
}

/// The value in the first line that begins with `name`.
pub fn field<'a>(lines: &'a [u8], name: &str) -> Option<&'a str> {
    let value = lines
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(name.as_bytes()))?;
    Some(str::from_utf8(value).ok()?.trim())
}

/// Whether a process has memory: one that is ending gives it up before its files.
pub fn has_memory(status: &[u8]) -> bool {
    field(status, "VmSize:").is_some()
}

pub fn has_pending_kill(status: &[u8]) -> bool {
    let pending = field(status, "SigPnd:").and_then(|set| u64::from_str_radix(set, 16).ok());
    pending.is_some_and(|set| set & (1 << (libc::SIGKILL - 1)) != 0)
}

#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    pub flags: u64,
    pub exit_code: u64,
}

/// Fields 9 and 52 of `/proc/PID/stat` (proc_pid_stat(5)). The second field is the name
/// in parentheses, which may contain anything.
pub fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields: Vec<&str> = str::from_utf8(stat.get(after_name..)?)
        .ok()?
        .split_ascii_whitespace()
        .collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some(Stat {
        flags: field(9)?,
        exit_code: field(52)?,
    })
}

/// The ids of all processes.
pub fn all_processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_disguise_the_fields_of_stat() {
        let tail: String = (4..=52).map(|n| format!(" {n}")).collect();
        let stat = format!("7 (a) b (c) S{tail}");
        let expected = Stat {
            flags: 9,
            exit_code: 52,
        };
        assert_eq!(parse_stat(stat.as_bytes()), Some(expected));
        for broken in ["", "7 (a", "7 (a) S 1 2 3", "7 (a) S x y z"] {
            assert_eq!(parse_stat(broken.as_bytes()), None);
        }
    }

    #[test]
    fn a_thread_belongs_to_its_process() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(thread_group(tid.unsigned_abs()), std::process::id());
        assert_eq!(thread_group(0), 0);
    }

    #[test]
    fn fields_of_fdinfo_and_status_are_found() {
        let fdinfo = b"pos:\t0\nflags:\t0100000\nmnt_id:\t24\nino:\t18446462598732840961\n";
        assert_eq!(field(fdinfo, "ino:"), Some("18446462598732840961"));
        assert_eq!(field(fdinfo, "flags:"), Some("0100000"));
        assert_eq!(field(b"ino", "ino:"), None);
        assert_eq!(
            parse_status(b"Name:\tx\nUmask:\t0027\n", "Umask:", 8),
            Some(0o27)
        );
    }
}
