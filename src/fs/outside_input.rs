//! What comes from `/proc`, cut and mixed up by chance: never a panic, and what
//! was written as the kernel writes it is read back.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{absence, holders, mountinfo, process};
use random::{Random as Numbers, any_seed};

#[path = "../../tests/common/random.rs"]
mod random;

/// Changed texts of each kind.
const TRIES: usize = 20_000;

const MOUNTINFO: &[u8] = b"36 35 98:0 / /mnt/a\\040b\\134c rw,noatime master:1 shared:2 - \
fuse.sessionfs /srv/\\303\\244 rw,errors=continue\n37 35 0:7 / / rw - ext4 /dev/sda rw\n";
const FDINFO: &[u8] = b"pos:\t0\nflags:\t02100002\nmnt_id:\t35\nino:\t1234\n";
const STAT: &[u8] = b"7 (a) b) S 1 7 7 0 -1 4194560 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 \
21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52\n";
const STATUS: &[u8] = b"Name:\tcat\nUmask:\t0022\nTgid:\t7\nCapEff:\t000001ffffffffff\n\
Groups:\t4 24 27 \nSigPnd:\t0000000000000100\nVmSize:\t  1 kB\n";
const LOCKS: &[u8] = b"1: FLOCK  ADVISORY  WRITE 4711 08:01:2345 0 EOF\n1: -> POSIX  READ\n";
const MAPS: &[u8] = b"7f00-7f01 r--p 00000000 08:01 2345    /usr/lib/a b\n7f02-7f03 rw-p 0 0 0\n";
const SYSCALL: &[u8] = b"257 0xffffff9c 0x7f 0xc1 0x1b6 0x0 0x0 0x7ff 0x7fe\n";

/// What changes are made of.
struct Random(Numbers);

impl Random {
    /// Its seed is printed, for who wants it again.
    fn new() -> Self {
        let seed = any_seed();
        println!("seed {seed}");
        Self(Numbers::new(seed))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0.below(limit as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        const TELLING: &[u8] = b"\0\n\t :-()\\/0379afx\xff\xc3";
        if self.below(2) == 0 {
            TELLING[self.below(TELLING.len())]
        } else {
            self.below(256) as u8
        }
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.byte()).collect()
    }

    /// A text with a few changes.
    fn changed(&mut self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(text.len() + 1);
            let end = (at + self.below(12)).min(text.len());
            match self.below(5) {
                0 => text.truncate(at),
                1 => drop(text.drain(at..end)),
                2 => drop(text.splice(at..end, self.bytes(8))),
                // A number that is too long for any type.
                3 => drop(text.splice(at..at, *b"99999999999999999999")),
                _ => {
                    let piece = text[at..end].to_vec();
                    let to = self.below(text.len() + 1);
                    drop(text.splice(to..to, piece));
                }
            }
        }
        text
    }
}

#[test]
fn nothing_in_proc_makes_a_parser_panic() {
    let mut random = Random::new();
    for _ in 0..TRIES {
        let _ = mountinfo::parse(&random.changed(MOUNTINFO));
        let _ = holders::parse_fdinfo(&random.changed(FDINFO));
        let _ = holders::mapped(&random.changed(MAPS), (8, 1));
        let _ = process::parse_stat(&random.changed(STAT));
        let status = random.changed(STATUS);
        let _ = process::parse_status(&status, "Umask:", 8);
        let _ = process::has_pending_kill(&status);
        let text = String::from_utf8_lossy(&random.changed(LOCKS)).into_owned();
        let _ = holders::parse_locks(&text, (8, 1), 2345);
        let text = String::from_utf8_lossy(&random.changed(SYSCALL)).into_owned();
        let _ = absence::parse(&text);
    }
}

/// Escaped as the kernel does (mangle_path, fs/seq_file.c).
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

#[test]
fn a_mount_of_any_name_is_read_back() {
    let mut random = Random::new();
    for _ in 0..TRIES {
        let path = [b"/", &random.bytes(30)[..]].concat();
        let source = [b"/", &random.bytes(30)[..]].concat();
        let line = [
            b"36 35 98:7 / ",
            &escaped(&path)[..],
            b" rw shared:1 - fuse.sessionfs ",
            &escaped(&source),
            b" rw\n",
        ];
        let found = mountinfo::parse(&line.concat());
        let [entry] = &found[..] else {
            panic!("{found:?} of {path:?}");
        };
        assert_eq!(entry.mountpoint.as_os_str().as_bytes(), path);
        assert_eq!(entry.source.clone().into_vec(), source);
        assert_eq!((entry.id, entry.device), (36, (98, 7)));
        assert!(entry.is_ours());
    }
}

#[test]
fn a_process_of_any_name_has_its_own_flags() {
    let mut random = Random::new();
    let tail = &STAT[STAT.iter().rposition(|byte| *byte == b')').unwrap_or(0)..];
    let expected = process::parse_stat(STAT);
    assert!(expected.is_some());
    for _ in 0..TRIES {
        let stat = [b"7 (", &random.bytes(16)[..], tail].concat();
        assert_eq!(process::parse_stat(&stat), expected, "{stat:?}");
    }
}
