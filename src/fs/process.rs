//! What `/proc` says of a process that may hold a writer's file: the facts of the
//! close rule (DESIGN 5).
//!
//! Seen on Linux 6.18: at FLUSH the descriptor being closed is gone from the
//! table already; a process on its way out has an empty table; `ino:` in
//! fdinfo (since Linux 5.14) is what was shown last, and a file handle has the
//! FUSE node id, both read without asking us. A descriptor costs 7 to 9
//! microseconds by its fdinfo, and 3 by its handle.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::identity::Process;
use super::mountinfo;
use crate::repo::CHECKPOINT;
use crate::sys;

/// `/proc/PID/stat`: exiting, and by a signal (linux/sched.h).
const PF_EXITING: u64 = 0x4;
const PF_SIGNALED: u64 = 0x400;

/// How long a look is tried again for which we lack descriptors or memory.
const SHORT_TIME: Duration = Duration::from_secs(1);

/// What a process is about that closes a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closer {
    /// It holds the file through another descriptor still.
    Holds,
    /// It does not, and goes on.
    Closed,
    /// It is at its end, by itself.
    Exiting,
    /// It is at its end, by a signal.
    Killed,
    /// `/proc` does not tell (pid 0, or no permission).
    Unknown,
}

/// A writer's file, as `/proc` shows it.
///
/// fdinfo has the inode number that the kernel was told last: the node id at
/// a lookup, and at fstat(2) the one that programs are to see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought {
    /// The node id, of a range that nothing else uses; but for a writer that
    /// shares the node of its checkpoint.
    pub(super) ino: u64,
    /// The number that fstat(2) shows: the checkpoint's, as a rule.
    pub(super) shown: u64,
    /// What it has shown before, as long as nobody has asked since.
    pub(super) shown_before: u64,
    /// The device of the mount; `None` while that is not known.
    pub(super) device: Option<(u32, u32)>,
    /// It was opened for reading, and truncated by that: descriptors that only
    /// read are its own. As a rule they are readers that have come to its node.
    pub(super) may_only_read: bool,
}

/// Looks at the thread that sent a FLUSH of the file, and waits for the answer.
pub(super) fn closer(tid: u32, file: Sought) -> Closer {
    if tid == 0 {
        return Closer::Unknown;
    }
    match patiently(|| own_table(tid, file)) {
        Ok(Table::Holds | Table::HoldsUntilExec) => Closer::Holds,
        Ok(Table::Other) => Closer::Closed,
        // An empty table: it closes all, or had just this one.
        Ok(Table::Empty) => ending(tid),
        Err(e) if e.kind() == io::ErrorKind::NotFound => ending(tid),
        Err(e) if is_short(&e) => cannot_tell(tid, &e),
        Err(_) => Closer::Unknown,
    }
}

/// The process of a thread that waits for us. Where we lack a descriptor to know it
/// by, this is tried again.
pub(super) fn known(tid: u32) -> Process {
    let start = Instant::now();
    loop {
        let process = Process::of(tid);
        if process.is_known() || tid == 0 || start.elapsed() > SHORT_TIME {
            return process;
        }
        std::thread::sleep(SHORT_TIME / 100);
    }
}

/// Whether it is us who lack something.
fn is_short(error: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|errno| short.contains(&errno))
}

/// Looks again for a while where we lack descriptors or memory to look. Only for a
/// thread that serves nobody else.
fn patiently<T>(mut look: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Err(e) if is_short(&e) && start.elapsed() < SHORT_TIME => {
                std::thread::sleep(SHORT_TIME / 100);
            }
            done => return done,
        }
    }
}

/// A process that may have been killed, as nobody can tell that it was not: what it
/// wrote may be a piece, and is not published.
fn cannot_tell(pid: u32, why: &io::Error) -> Closer {
    log::error!("how process {pid} ends cannot be seen: {why}");
    Closer::Killed
}

