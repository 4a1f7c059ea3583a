//! How a process that closes a file, or has written to it, ends: by itself, or killed
//! (DESIGN 2.6 and 5).

use std::io;
use std::time::{Duration, Instant};

use super::files::{File, OutOfExec, read};
use super::identity::Process;
use super::status::{has_memory, has_pending_kill, parse_stat, parse_status};
use super::table::{Sought, Table, own_table};

/// A flag in proc_pid_stat(5): exiting (linux/sched.h).
const PF_EXITING: u64 = 0x4;

/// In an exit code and in a status of wait(2): the signal that ended it.
const SIGNAL: u64 = 0x7f;

/// How long to try again when the daemon lacks the descriptors or memory for a look.
const SHORT_TIME: Duration = Duration::from_secs(1);

/// What a process that closes a descriptor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    /// It has the file open through another descriptor.
    Holds,
    /// It has not, and goes on.
    Closed,
    /// It is ending by itself.
    Exiting,
    /// It is ending because of a signal.
    Killed,
    /// `/proc` does not tell (pid 0, or no permission).
    Unknown,
}

/// What the thread that has sent a FLUSH of the file, and waits for the answer, is doing.
/// A table too long to be read to its end before `until` counts as holding the file.
pub fn closer(tid: u32, file: Sought, until: Instant) -> Closer {
    if tid == 0 {
        return Closer::Unknown;
    }
    match patiently(|| own_table(tid, file, until)) {
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Closer::Holds,
        Ok(Table::Holds | Table::HoldsUntilExec) => Closer::Holds,
        Ok(Table::Other) => Closer::Closed,
        // An empty table: it is closing all descriptors, or had only this one.
        Ok(Table::Empty) => ending(tid),
        Err(e) if e.kind() == io::ErrorKind::NotFound => ending(tid),
        Err(e) if is_short(&e) => cannot_tell(tid, &e),
        Err(_) => Closer::Unknown,
    }
}

/// The process of a thread that waits for our answer. Tries again if the daemon lacks a
/// descriptor for the look.
pub fn known(tid: u32) -> Process {
    let start = Instant::now();
    loop {
        let process = Process::of(tid);
        if process.is_known() || tid == 0 || start.elapsed() > SHORT_TIME {
            return process;
        }
        std::thread::sleep(SHORT_TIME / 100);
    }
}

/// Whether the daemon itself lacks descriptors or memory.
fn is_short(error: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|errno| short.contains(&errno))
}

/// Tries again for a while if the daemon lacks descriptors or memory. Only for a thread
/// that serves nobody else.
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

/// For a process whose end cannot be seen. It may have been killed, so what it wrote may
/// be incomplete, and must not be published.
fn cannot_tell(pid: u32, why: &io::Error) -> Closer {
    log::error!("cannot see how process {pid} ends, and take it for killed: {why}");
    Closer::Killed
}

/// How a thread with an empty table ends, if it is ending.
fn ending(tid: u32) -> Closer {
    let status = match patiently(|| read(tid, File::Status)) {
        Ok(status) => status,
        Err(e) if is_short(&e) => return cannot_tell(tid, &e),
        Err(_) => return Closer::Unknown,
    };
    if has_memory(&status) {
        return Closer::Closed;
    }
    // It is past any exec(2), since it has no memory: see `is_being_killed`.
    let stat = match patiently(|| OutOfExec::known(tid).stat()) {
        Ok(stat) => stat,
        Err(e) if is_short(&e) => return cannot_tell(tid, &e),
        Err(_) => return Closer::Unknown,
    };
    match parse_stat(&stat) {
        None => Closer::Unknown,
        Some(stat) if stat.flags & PF_EXITING == 0 => Closer::Closed,
        Some(_) if crate::sys::defect::has(crate::sys::defect::Defect::KilledNotSeen) => {
            Closer::Exiting
        }
        // What counts is how the process ends (`exit_code`, shown to those who may trace
        // it), and not whether a signal was used (`PF_SIGNALED`): when one thread calls
        // exit_group(2), the kernel ends the others by a signal, and strict seccomp(2)
        // kills without one.
        Some(stat) if stat.exit_code & SIGNAL != 0 => Closer::Killed,
        Some(_) => Closer::Exiting,
    }
}

/// Whether a wait(2) status is that of a process that was killed.
pub fn is_of_killed(status: i32) -> bool {
    u64::from(status.cast_unsigned()) & SIGNAL != 0
}

/// Whether a signal is about to end a process, which may still run. The kernel has sent
/// it a `SIGKILL` then, whatever the first signal was.
pub fn is_being_killed(pid: u32) -> bool {
    let status = match patiently(|| read(pid, File::Status)) {
        Ok(status) => status,
        Err(e) if is_short(&e) => return cannot_tell(pid, &e) == Closer::Killed,
        Err(_) => return false,
    };
    if !has_memory(&status) {
        return ending(pid) == Closer::Killed;
    }
    // With several threads, the signal may come from one that has called exit_group(2).
    parse_status(&status, "Threads:", 10) == Some(1) && has_pending_kill(&status)
}

#[cfg(test)]
mod tests {
    use super::super::table::{AT_ONCE, table};
    use super::*;
    use crate::repo::CHECKPOINT;
    use std::fs;
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
        let closer = |pid, sought| closer(pid, sought, Instant::now() + Duration::from_secs(3600));
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
    fn rule_13_2_a_long_table_that_is_not_seen_in_time_may_hold_the_file() {
        let sought = Sought {
            ino: u64::MAX,
            shown: u64::MAX,
            shown_before: u64::MAX,
            device: Some((0, 0)),
            may_only_read: false,
        };
        let me = std::process::id();
        let null = fs::File::open("/dev/null").unwrap();
        let many: Vec<fs::File> = (0..2 * AT_ONCE)
            .map(|_| null.try_clone().unwrap())
            .collect();
        let an_hour = Instant::now() + Duration::from_secs(3600);
        assert_eq!(closer(me, sought, an_hour), Closer::Closed);
        assert_eq!(closer(me, sought, Instant::now()), Closer::Holds);
        drop(many);
    }
}
