//! Tests with any text as the content of files in `/proc`: no parser panics, each agrees
//! with a simpler one, and what is written as the kernel writes it is read back.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{files as proc_files, holders, kin, mountinfo, status, syscall};

/// `/proc/PID/mountinfo`: any text, and a mount of any name.
pub fn mountinfo(input: &[u8]) {
    let found = parse_mountinfo(input);
    let expected: Vec<_> = input
        .split(|&b| b == b'\n')
        .filter_map(plain_mount)
        .collect();
    assert_eq!(found, expected);
    // No path has a NUL in it.
    let (path, source) = cut(input);
    let line = [
        b"36 35 98:7 / ",
        &escaped(path)[..],
        b" rw shared:1 - fuse.sessionfs ",
        &escaped(source),
        b" rw\n",
    ];
    let found = parse_mountinfo(&line.concat());
    let [mount] = &found[..] else {
        unreachable!("{found:?} of {path:?}");
    };
    assert_eq!(mount.mountpoint.as_os_str().as_bytes(), path);
    assert_eq!(mount.source.clone().into_vec(), source);
    assert_eq!((mount.id, mount.device), (36, (98, 7)));
    assert!(mount.is_ours());
}

/// Calls the parser; with a defect in it, if `scripts/fuzz --teeth` asks for one.
fn parse_mountinfo(text: &[u8]) -> Vec<mountinfo::Mount> {
    #[cfg_attr(not(fuzzing), expect(unused_mut, reason = "there is no defect"))]
    let mut found = mountinfo::parse(text);
    #[cfg(fuzzing)]
    if crate::sys::defect::has(crate::sys::defect::Defect::FoundByComparing) {
        // Twelve bytes, which random changes alone do not find.
        found.retain(|mount| mount.source != "q7;Zx%0~Kw!d");
    }
    found
}

/// A simpler parser of a line of mountinfo.
fn plain_mount(line: &[u8]) -> Option<mountinfo::Mount> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let text = |n: usize| str::from_utf8(fields.get(n).copied()?).ok();
    let (major, minor) = text(2)?.split_once(':')?;
    // After the options of the mount.
    let end = (5..fields.len()).find(|&n| fields[n] == b"-")?;
    let name = |n: usize| Some(unescaped(fields.get(n)?));
    Some(mountinfo::Mount {
        id: text(0)?.parse().ok()?,
        parent: text(1)?.parse().ok()?,
        device: (major.parse().ok()?, minor.parse().ok()?),
        mountpoint: name(4)?.into(),
        kind: name(end + 1)?,
        source: name(end + 2)?,
        owner: fields
            .get(end + 3)
            .and_then(|options| mountinfo::owner(options)),
    })
}

/// Escapes a path as the kernel does (mangle_path, fs/seq_file.c).
fn escaped(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in path {
        if b" \t\n\\#".contains(&byte) {
            text.extend(format!("\\{byte:03o}").bytes());
        } else {
            text.push(byte);
        }
    }
    text
}