/// Whether a process may be in exec(2), past the point where it has given its
/// old memory up: then its links in `/proc`, its maps and its stat must not be
/// read. What reads them waits for the end of exec (`exec_update_lock`), and exec
/// may wait for us, with the FLUSH of a close-on-exec file. Seen on Linux 6.18:
/// `status`, `statm`, `comm`, `mountinfo` and `fdinfo` wait for nothing, and the new
/// memory has no code before the end of it.
pub(super) fn may_be_in_exec(pid: u32) -> bool {
    let statm = fs::read(format!("/proc/{pid}/statm")).unwrap_or_default();
    parse_statm(&statm).is_some_and(|(size, code)| size > 0 && code == 0)
}

/// The size of a process's memory, and of the code in it, in pages
/// (proc_pid_statm(5)).
pub(super) fn parse_statm(statm: &[u8]) -> Option<(u64, u64)> {
    let mut fields = str::from_utf8(statm).ok()?.split_ascii_whitespace();
    let size = fields.next()?.parse().ok()?;
    Some((size, fields.nth(2)?.parse().ok()?))
}

/// Whether there is a thread of this number, which may be a process's first.
/// Nobody is kept from knowing (getpgid(2)), as `/proc` may do (`hidepid`).
pub(super) fn is_thread(tid: u32) -> bool {
    let tid = i32::try_from(tid).ok().and_then(Pid::from_raw);
    tid.is_some_and(|tid| rustix::process::getpgid(Some(tid)) != Err(sys::Errno::SRCH))
}

/// The process that a thread belongs to; 0 if nobody can tell.
pub(super) fn thread_group(tid: u32) -> u32 {
    let Some(pid) = i32::try_from(tid).ok().and_then(Pid::from_raw) else {
        return 0;
    };
    // Only the first thread of a process has a pidfd of that number, and
    // nearly every caller is one; reading its status takes ten times as long.
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(_) => tid,
        Err(_) => status_field(tid, "Tgid:", 10).unwrap_or(0),
    }
}

/// The umask of a thread's process (Linux 4.7), 077 if nobody can tell.
pub(super) fn umask(tid: u32) -> u32 {
    status_field(tid, "Umask:", 8).unwrap_or(0o077)
}

/// Whether a thread keeps the setuid and setgid bits of what it changes
/// (`CAP_FSETID`, capabilities(7)); not if nobody can tell.
pub(super) fn keeps_privileges(tid: u32) -> bool {
    let status = fs::read(format!("/proc/{tid}/status")).unwrap_or_default();
    has_fsetid(&status)
}

pub(super) fn has_fsetid(status: &[u8]) -> bool {
    has_capabilities(status, 1 << 4)
}

/// Whether a thread has all of these capabilities in effect: bits as of
/// linux/capability.h. `status` is in the form of proc_pid_status(5).
pub(super) fn has_capabilities(status: &[u8], wanted: u64) -> bool {
    field(status, "CapEff:")
        .and_then(|set| u64::from_str_radix(set, 16).ok())
        .is_some_and(|set| set & wanted == wanted)
}

/// The supplementary groups of a thread; none if nobody can tell.
pub(super) fn groups(tid: u32) -> Vec<u32> {
    let status = fs::read(format!("/proc/{tid}/status")).unwrap_or_default();
    parse_groups(&status)
}

pub(super) fn parse_groups(status: &[u8]) -> Vec<u32> {
    let groups = field(status, "Groups:").unwrap_or_default();
    let groups = groups.split_ascii_whitespace();
    groups.filter_map(|group| group.parse().ok()).collect()
}

fn status_field(tid: u32, name: &str, radix: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    parse_status(&status, name, radix)
}

pub(super) fn parse_status(status: &[u8], name: &str, radix: u32) -> Option<u32> {
    u32::from_str_radix(field(status, name)?, radix).ok()
}

/// The value in the line that begins with `name`.
pub(super) fn field<'a>(lines: &'a [u8], name: &str) -> Option<&'a str> {
    let value = lines
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(name.as_bytes()))?;
    Some(str::from_utf8(value).ok()?.trim())
}

