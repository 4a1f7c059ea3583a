//! Whether a process holds a writer's file (has it open), by what `/proc` shows of its
//! table of descriptors (DESIGN 5).
//!
//! Seen on Linux 6.18: at FLUSH the descriptor being closed has left the table already. A
//! process that is ending has an empty table. `ino:` in fdinfo (since Linux 5.14) is the
//! inode number that was shown last, and a file handle contains the FUSE node id; both
//! are read without a request to us. A descriptor costs 7 to 9 microseconds by its
//! fdinfo, and 3 by its handle.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Instant;

use super::files::{OutOfExec, descriptors, may_be_in_exec};
use super::mountinfo;
use super::status::field;
use crate::repo::CHECKPOINT;
use crate::sys;

/// So many descriptors of the process that closes the file are read whatever the
/// time: a short table is seen to its end, also where nothing runs for a while.
pub(super) const AT_ONCE: usize = 256;

/// A writer's file, as `/proc` shows it.
///
/// fdinfo shows the inode number that the kernel was told last: the node id after a
/// lookup, and the number that programs see after an fstat(2).
#[derive(Debug, Clone, Copy)]
pub struct Sought {
    /// The node id, from a range that nothing else uses; but for a writer that shares the
    /// node of its checkpoint.
    pub ino: u64,
    /// The number that fstat(2) shows: normally the checkpoint's.
    pub shown: u64,
    /// The number that was shown before, in case no fstat(2) has come since.
    pub shown_before: u64,
    /// The device of the mount; `None` while unknown.
    pub device: Option<(u32, u32)>,
    /// It was opened for reading, with `O_TRUNC`: then descriptors that only read count.
    /// Otherwise they belong to readers that have opened its node.
    pub may_only_read: bool,
}

/// What a table of descriptors has.
#[derive(Debug, PartialEq, Eq)]
pub enum Table {
    Holds,
    /// It has the file open, but only close-on-exec, or is in exec(2).
    HoldsUntilExec,
    Other,
    Empty,
}

/// Looks at the table of the process that closes the file. Reads file handles, unless
/// that would wait for an exec.
///
/// # Errors
/// As of [`table`].
pub fn own_table(tid: u32, sought: Sought, until: Instant) -> io::Result<Table> {
    let Some(process) = OutOfExec::of(tid).filter(|_| sought.device.is_some()) else {
        return table(tid, sought, Some(until));
    };
    let mut found = Table::Empty;
    let links = fs::File::open(process.path("fd"))?;
    for (read, entry) in descriptors(tid)?.enumerate() {
        if read % AT_ONCE == AT_ONCE - 1 && Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A descriptor that has been closed meanwhile does not count.
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

/// Looks, up to twice, at the table of a process that goes on meanwhile. A shell moves a
/// descriptor back to a lower number after a redirection; one look may miss it between
/// the two numbers, the next finds it.
///
/// # Errors
/// Those of `/proc`; `TimedOut` if the table is so long that `until` comes first.
pub fn table(pid: u32, sought: Sought, until: Option<Instant>) -> io::Result<Table> {
    match table_once(pid, sought, until) {
        Ok(Table::Other) => table_once(pid, sought, until),
        other => other,
    }
}

fn table_once(pid: u32, sought: Sought, until: Option<Instant>) -> io::Result<Table> {
    let mut found = Table::Empty;
    let mut buffer = [0; 512];
    for entry in descriptors(pid)? {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A descriptor that has been closed meanwhile does not count.
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
        // exec removes the flag from a descriptor before it closes it (do_close_on_exec,
        // fs/file.c, Linux 6.18).
        if !is_closed_on_exec(flags) && !may_be_in_exec(pid) {
            return Ok(Table::Holds);
        }
        found = Table::HoldsUntilExec;
    }
    Ok(found)
}

/// The flags of an open file and of its descriptor, from its fdinfo.
fn flags_of(fdinfo: &[u8]) -> Option<i64> {
    field(fdinfo, "flags:").and_then(|flags| i64::from_str_radix(flags, 8).ok())
}

/// Whether a descriptor is closed by exec(2); false if unknown.
fn is_closed_on_exec(flags: Option<i64>) -> bool {
    flags.is_some_and(|flags| flags & i64::from(libc::O_CLOEXEC) != 0)
}

/// Whether a descriptor can write; true if unknown.
fn writes(flags: Option<i64>) -> bool {
    flags.is_none_or(|flags| flags & i64::from(libc::O_ACCMODE) != 0)
}

/// Whether a descriptor is of the writer's file: its node id says so.
///
/// If the node id cannot be read, the shown number decides. That number is also shown for
/// readers of the checkpoint, for the checkpoint under another name it got since, and by
/// chance for files on other devices.
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

/// The node id of a descriptor; `None` if unknown.
fn node_of(pid: u32, descriptor: &OsStr) -> Option<u64> {
    let link = OutOfExec::of(pid)?.descriptor(descriptor);
    let link = CString::new(link.into_os_string().into_vec()).ok()?;
    sys::fuse_node_at(sys::CWD, &link).ok()?
}

/// Whether a descriptor was opened by the name of a checkpoint; true if unknown. The link
/// is not followed.
fn is_named_as_checkpoint(pid: u32, descriptor: &OsStr) -> bool {
    let Some(process) = OutOfExec::of(pid) else {
        return true;
    };
    let Ok(target) = fs::read_link(process.descriptor(descriptor)) else {
        return true;
    };
    let name = target.file_name().unwrap_or_default().as_bytes();
    // proc_pid_fd(5)
    name.strip_suffix(b" (deleted)").unwrap_or(name) == CHECKPOINT.as_bytes()
}

/// Whether a mount that a process sees is of this device; true if unknown.
fn is_mount_of(pid: u32, mount: u64, device: Option<(u32, u32)>) -> bool {
    let Some(device) = device else {
        return true;
    };
    let Ok(mounts) = mountinfo::read_of(pid) else {
        return true;
    };
    let of_mount = mounts.iter().find(|seen| seen.id == mount);
    of_mount.is_none_or(|of_mount| of_mount.device == device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_reader_of_a_checkpoint_does_not_hold_its_writer() {
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
}
