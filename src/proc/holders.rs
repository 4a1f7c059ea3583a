//! Which processes use a mount, as far as `/proc` shows their files to this process.
//!
//! Nothing here asks the filesystem itself: links in `/proc` are read but not followed,
//! so it works also for a mount whose daemon is dead or hangs. Mapped files are not
//! looked at: `/proc/PID/maps` waits for a process that is stuck in another filesystem,
//! as long as that lasts (Linux 6.18).

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{self, File, OutOfExec};
use super::mountinfo;
use super::status::{all_processes, field};
use crate::sys::{self, Statx};

/// How a process uses a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Open for reading, or an open directory.
    Reads,
    /// Open for writing.
    Writes,
    /// As its working directory, its root or its program.
    Other,
}

/// A file that a process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// In which way.
    pub how: Use,
    /// The path, as the process sees it.
    pub path: PathBuf,
}

/// A process that uses the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// The name of its program (`/proc/PID/comm`).
    pub command: String,
    /// The files that it uses, each once.
    pub files: Vec<Used>,
}

/// Where a mount is seen in one mount namespace: mount ids and mountpoints.
type Mountpoints = Vec<(u64, PathBuf)>;

/// How many descriptors of one process are looked at, and how long the whole search may
/// take. So a process with many descriptors cannot slow the daemon down (DESIGN 13.2).
const MOST_DESCRIPTORS: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(2);

/// The processes, but this one, that use the filesystem with this device number, as far
/// as they may be looked at in the time.
pub fn holders(device: (u32, u32)) -> Vec<Holder> {
    search(device).0
}

/// As [`holders`]; and whether all processes that we may look at were looked at.
pub fn search(device: (u32, u32)) -> (Vec<Holder>, bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut namespaces: HashMap<OsString, Mountpoints> = HashMap::new();
    let mut holders: Vec<Holder> = Vec::new();
    let mut is_complete = true;
    for pid in all_processes().filter(|pid| *pid != std::process::id()) {
        if Instant::now() > deadline {
            is_complete = false;
            break;
        }
        let (files, all) = match OutOfExec::of(pid) {
            None => open_in_exec(pid, &mountpoints(pid, device)),
            Some(process) => {
                let Ok(namespace) = process.namespace("mnt") else {
                    continue;
                };
                let mountpoints = namespaces
                    .entry(namespace)
                    .or_insert_with(|| mountpoints(pid, device));
                used(pid, process, mountpoints)
            }
        };
        is_complete &= all;
        if !files.is_empty() {
            holders.push(Holder {
                pid,
                command: command(pid),
                files,
            });
        }
    }
    holders.sort_by_key(|holder| holder.pid);
    (holders, is_complete)
}

/// The descriptors of a process, each with its mount and whether it is open for writing;
/// and whether these are all.
fn descriptors(pid: u32) -> (Vec<(OsString, u64, bool)>, bool) {
    let entries = files::descriptors(pid);
    let mut entries = entries.into_iter().flatten().flatten();
    let looked_at = entries.by_ref().take(MOST_DESCRIPTORS);
    let found = looked_at.filter_map(|entry| {
        let (mount, writes) = parse_fdinfo(&fs::read(entry.path()).ok()?)?;
        Some((entry.file_name(), mount, writes))
    });
    let found = found.collect();
    (found, entries.next().is_none())
}

/// Where the process sees the mount.
fn mountpoints(pid: u32, device: (u32, u32)) -> Mountpoints {
    let mounts = mountinfo::read_of(pid).unwrap_or_default();
    let ours = mounts.into_iter().filter(|mount| mount.device == device);
    ours.map(|mount| (mount.id, mount.mountpoint)).collect()
}

fn used(pid: u32, process: OutOfExec, mountpoints: &Mountpoints) -> (Vec<Used>, bool) {
    let mut files = Vec::new();
    let mut add = |how, path: PathBuf| {
        let file = Used { how, path };
        if !files.contains(&file) {
            files.push(file);
        }
    };
    if !mountpoints.is_empty() {
        for link in ["cwd", "root", "exe"] {
            let path = process.link(link);
            let is_inside = |path: &PathBuf| mountpoints.iter().any(|(_, at)| path.starts_with(at));
            if let Some(path) = path.ok().filter(is_inside) {
                add(Use::Other, path);
            }
        }
    }
    let (descriptors, all) = match mountpoints[..] {
        // A mount that the process does not see is not searched for.
        [] => (Vec::new(), true),
        _ => descriptors(pid),
    };
    for (number, mount, writes) in descriptors {
        if mountpoints.iter().any(|(id, _)| *id == mount) {
            let link = process.descriptor(&number);
            let how = if writes { Use::Writes } else { Use::Reads };
            add(how, without_mark(fs::read_link(link).unwrap_or_default()));
        }
    }
    (files, all)
}