/// A table of descriptors.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Table {
    Holds,
    /// By close-on-exec descriptors only, or in exec.
    HoldsUntilExec,
    Other,
    Empty,
}

/// The table of the process that closes the file. It is read by file handles,
/// unless that would wait for an exec.
fn own_table(tid: u32, sought: Sought) -> io::Result<Table> {
    if sought.device.is_none() || may_be_in_exec(tid) {
        return table(tid, sought, None);
    }
    let mut found = Table::Empty;
    let links = fs::File::open(format!("/proc/{tid}/fd"))?;
    for entry in fs::read_dir(format!("/proc/{tid}/fdinfo"))? {
        // A descriptor that is closed meanwhile does not hold anything.
        let Ok(entry) = entry else { continue };
        if found == Table::Empty {
            found = Table::Other;
        }
        let Ok(name) = CString::new(entry.file_name().into_vec()) else {
            continue;
        };
        if sys::fuse_node_at(&links, &name) != Ok(Some(sought.ino)) {
            continue;
        }
        let flags = flags_of(&fs::read(entry.path()).unwrap_or_default());
        if !writes(flags) && !sought.may_only_read {
            continue;
        }
        if !is_closed_on_exec(flags) {
            return Ok(Table::Holds);
        }
        found = Table::HoldsUntilExec;
    }
    Ok(found)
}

/// The table of a process that goes on meanwhile. A descriptor that a shell
/// moves back to a lower number, after a redirection, is missed by a look that
/// is just between the two numbers; the next look finds it.
///
/// # Errors
/// Those of `/proc`; `TimedOut` if it is so long that its end is not seen `until`
/// then.
pub(super) fn table(pid: u32, sought: Sought, until: Option<Instant>) -> io::Result<Table> {
    match table_once(pid, sought, until) {
        Ok(Table::Other) => table_once(pid, sought, until),
        other => other,
    }
}

fn table_once(pid: u32, sought: Sought, until: Option<Instant>) -> io::Result<Table> {
    let mut found = Table::Empty;
    let mut buffer = [0; 512];
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A descriptor that is closed meanwhile does not hold anything.
        let Ok((number, mut file)) =
            entry.and_then(|entry| Ok((entry.file_name(), fs::File::open(entry.path())?)))
        else {
            continue;
        };
        if found == Table::Empty {
            found = Table::Other;
        }
        let n = file.read(&mut buffer).unwrap_or(0);
        let fdinfo = &buffer[..n];
        let flags = flags_of(fdinfo);
        if !is_sought((pid, &number), fdinfo, flags, sought) {
            continue;
        }
        // The kernel takes the mark off before it closes what has it
        // (do_close_on_exec, fs/file.c, Linux 6.18).
        if !is_closed_on_exec(flags) && !may_be_in_exec(pid) {
            return Ok(Table::Holds);
        }
        found = Table::HoldsUntilExec;
    }
    Ok(found)
}

/// The flags of an open file with those of its descriptor, by its fdinfo.
fn flags_of(fdinfo: &[u8]) -> Option<i64> {
    field(fdinfo, "flags:").and_then(|flags| i64::from_str_radix(flags, 8).ok())
}

/// Whether a descriptor is closed by exec(2); no, if nobody can tell.
fn is_closed_on_exec(flags: Option<i64>) -> bool {
    flags.is_some_and(|flags| flags & i64::from(libc::O_CLOEXEC) != 0)
}

/// Whether a descriptor writes; yes, if nobody can tell.
fn writes(flags: Option<i64>) -> bool {
    flags.is_none_or(|flags| flags & i64::from(libc::O_ACCMODE) != 0)
}

