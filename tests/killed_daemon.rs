//! The daemon is killed at any system call of a save (I1, I2, I4): the old
//! checkpoint is there or the new one, what was acknowledged is not lost, and a
//! new mount works at once, without any repair.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::observe::Strace;
use common::tools::assert_next_save_works;
use common::{Backing, Mount, Session, shell, times};

on_each_filesystem!(invariant_4_the_daemon_killed_at_any_call_of_a_save);

/// Calls that a thread makes while it waits for work: it would be killed before
/// the save has begun. None of them touches the repository.
const WAITING: [&str; 8] = [
    "accept4",
    "clock_nanosleep",
    "futex",
    "poll",
    "ppoll",
    "read",
    "restart_syscall",
    "rt_sigtimedwait",
];

/// Ways of saving, by programs that look at what close(2) says, which the shells
/// themselves do not.
const WAYS: [&str; 3] = [
    "printf new | dd of=session status=none",
    "printf ew | dd of=session bs=1 seek=1 conv=notrunc,fsync status=none",
    "printf new | dd of=other status=none && mv other session",
];

/// What each way makes of what was there.
const OLD: &str = "nld";

/// The calls that the daemon makes in a save, and how often one of its threads
/// makes each at the most.
fn calls_of(mount: &Mount, session: &Session, way: &str) -> BTreeMap<String, usize> {
    fs::write(session.file(), OLD).unwrap();
    let trace = mount.disk.beside("trace");
    let strace = Strace::attach_to_all(mount.pid(), ["-o", trace.to_str().unwrap()]);
    assert!(shell("dash", &session.on_mount, way).status.success());
    drop(strace);
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let trace = fs::read_to_string(trace).unwrap();
    for line in trace.lines() {
        // PID NAME(ARGUMENTS) = RESULT; what goes on has no name.
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((name, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.chars().all(is_name) && !WAITING.contains(&name) {
            *counts.entry((pid, name)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, name), count) in counts {
        let known = most.entry(name.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}

fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// One save, with the daemon killed when one of its threads enters the call
/// `name` for the time `number`. Answers whether that happened.
fn kill_at(mount: &mut Mount, session: &Session, way: &str, (name, number): (&str, usize)) -> bool {
    let what = format!("{way}: killed at {name}, {number}");
    fs::write(session.file(), OLD).unwrap();
    let kill = format!("inject={name}:signal=KILL:when={number}");
    let trace = format!("trace={name}");
    let strace = Strace::attach_to_all(mount.pid(), ["-e", &trace, "-e", &kill]);
    let line = format!("cd {} && {way}", session.on_mount.display());
    let acknowledged = shell("dash", mount.disk.path(), &line).status.success();
    drop(strace);
    let there = fs::read_to_string(session.checkpoint()).unwrap();
    if acknowledged {
        assert_eq!(there, "new", "{what}: an acknowledged save is lost");
    } else {
        assert!(there == "new" || there == OLD, "{what}: {there:?}");
    }
    if acknowledged && !has_ended(mount.pid()) {
        return false;
    }
    mount.wait();
    let left = session.names();
    for name in &left {
        let is_known = ["session", "session.next", "other"].contains(&name.as_str());
        assert!(is_known, "{what}: {left:?}");
    }
    mount.restart(&[]);
    assert_eq!(fs::read_to_string(session.file()).unwrap(), there, "{what}");
    // Of the program's own making.
    drop(fs::remove_file(session.on_mount.join("other")));
    assert_next_save_works(session);
    true
}

fn invariant_4_the_daemon_killed_at_any_call_of_a_save(backing: Backing) {
    let mut mount = Mount::new(backing);
    let session = mount.session("a");
    let (mut cases, mut kills) = (0, 0);
    for way in WAYS {
        let calls = calls_of(&mount, &session, way);
        for needed in ["fsync", "renameat", "openat"] {
            let is_made = calls.keys().any(|name| name.starts_with(needed));
            assert!(is_made, "{way}: no {needed} in {calls:?}");
        }
        let all = calls
            .iter()
            .flat_map(|(name, count)| (1..=*count).map(move |n| (&**name, n)));
        // Some of them only, unless in full.
        for at in all.step_by(10 / times(10)) {
            cases += 1;
            kills += usize::from(kill_at(&mut mount, &session, way, at));
        }
    }
    println!("{cases} cases, killed in {kills}");
    assert!(kills * 2 > cases, "{kills} of {cases}");
}