/// What a process in exec(2) has open. The exec may last long if another filesystem
/// hangs, and must not be waited for. So the paths cannot be read, and the mountpoint
/// stands for them.
fn open_in_exec(pid: u32, mountpoints: &Mountpoints) -> (Vec<Used>, bool) {
    let mut files = Vec::new();
    let (descriptors, all) = descriptors(pid);
    for (_, mount, writes) in descriptors {
        if let Some((_, at)) = mountpoints.iter().find(|(id, _)| *id == mount) {
            let how = if writes { Use::Writes } else { Use::Reads };
            let path = at.clone();
            files.push(Used { how, path });
        }
    }
    (files, all)
}

/// A path without the mark that the kernel appends when the name leads to another inode
/// by now. It does so for every file that is open for writing, as soon as another process
/// looks up its name.
fn without_mark(path: PathBuf) -> PathBuf {
    let bytes = path.into_os_string().into_vec();
    let name = bytes.strip_suffix(b" (deleted)").unwrap_or(&bytes);
    OsString::from_vec(name.to_vec()).into()
}

/// The mount of a descriptor, and whether it is open for writing (proc_pid_fdinfo(5)).
pub fn parse_fdinfo(info: &[u8]) -> Option<(u64, bool)> {
    let mount = field(info, "mnt_id:")?.parse().ok()?;
    let flags = i64::from_str_radix(field(info, "flags:")?, 8).ok()?;
    let is_path = flags & i64::from(libc::O_PATH) != 0;
    let writes = !is_path && flags & i64::from(libc::O_ACCMODE) != 0;
    Some((mount, writes))
}

/// The process that has an exclusive flock on a file, as far as `/proc/locks` shows it:
/// not those of other pid namespaces.
pub fn flock_owner(file: &Statx) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    parse_locks(&locks, device_in_proc(file), file.stx_ino)
}

/// The device of a file's filesystem, as the tables in `/proc` show it. On filesystems
/// that give subvolumes or layers a number of their own (btrfs, overlayfs), stat(2) shows
/// that one instead.
fn device_in_proc(file: &Statx) -> (u32, u32) {
    let mounts = mountinfo::read().unwrap_or_default();
    let mount = mounts.iter().find(|mount| mount.id == file.stx_mnt_id);
    mount.map_or(sys::device(file), |m| m.device)
}

/// Finds the exclusive flock of a file in lines as `1: FLOCK ADVISORY WRITE 4711
/// 08:01:2345 0 EOF`, the device in hexadecimal (proc_locks(5)). A program that only
/// probes a lock has it for READ.
pub fn parse_locks(locks: &str, (major, minor): (u32, u32), ino: u64) -> Option<u32> {
    let wanted = format!("{major:02x}:{minor:02x}:{ino}");
    locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_flock = fields.next()? == "FLOCK" && fields.nth(1)? == "WRITE";
        let pid = fields.next()?;
        (is_flock && fields.next()? == wanted).then(|| pid.parse().ok())?
    })
}

/// The processes that have a file of this name and inode number open, with the names of
/// their programs, as far as we may look. A file of a repository has the same number on a
/// mount, but another device.
pub fn openers(name: &str, ino: u64) -> Vec<(u32, String)> {
    let has_open = |pid: &u32| {
        let descriptors = files::descriptors(*pid);
        descriptors.into_iter().flatten().flatten().any(|entry| {
            let info = fs::read(entry.path()).unwrap_or_default();
            // Since Linux 5.14.
            let number = field(&info, "ino:").and_then(|number| number.parse().ok());
            // An `O_PATH` descriptor is not an open file: the daemon has such descriptors
            // of looked-up files.
            let flags = field(&info, "flags:").and_then(|flags| i64::from_str_radix(flags, 8).ok());
            if flags.is_none_or(|flags| flags & i64::from(libc::O_PATH) != 0) {
                return false;
            }
            if number != Some(ino) {
                return false;
            }
            OutOfExec::of(*pid).is_none_or(|process| {
                let path = fs::read_link(process.descriptor(&entry.file_name()));
                path.is_ok_and(|path| without_mark(path).ends_with(name))
            })
        })
    };
    let mut found: Vec<_> = all_processes()
        .filter(has_open)
        .map(|pid| (pid, command(pid)))
        .collect();
    found.sort_unstable();
    found
}