/// Whether a descriptor is of the writer's file: the kernel knows its node id.
///
/// Where that cannot be asked for, the number that is shown has to do. It is also
/// that of the checkpoint's readers, of the checkpoint under the name that it has
/// been given since, and of any file on other devices.
fn is_sought(
    (pid, descriptor): (u32, &OsStr),
    fdinfo: &[u8],
    flags: Option<i64>,
    sought: Sought,
) -> bool {
    let number = |name| field(fdinfo, name).and_then(|value| value.parse::<u64>().ok());
    let ino = number("ino:");
    if ![sought.ino, sought.shown, sought.shown_before]
        .map(Some)
        .contains(&ino)
    {
        return false;
    }
    let writes = writes(flags);
    if sought.device.is_some()
        && let Some(node) = node_of(pid, descriptor)
    {
        return node == sought.ino && (writes || sought.may_only_read);
    }
    if !writes || ino == Some(sought.ino) {
        return writes;
    }
    is_named_as_checkpoint(pid, descriptor)
        && number("mnt_id:").is_none_or(|mount| is_mount_of(pid, mount, sought.device))
}

/// The node id behind a descriptor; `None` if nobody can tell.
fn node_of(pid: u32, descriptor: &OsStr) -> Option<u64> {
    if may_be_in_exec(pid) {
        return None;
    }
    let link = CString::new(link_of(pid, descriptor).into_os_string().into_vec()).ok()?;
    sys::fuse_node_at(sys::CWD, &link).ok()?
}

/// The link of a descriptor in `/proc`.
fn link_of(pid: u32, descriptor: &OsStr) -> PathBuf {
    let process = Path::new("/proc").join(pid.to_string());
    process.join("fd").join(descriptor)
}

/// Whether a descriptor was opened by the name of a checkpoint; yes, if nobody
/// can tell. The link is not followed.
fn is_named_as_checkpoint(pid: u32, descriptor: &OsStr) -> bool {
    if may_be_in_exec(pid) {
        return true;
    }
    let Ok(target) = fs::read_link(link_of(pid, descriptor)) else {
        return true;
    };
    let name = target.file_name().unwrap_or_default().as_bytes();
    // proc_pid_fd(5)
    name.strip_suffix(b" (deleted)").unwrap_or(name) == CHECKPOINT.as_bytes()
}

/// Whether a mount that a process sees is of this device; yes, if nobody can
/// tell.
fn is_mount_of(pid: u32, mount: u64, device: Option<(u32, u32)>) -> bool {
    let Some(device) = device else {
        return true;
    };
    let Ok(mounts) = mountinfo::read_of(pid) else {
        return true;
    };
    let of_mount = mounts.iter().find(|entry| entry.id == mount);
    of_mount.is_none_or(|of_mount| of_mount.device == device)
}

/// How a thread with an empty table ends, if it does.
fn ending(tid: u32) -> Closer {
    let status = match patiently(|| fs::read(format!("/proc/{tid}/status"))) {
        Ok(status) => status,
        Err(e) if is_short(&e) => return cannot_tell(tid, &e),
        Err(_) => return Closer::Unknown,
    };
    if has_memory(&status) {
        return Closer::Closed;
    }
    // Out of exec(2) for good: see `is_being_killed`.
    let stat = match patiently(|| fs::read(format!("/proc/{tid}/stat"))) {
        Ok(stat) => stat,
        Err(e) if is_short(&e) => return cannot_tell(tid, &e),
        Err(_) => return Closer::Unknown,
    };
    match parse_stat(&stat) {
        None => Closer::Unknown,
        Some(stat) if stat.flags & PF_EXITING == 0 => Closer::Closed,
        #[cfg(feature = "test-switches")]
        Some(_) if sys::defect::has(sys::defect::Defect::KilledNotSeen) => Closer::Exiting,
        // When one thread of a process calls exit(2), the kernel ends the
        // others by the means of a signal: what counts is how the process
        // ends (`exit_code`, shown to those who may trace it).
        Some(stat) if stat.flags & PF_SIGNALED != 0 && stat.exit_code & 0x7f != 0 => Closer::Killed,
        Some(_) => Closer::Exiting,
    }
}