fn unescaped(text: &[u8]) -> OsString {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 4).filter(|_| text[at] == b'\\');
        // from_str_radix would accept a sign.
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                at += 4;
            }
            None => {
                bytes.push(text[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// What is before the first NUL, and what is between that and the next one.
fn cut(input: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = input.split(|&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    (part(), part())
}

/// The fields of `/proc/PID/status` that are asked for.
const FIELDS: [&str; 8] = [
    "CapEff:", "Groups:", "SigPnd:", "Tgid:", "Threads:", "Umask:", "VmExe:", "VmSize:",
];

/// What follows the name in `/proc/PID/status` and in `/proc/PID/stat`.
const STATUS: &[u8] = b"\nUmask:\t0022\nTgid:\t7\nGroups:\t4 24 27 \nVmSize:\t  1 kB\n\
SigPnd:\t0000000000000100\nCapEff:\t000001ffffffffff\n";
const STAT: &[u8] = b") S 1 7 7 0 -1 4194560 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 \
21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52\n";

/// `status`, `stat`, `statm`, `children` and `syscall` of `/proc/PID`: any text,
/// and a process of any name.
pub fn process(input: &[u8]) {
    for name in FIELDS {
        let value = plain_field(input, name);
        assert_eq!(status::field(input, name), value.as_deref(), "{name}");
        for radix in [8, 10] {
            let number = value.as_deref().map(|v| u32::from_str_radix(v, radix).ok());
            assert_eq!(status::parse_status(input, name, radix), number.flatten());
        }
    }
    let set = |name| u64::from_str_radix(&plain_field(input, name)?, 16).ok();
    let has = |name, bit: u32| set(name).is_some_and(|set| set & 1 << bit != 0);
    assert_eq!(status::has_pending_kill(input), has("SigPnd:", 8));
    assert_eq!(status::has_fsetid(input), has("CapEff:", 4));
    let groups = plain_field(input, "Groups:").unwrap_or_default();
    let groups: Vec<u32> = groups
        .split_ascii_whitespace()
        .flat_map(str::parse)
        .collect();
    assert_eq!(status::parse_groups(input), groups);

    let parsed = status::parse_stat(input).map(|stat| (stat.flags, stat.exit_code));
    assert_eq!(parsed, plain_stat(input));
    let text = String::from_utf8_lossy(input);
    if let Some((number, arguments)) = syscall::parse(&text) {
        let rendered = arguments.map(|argument| format!(" {argument:#x}")).concat();
        let again = syscall::parse(&format!("{number}{rendered} 0x7ff 0x7fe\n"));
        assert_eq!(again, Some((number, arguments)));
    }
    let words = text.split(' ').filter_map(|word| word.parse::<u32>().ok());
    assert!(kin::parse_children(input).eq(words), "{text:?}");
    if let Some((size, code)) = proc_files::parse_statm(input) {
        let line = format!("{size} 1 1 {code} 0 1 0\n");
        assert_eq!(proc_files::parse_statm(line.as_bytes()), Some((size, code)));
    }

    // TASK_COMM_LEN
    let name = cut(input).0;
    let name = &name[..name.len().min(15)];
    // As proc_task_name writes it (fs/proc/array.c).
    let line = name.iter().flat_map(|&byte| match byte {
        b'\n' => b"\\n".to_vec(),
        b'\\' => b"\\\\".to_vec(),
        byte => vec![byte],
    });
    let status: Vec<u8> = b"Name:\t"
        .iter()
        .copied()
        .chain(line)
        .chain(STATUS.to_vec())
        .collect();
    for field in FIELDS {
        assert_eq!(status::field(&status, field), status::field(STATUS, field));
    }
    assert_eq!(status::parse_groups(&status), [4, 24, 27]);
    assert!(status::has_pending_kill(&status) && status::has_fsetid(&status));
    let stat = [b"7 (", name, STAT].concat();
    let expected = status::Stat {
        flags: 4_194_560,
        exit_code: 47,
    };
    assert_eq!(status::parse_stat(&stat), Some(expected), "{stat:?}");
}

/// A simpler parser of a field: what follows a name at the beginning of a line.
fn plain_field(text: &[u8], name: &str) -> Option<String> {
    let text = [b"\n", text].concat();
    let name = format!("\n{name}");
    let found = text
        .windows(name.len())
        .position(|part| part == name.as_bytes())?;
    let value = &text[found + name.len()..];
    let end = value.iter().position(|&byte| byte == b'\n');
    let value = str::from_utf8(&value[..end.unwrap_or(value.len())]).ok()?;
    Some(value.trim().to_owned())
}

fn plain_stat(text: &[u8]) -> Option<(u64, u64)> {
    let tail = text.rsplit(|&byte| byte == b')').next()?;
    let tail = str::from_utf8(tail).ok().filter(|_| text.contains(&b')'))?;
    let mut fields = tail.split_ascii_whitespace();
    // The first of these is the third field of the file.
    let flags = fields.nth(6)?.parse().ok()?;
    let exit_code = fields.nth(42)?.parse().ok()?;
    Some((flags, exit_code))
}

/// `fdinfo` of `/proc/PID` and `/proc/locks`: any text, and any numbers in one.
pub fn files(input: &[u8]) {
    let number = |at: usize| {
        let bytes = input
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    fdinfo(input, number(0), number(8));
    locks(input, number(0), number(8));
}

fn fdinfo(input: &[u8], mount: u64, flags: u64) {
    let plain = || {
        let mount = plain_field(input, "mnt_id:")?.parse().ok()?;
        let flags = i64::from_str_radix(&plain_field(input, "flags:")?, 8).ok()?;
        Some((mount, flags & 0o3 != 0 && flags & 0o10_000_000 == 0))
    };
    assert_eq!(holders::parse_fdinfo(input), plain());
    // As many bits as the kernel's f_flags has.
    let flags = flags & u64::from(u32::MAX);
    let text = format!("pos:\t0\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t5\n");
    let (found, writes) = holders::parse_fdinfo(text.as_bytes()).unwrap_or_default();
    assert_eq!(found, mount);
    let is_path = flags & 0o10_000_000 != 0;
    assert_eq!(writes, flags & 0o3 != 0 && !is_path);
}

fn locks(input: &[u8], ino: u64, pid: u64) {
    let text = String::from_utf8_lossy(input);
    let plain = text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, "08:01:2345", ..] = words[..] else {
            return None;
        };
        pid.parse().ok()
    });
    assert_eq!(holders::parse_locks(&text, (8, 1), 2345), plain);
    let (major, minor, pid) = (ino as u32 & 0xfff, pid as u32 & 0xf_ffff, pid as u32);
    let line = format!("1: FLOCK  ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{ino} 0 EOF\n");
    assert_eq!(holders::parse_locks(&line, (major, minor), ino), Some(pid));
    assert_eq!(holders::parse_locks(&line, (major, minor), !ino), None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changed::{TRIES, try_changed};

    #[test]
    fn a_table_of_mounts_is_read_as_it_was_written() {
        try_changed("mountinfo", TRIES, mountinfo);
    }

    #[test]
    fn a_process_of_any_name_is_read_as_it_was_written() {
        try_changed("process", TRIES, process);
    }

    #[test]
    fn open_and_locked_files_are_read_as_they_were_written() {
        try_changed("files", TRIES, files);
    }
}
