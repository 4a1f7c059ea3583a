//! How a process ends that closes a file, or has written to it: by itself, or
//! killed (DESIGN 2.6 and 5).

use std::io;
use std::time::{Duration, Instant};

use super::files::{File, OutOfExec, read};
use super::identity::Process;
use super::status::{has_memory, has_pending_kill, parse_stat, parse_status};
use super::table::{Sought, Table, own_table};

/// Flags in proc_pid_stat(5): exiting, and by a signal (linux/sched.h).
const PF_EXITING: u64 = 0x4;

const PF_SIGNALED: u64 = 0x400;

/// How long a look is tried again for which we lack descriptors or memory.
const SHORT_TIME: Duration = Duration::from_secs(1);

/// What a process is about that closes a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
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

/// Looks at the thread that sent a FLUSH of the file, and waits for the answer.
pub fn closer(tid: u32, file: Sought) -> Closer {
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

/// How a thread with an empty table ends, if it does.
fn ending(tid: u32) -> Closer {
    let status = match patiently(|| read(tid, File::Status)) {
        Ok(status) => status,
        Err(e) if is_short(&e) => return cannot_tell(tid, &e),
        Err(_) => return Closer::Unknown,
    };
    if has_memory(&status) {
        return Closer::Closed;
    }
    // Out of exec(2) for good: see `is_being_killed`.
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
        // When one thread of a process calls exit(2), the kernel ends the
        // others by the means of a signal: what counts is how the process
        // ends (`exit_code`, shown to those who may trace it).
        Some(stat) if stat.flags & PF_SIGNALED != 0 && stat.exit_code & 0x7f != 0 => Closer::Killed,
        Some(_) => Closer::Exiting,
    }
}

/// Whether a process that need not have noticed yet is to end by a signal:
/// the kernel has given it a `SIGKILL` then, whatever the signal was.
pub fn is_being_killed(pid: u32) -> bool {
    let status = match patiently(|| read(pid, File::Status)) {
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

#[cfg(test)]
mod tests {
    use super::super::table::table;
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
}