/// A process at its end has given its memory back before its files.
fn has_memory(status: &[u8]) -> bool {
    field(status, "VmSize:").is_some()
}

/// Whether a process that need not have noticed yet is to end by a signal:
/// the kernel has given it a `SIGKILL` then, whatever the signal was.
///
/// `/proc/PID/stat` must not be asked about a process that may be in exec(2):
/// it waits for the end of that (seen on Linux 6.18; status and fdinfo do
/// not), and exec may wait for us, with the FLUSH of a close-on-exec file.
pub(super) fn is_being_killed(pid: u32) -> bool {
    let status = match patiently(|| fs::read(format!("/proc/{pid}/status"))) {
        Ok(status) => status,
        Err(e) if is_short(&e) => return cannot_tell(pid, &e) == Closer::Killed,
        Err(_) => return false,
    };
    if !has_memory(&status) {
        return ending(pid) == Closer::Killed;
    }
    // Of several threads it may be one that ended them all by exit(2).
    parse_status(&status, "Threads:", 10) == Some(1) && has_pending_kill(&status)
}

pub(super) fn has_pending_kill(status: &[u8]) -> bool {
    let pending = field(status, "SigPnd:").and_then(|set| u64::from_str_radix(set, 16).ok());
    pending.is_some_and(|set| set & (1 << (libc::SIGKILL - 1)) != 0)
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) flags: u64,
    pub(super) exit_code: u64,
}

/// Fields 9 and 52 of `/proc/PID/stat` (proc_pid_stat(5)). The second is
/// the name in parentheses, with anything in it.
pub(super) fn parse_stat(stat: &[u8]) -> Option<Stat> {
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
pub(super) fn all_processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_open_file_is_found_in_the_table_and_a_closed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        let file = fs::File::create(&path).unwrap();
        let ino = file.metadata().unwrap().ino();
        let me = std::process::id();
        let sought = |ino, shown| Sought {
            ino,
            shown,
            shown_before: shown,
            device: None,
            may_only_read: false,
        };
        assert_eq!(closer(me, sought(ino, 0)), Closer::Holds);
        assert_eq!(closer(me, sought(0, ino)), Closer::Holds);
        assert_eq!(table(me, sought(u64::MAX, 0), None).unwrap(), Table::Other);
        let elsewhere = Sought {
            device: Some((u32::MAX, 0)),
            ..sought(0, ino)
        };
        assert_eq!(table(me, elsewhere, None).unwrap(), Table::Other);
        fs::rename(&path, dir.path().join("other")).unwrap();
        assert_eq!(closer(me, sought(0, ino)), Closer::Closed);
        assert_eq!(closer(me, sought(ino, 0)), Closer::Holds);
        drop(file);
        assert_eq!(closer(0, sought(ino, ino)), Closer::Unknown);
    }

    #[test]
    fn who_reads_a_checkpoint_does_not_hold_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CHECKPOINT);
        let ino = fs::File::create(&path).unwrap().metadata().unwrap().ino();
        let reader = fs::File::open(&path).unwrap();
        for (ino, shown) in [(0, ino), (ino, 0), (ino, ino)] {
            let sought = Sought {
                ino,
                shown,
                shown_before: shown,
                device: None,
                may_only_read: false,
            };
            assert_eq!(
                table(std::process::id(), sought, None).unwrap(),
                Table::Other
            );
        }
        drop(reader);
    }

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
    fn a_process_that_runs_is_not_in_exec() {
        assert!(!may_be_in_exec(std::process::id()));
        // kthreadd has no memory of its own, and nobody is 0.
        assert!(!may_be_in_exec(2));
        assert!(!may_be_in_exec(0));
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

    #[test]
    fn the_code_of_a_process_is_told() {
        assert_eq!(parse_statm(b"2000 500 300 12 0 90 0\n"), Some((2000, 12)));
        for odd in [&b""[..], b"1 2 3", b"x 1 1 1", b"\xff 1 1 1"] {
            assert_eq!(parse_statm(odd), None);
        }
    }
}