/// The name of a process's program.
pub fn command(pid: u32) -> String {
    let comm = files::read(pid, File::Comm).unwrap_or_default();
    String::from_utf8_lossy(&comm).trim_end().to_owned()
}

/// The processes as text: the first few, and how many more there are.
pub fn in_words(holders: &[Holder]) -> String {
    const MOST: usize = 5;
    let mut words: Vec<String> = holders
        .iter()
        .take(MOST)
        .map(|holder| {
            let path = holder.files.first().map(|file| file.path.as_path());
            let path = path.unwrap_or(Path::new(""));
            format!("{} ({}): {}", holder.pid, holder.command, path.display())
        })
        .collect();
    if holders.len() > MOST {
        words.push(format!("and {} more", holders.len() - MOST));
    }
    words.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;
    use crate::proc::files::may_be_in_exec;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};

    fn device_of(path: &Path) -> (u32, u32) {
        let device = fs::metadata(path).unwrap().dev();
        (rustix::fs::major(device), rustix::fs::minor(device))
    }

    #[test]
    fn a_process_is_found_with_what_it_uses() {
        let path = std::env::temp_dir().canonicalize().unwrap();
        let file = tempfile::NamedTempFile::new_in(&path).unwrap();
        let dir = fs::File::open(&path).unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(file.as_file().try_clone().unwrap())
            .stderr(dir)
            .spawn()
            .unwrap();
        // spawn() returns before the exec is over (exec_mmap, fs/exec.c, wakes a parent
        // in vfork(2), Linux 6.18), and paths are not read before that.
        while may_be_in_exec(child.id()) {
            std::thread::yield_now();
        }
        let holders = holders(device_of(file.path()));
        let pid = child.id();
        let own = holders.iter().find(|holder| holder.pid == pid).unwrap();
        let uses = |path: &Path| {
            let mut files = own.files.iter();
            files.find(|file| file.path == path).map(|file| file.how)
        };
        assert_eq!(uses(file.path()), Some(Use::Writes));
        assert_eq!(uses(&path), Some(Use::Reads));
        assert!(!own.command.is_empty());
        let this = std::process::id();
        assert!(holders.iter().all(|holder| holder.pid != this));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn fdinfo_is_parsed() {
        let info = b"pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t7\n";
        assert_eq!(parse_fdinfo(info), Some((29, true)));
        let path = format!("flags:\t{:o}\nmnt_id:\t29\n", libc::O_PATH | libc::O_RDWR);
        assert_eq!(parse_fdinfo(path.as_bytes()), Some((29, false)));
        for odd in [
            &b""[..],
            b"mnt_id:\tx\nflags:\t0\n",
            b"flags:\t9\nmnt_id:\t1\n",
            b"\xff",
        ] {
            assert_eq!(parse_fdinfo(odd), None);
        }
    }

    #[test]
    fn processes_with_a_file_open_or_locked_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = sys::fstat(file.as_file()).unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(file.as_file().try_clone().unwrap())
            .spawn()
            .unwrap();
        let name = file.path().file_name().unwrap().to_str().unwrap();
        let pids = || openers(name, stat.stx_ino).into_iter().map(|(pid, _)| pid);
        let own = std::process::id();
        assert!(pids().any(|pid| pid == own) && pids().any(|pid| pid == child.id()));
        assert_eq!(flock_owner(&stat), None);
        sys::try_flock(file.as_file()).unwrap();
        assert_eq!(flock_owner(&stat), Some(own));
        drop(child.stdin.take());
        child.wait().unwrap();
        let odd = "1: FLOCK\n2: -> FLOCK  ADVISORY  WRITE 7 08:01:5 0 EOF\n\
            3: POSIX  ADVISORY  WRITE 8 08:01:5 0 EOF\n4: FLOCK  ADVISORY  READ 9 08:01:5 0 EOF\n\
            5: FLOCK  ADVISORY  WRITE 6 08:01:5 0 EOF";
        assert_eq!(parse_locks(odd, (8, 1), 5), Some(6));
        assert_eq!(parse_locks(odd, (8, 1), 6), None);
    }

    #[test]
    fn many_holders_are_counted() {
        let holder = |pid| Holder {
            pid,
            command: "cat".into(),
            files: vec![Used {
                how: Use::Reads,
                path: "/mnt/x".into(),
            }],
        };
        assert_eq!(in_words(&[holder(1)]), "1 (cat): /mnt/x");
        let many: Vec<_> = (1..9).map(holder).collect();
        assert!(in_words(&many).ends_with("5 (cat): /mnt/x, and 3 more"));
    }
}
