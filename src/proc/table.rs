//! Whether a process holds a writer's file: what `/proc` tells of its table of
//! descriptors (DESIGN 5).
//!
//! Seen on Linux 6.18: at FLUSH the descriptor being closed is gone from the
//! table already; a process on its way out has an empty table; `ino:` in
//! fdinfo (since Linux 5.14) is what was shown last, and a file handle has the
//! FUSE node id, both read without asking us. A descriptor costs 7 to 9
//! microseconds by its fdinfo, and 3 by its handle.

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

/// A writer's file, as `/proc` shows it.
///
/// fdinfo has the inode number that the kernel was told last: the node id at
/// a lookup, and at fstat(2) the one that programs are to see.
#[derive(Debug, Clone, Copy)]
pub struct Sought {
    /// The node id, of a range that nothing else uses; but for a writer that
    /// shares the node of its checkpoint.
    pub ino: u64,
    /// The number that fstat(2) shows: the checkpoint's, as a rule.
    pub shown: u64,
    /// What it has shown before, as long as nobody has asked since.
    pub shown_before: u64,
    /// The device of the mount; `None` while that is not known.
    pub device: Option<(u32, u32)>,
    /// It was opened for reading, and truncated by that: descriptors that only
    /// read are its own. As a rule they are readers that have come to its node.
    pub may_only_read: bool,
}

/// A table of descriptors.
#[derive(Debug, PartialEq, Eq)]
pub enum Table {
    Holds,
    /// By close-on-exec descriptors only, or in exec.
    HoldsUntilExec,
    Other,
    Empty,
}

/// The table of the process that closes the file. It is read by file handles,
/// unless that would wait for an exec.
pub fn own_table(tid: u32, sought: Sought) -> io::Result<Table> {
    let Some(process) = OutOfExec::of(tid).filter(|_| sought.device.is_some()) else {
        return table(tid, sought, None);
    };
    let mut found = Table::Empty;
    let links = fs::File::open(process.path("fd"))?;
    for entry in descriptors(tid)? {
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
    let link = OutOfExec::of(pid)?.descriptor(descriptor);
    let link = CString::new(link.into_os_string().into_vec()).ok()?;
    sys::fuse_node_at(sys::CWD, &link).ok()?
}

/// Whether a descriptor was opened by the name of a checkpoint; yes, if nobody
/// can tell. The link is not followed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

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
}
