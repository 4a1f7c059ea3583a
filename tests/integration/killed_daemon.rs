//! The daemon is killed at any system call of a save (I1, I2, I4): the old or the new
//! checkpoint is there, acknowledged saves are not lost, and a new mount works at once,
//! without any repair.

use std::collections::BTreeMap;
use std::fs;

use crate::common::observe::Strace;
use crate::common::tools::assert_next_save_works;
use crate::common::{Backing, Mount, Session, shell, times, wait_until};

on_each_filesystem!(
    invariant_4_the_daemon_killed_at_any_call_of_a_save,
    invariant_2_the_daemon_killed_at_any_time_under_load,
);

/// System calls of a thread that waits for work: killed there, the save would not have
/// begun. None of them touches the repository.
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

/// Ways of saving, by programs that look at the result of close(2); the shells themselves
/// do not.
const WAYS: [&str; 3] = [
    "printf new | dd of=session status=none",
    "printf ew | dd of=session bs=1 seek=1 conv=notrunc,fsync status=none",
    "printf new | dd of=other status=none && mv other session",
];

/// The content that each way makes of the old one.
const OLD: &str = "nld";

/// The system calls of the daemon in a save, each with the largest number of times that
/// one thread makes it.
fn calls_of(mount: &Mount, session: &Session, way: &str) -> BTreeMap<String, usize> {
    fs::write(session.file(), OLD).unwrap();
    let trace = mount.disk.beside("trace");
    let strace = Strace::attach_to_all(mount.pid(), ["-o", trace.to_str().unwrap()]);
    assert!(shell("dash", &session.on_mount, way).status.success());
    drop(strace);
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let trace = fs::read_to_string(trace).unwrap();
    for line in trace.lines() {
        // PID NAME(ARGUMENTS) = RESULT; the second line of an interrupted call has no
        // name.
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

/// One save, during which the daemon is killed when one of its threads enters the call
/// `name` for the time `number`. Returns whether it was.
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
    // If it is killed after its answer, it may take a moment to end, and answers nothing
    // in that time.
    if acknowledged && fs::metadata(session.file()).is_ok() {
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
    // A file that the saving program made.
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
        // Only some of them, except in a full run.
        for at in all.step_by(10 / times(10)) {
            cases += 1;
            // The requests of a save are shared out among threads, each time anew: the
            // one that makes this call so often may not come up at once.
            let is_killed = (0..3).any(|_| kill_at(&mut mount, &session, way, at));
            kills += usize::from(is_killed);
        }
    }
    println!("{cases} cases, killed in {kills}");
    assert!(kills * 2 > cases, "{kills} of {cases}");
}

/// Saves increasing numbers until it is refused, each in enough lines to be longer than a
/// piece, and notes the acknowledged ones.
const SAVER: &str = r"
import os, sys
number = int(sys.argv[2])
with open(sys.argv[1], 'a') as acknowledged:
    while True:
        number += 1
        try:
            fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
            os.write(fd, b'%d\n' % number * 50000)
            if number % 3 == 0: os.fsync(fd)
            os.close(fd)
        except OSError:
            sys.exit()
        acknowledged.write('%d\n' % number)
        acknowledged.flush()
";

/// The number in a whole content.
fn number_in(content: &str) -> u64 {
    let number = content.lines().next().unwrap_or("0");
    let lines = content.lines().filter(|line| *line == number).count();
    assert!(
        content.is_empty() || lines == 50000,
        "torn: {number}, {lines} times"
    );
    assert_eq!(content.lines().count(), lines, "mixed");
    number.parse().unwrap()
}

fn invariant_2_the_daemon_killed_at_any_time_under_load(backing: Backing) {
    let mut mount = Mount::new(backing);
    let sessions: Vec<_> = (0..4).map(|n| mount.session(n.to_string())).collect();
    let log = |n: usize| mount.disk.beside(&format!("acknowledged-{n}"));
    let logs: Vec<_> = (0..sessions.len()).map(log).collect();
    let acknowledged = |n: usize| {
        let log = fs::read_to_string(&logs[n]).unwrap_or_default();
        log.lines().last().map_or(0, |last| last.parse().unwrap())
    };
    let saver = mount.disk.beside("saver.py");
    fs::write(&saver, SAVER).unwrap();
    for round in 0..times(40) {
        let savers: Vec<_> = sessions
            .iter()
            .enumerate()
            .map(|(n, session)| {
                // The content may be newer than the last acknowledged one.
                let begin =
                    number_in(&fs::read_to_string(session.checkpoint()).unwrap_or_default());
                std::process::Command::new("python3")
                    .arg(&saver)
                    .arg(&logs[n])
                    .arg(begin.to_string())
                    .current_dir(&session.on_mount)
                    .spawn()
                    .unwrap()
            })
            .collect();
        let begin = acknowledged(0);
        // After a number of saves that changes.
        let enough = 1 + round as u64 * 7 % 20;
        wait_until("there are enough saves", || {
            acknowledged(0) >= begin + enough
        });
        mount.signal("KILL");
        for mut saver in savers {
            assert!(saver.wait().unwrap().success());
        }
        mount.wait();
        mount.restart(&[]);
        for (n, session) in sessions.iter().enumerate() {
            let content = fs::read_to_string(session.file()).unwrap();
            // A missing checkpoint is shown as an empty one.
            let checkpoint = fs::read_to_string(session.checkpoint()).unwrap_or_default();
            assert_eq!(content, checkpoint);
            let (there, least) = (number_in(&content), acknowledged(n));
            assert!(
                there >= least,
                "session {n}: {there}, and {least} was acknowledged"
            );
            // Nothing is in the way of the next save, and nothing is left behind.
            fs::write(session.file(), content).unwrap();
            assert_eq!(session.names(), ["session"]);
        }
    }
}
