//! DESIGN 2.8, with many processes at once: which of them are refused, which wait, which
//! never wait, and which can be killed while they wait.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::saves::{PYTHON_PAUSE, Running, Saves, kill};
use crate::common::tools::{
    assert_next_save_works, assert_saved, close, errno, open_rw, output_of, python,
};
use crate::common::{Backing, Disk, Mount, SESSIONFS, Session, wait_until};

on_each_filesystem!(
    rule_2_8_sixty_at_once_get_0_or_ebusy,
    rule_2_8_with_lock_wait_all_of_sixty_are_saved,
    rule_2_8_a_crowd_that_removes_and_makes_anew_meets_no_other_error,
    rule_2_9_a_writer_that_only_appends_starts_from_the_checkpoint_of_its_turn,
);

/// `--lock-wait` where no process must wait that long.
const LONG: &str = "600";

/// Much less than that, and enough for a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn mounted(backing: Backing, options: &[&str]) -> (Mount, Session) {
    let mount = Mount::with(backing, options);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    (mount, session)
}

/// Python: `crowd(size, rounds, do)` lets this many processes do something at once, and
/// prints how often each result came.
const CROWD: &str = "
import collections, errno, os
def crowd(size, rounds, do):
    (results, told), (start, go) = os.pipe(), os.pipe()
    for number in range(size):
        if os.fork() == 0:
            os.close(go)
            os.read(start, 1)
            for turn in range(rounds):
                try: do(number, turn); said = 'OK'
                except OSError as e: said = errno.errorcode[e.errno]
                os.write(told, (said + '\\n').encode())
            os._exit(0)
    os.close(told)
    os.close(go)
    said = collections.Counter(open(results).read().split())
    for _ in range(size): assert os.wait()[1] == 0
    for what in sorted(said): print(what, said[what])
def save(number, turn):
    # Every other one as a shell opens it.
    flags = os.O_WRONLY | os.O_TRUNC | (os.O_CREAT if number % 2 else 0)
    fd = os.open('session', flags, 0o644)
    try: os.write(fd, b'%d %d' % (number, turn))
    finally: os.close(fd)
";

/// The results of a crowd, and how often each came.
fn crowd(session: &Session, script: &str) -> Vec<(String, usize)> {
    let printed = python(&session.on_mount, &format!("{CROWD}{script}"));
    let lines = printed.lines().map(|line| {
        let (what, count) = line.split_once(' ').unwrap();
        (what.to_owned(), count.parse().unwrap())
    });
    lines.collect()
}

fn rule_2_8_sixty_at_once_get_0_or_ebusy(backing: Backing) {
    let (_mount, session) = mounted(backing, &[]);
    let mut saves = Saves::of(&session);
    let told = crowd(&session, "crowd(60, 5, save)");
    let saved = match &told[..] {
        [(busy, _), (ok, saved)] if busy == "EBUSY" && ok == "OK" => *saved,
        // On a machine that is busy with other tests they may come one by one.
        [(ok, saved)] if ok == "OK" => *saved,
        _ => panic!("{told:?}"),
    };
    assert_eq!(saves.count(), saved);
    assert_next_save_works(&session);
}

fn rule_2_8_with_lock_wait_all_of_sixty_are_saved(backing: Backing) {
    let (_mount, session) = mounted(backing, &["--lock-wait", LONG]);
    let mut saves = Saves::of(&session);
    let told = crowd(&session, "crowd(60, 2, save)");
    assert_eq!(told, [("OK".to_owned(), 120)]);
    assert_eq!(saves.count(), 120);
    assert_next_save_works(&session);
}

/// It may have been opened long ago: what it writes does not depend on the content.
fn rule_2_9_a_writer_that_only_appends_starts_from_the_checkpoint_of_its_turn(backing: Backing) {
    let (_mount, session) = mounted(backing, &["--lock-wait", LONG]);
    let script = "
def append(number, turn):
    line = '%d %d\\n' % (number, turn)
    fd = os.open('session', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try: os.write(fd, line[:2].encode()); os.write(fd, line[2:].encode())
    finally: os.close(fd)
crowd(30, 3, append)";
    assert_eq!(crowd(&session, script), [("OK".to_owned(), 90)]);
    let content = fs::read_to_string(session.checkpoint()).unwrap();
    let lines: BTreeSet<&str> = content.strip_prefix("old").unwrap().lines().collect();
    assert_eq!(lines.len(), 90, "{content}");
    // A writer that also reads may have read an old checkpoint (rule 2.9).
    let changes = [
        ("os.O_WRONLY | os.O_APPEND", "0", "newer+"),
        ("os.O_RDWR | os.O_APPEND", "116", "newer"),
        ("os.O_WRONLY", "116", "newer"),
    ];
    for (flags, told, content) in changes {
        fs::write(session.file(), "the old one").unwrap();
        let script = format!(
            "{PYTHON_PAUSE}
fd = os.open('session', {flags})
pause()
os.write(fd, b'+')
assert os.fstat(fd).st_size == {len}, os.fstat(fd)
try: os.close(fd); tell(0)
except OSError as e: tell(e.errno)",
            len = match flags.contains("APPEND") {
                true if told == "0" => 6,
                true => 12,
                false => 11,
            },
        );
        let mut writer = Running::start("python3", &session.on_mount, &script, &[]);
        writer.told();
        fs::write(session.file(), "newer").unwrap();
        writer.go_on();
        let said = writer.told();
        writer.finish();
        // ESTALE has other numbers elsewhere.
        let stale = libc::ESTALE.to_string();
        assert_eq!(said, told.replace("116", &stale), "{flags}");
        assert_saved(&session, content);
    }
    assert_next_save_works(&session);
}

/// Some find no `session`, but others have made one before they make theirs.
fn rule_2_8_a_crowd_that_removes_and_makes_anew_meets_no_other_error(backing: Backing) {
    let (_mount, session) = mounted(backing, &[]);
    let script = "
def remake(number, turn):
    if number % 3:
        try: os.unlink('session')
        except FileNotFoundError: pass
    # With O_CREAT.
    save(2 * number + 1, turn)
crowd(30, 5, remake)";
    let told = crowd(&session, script);
    let told: BTreeSet<&str> = told.iter().map(|(what, _)| &**what).collect();
    // ESTALE is for a writer that started from a removed checkpoint (rule 2.9), which
    // none of these did.
    assert!(told.is_subset(&BTreeSet::from(["OK", "EBUSY"])), "{told:?}");
    assert!(told.contains("OK"), "{told:?}");
    assert_next_save_works(&session);
}

/// Another process that has truncated the checkpoint and goes on when it is told to.
fn holder(session: &Session) -> Running {
    let script = format!("{PYTHON_PAUSE}f = open('session', 'w'); pause(); f.write('held')");
    let mut holder = Running::start("python3", &session.on_mount, &script, &[]);
    holder.told();
    holder
}

fn finishes(mut holder: Running) {
    holder.go_on();
    let output = holder.finish();
    assert!(output.status.success(), "{output:?}");
}

/// Waits until a process sleeps in a system call that the daemon is to answer.
fn wait_until_it_waits(pid: u32, calls: &[libc::c_long]) {
    wait_until("the second writer waits", || {
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        let number = call.split(' ').next().and_then(|n| n.parse().ok());
        number.is_some_and(|number| calls.contains(&number))
    });
}

#[test]
fn rule_2_8_a_writer_that_waits_can_be_killed() {
    let (_mount, session) = mounted(Backing::Tmpfs, &["--lock-wait", LONG]);
    let next = session.in_repository.join("session.next");
    let waiters = [
        "open('session', 'w')",
        "os.write(os.open('session', os.O_RDWR), b'x')",
        "os.truncate('session', 1)",
    ];
    for is_foreign in [false, true] {
        let first = if is_foreign {
            fs::write(&next, "foreign").unwrap();
            None
        } else {
            Some(holder(&session))
        };
        for (waiter, signal) in waiters.into_iter().zip(["KILL", "TERM", "KILL"]) {
            let script = format!("{PYTHON_PAUSE}tell()\n{waiter}");
            let mut second = Running::start("python3", &session.on_mount, &script, &[]);
            second.told();
            let calls = [libc::SYS_openat, libc::SYS_write, libc::SYS_truncate];
            wait_until_it_waits(second.pid, &calls);
            let start = Instant::now();
            kill(signal, &second.pid.to_string());
            let output = second.finish();
            assert!(start.elapsed() < SOON, "{waiter}");
            assert_eq!(output.status.code(), None, "{waiter}: {output:?}");
        }
        match first {
            Some(first) => {
                finishes(first);
                assert_saved(&session, "held");
            }
            None => fs::remove_file(&next).unwrap(),
        }
        assert_next_save_works(&session);
    }
}

/// A signal that the program handles does not make its write fail.
#[test]
fn rule_2_8_a_writer_that_waits_is_interrupted_by_a_signal() {
    let (_mount, session) = mounted(Backing::Tmpfs, &["--lock-wait", LONG]);
    let first = holder(&session);
    let script = format!(
        "{PYTHON_PAUSE}
import signal
class Rings(Exception): pass
def ring(*_): raise Rings
signal.signal(signal.SIGALRM, ring)
fd = os.open('session', os.O_RDWR)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try: os.write(fd, b'x'); tell('written')
except Rings: tell('rang')
os.close(fd)
pause()
fd = os.open('session', os.O_RDWR); os.write(fd, b'y'); os.close(fd)"
    );
    let mut second = Running::start("python3", &session.on_mount, &script, &[]);
    assert_eq!(second.told(), "rang");
    second.told();
    finishes(first);
    assert_saved(&session, "held");
    finishes(second);
    assert_saved(&session, "yeld");
}

/// Requests during which the kernel locks the session's directory: if one waited, nobody
/// could use the session, nor read it.
#[test]
fn rule_2_8_requests_that_lock_a_directory_never_wait() {
    let (_mount, session) = mounted(Backing::Tmpfs, &["--lock-wait", LONG]);
    let other = session.on_mount.join("other");
    fs::write(&other, "other").unwrap();
    let first = holder(&session);
    let start = Instant::now();
    let busy = |what: &str| {
        let script = format!(
            "import os, errno
try: {what}; print('OK')
except OSError as e: print(errno.errorcode[e.errno])"
        );
        let told = python(&session.on_mount, &script);
        assert_eq!(told, "EBUSY", "{what}");
    };
    assert_eq!(errno(fs::rename(&other, session.file())), libc::EBUSY);
    // The process that removed it finds nothing, and makes it anew.
    busy("os.unlink('session'); os.close(os.open('session', os.O_CREAT | os.O_WRONLY))");
    busy("os.unlink('session'); os.mknod('session')");
    busy("os.unlink('session'); os.link('other', 'session')");
    assert!(start.elapsed() < SOON);
    finishes(first);
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), "held");

    // The same with a left-over `session.next`.
    let next = session.in_repository.join("session.next");
    fs::write(&next, "foreign").unwrap();
    let start = Instant::now();
    busy("os.unlink('session')");
    busy("os.rename('other', 'session')");
    fs::remove_file(session.checkpoint()).unwrap();
    busy("os.close(os.open('session', os.O_CREAT | os.O_EXCL | os.O_WRONLY))");
    busy("os.link('other', 'session')");
    busy("os.mknod('session')");
    assert!(start.elapsed() < SOON);
    fs::remove_file(&next).unwrap();
    fs::remove_file(&other).unwrap();
    assert_next_save_works(&session);
}

/// Another mount of the same repository.
fn second_mount(first: &Mount, session: &Session) -> (Mount, Session) {
    let mount = Mount::of(Disk::new(Backing::Here), first.repository.clone(), &[]);
    let same = Session {
        on_mount: mount.mountpoint.join("a.session"),
        in_repository: session.in_repository.clone(),
    };
    (mount, same)
}

#[test]
fn rule_2_8_a_second_mount_says_so_and_so_does_status() {
    let (first, session) = mounted(Backing::Tmpfs, &[]);
    assert!(!first.log().contains("also mounted"), "{}", first.log());
    let (second, _) = second_mount(&first, &session);
    let path = |mount: &Mount| mount.mountpoint.display().to_string();
    wait_until("it says so", || {
        let said = format!("is also mounted on {}", path(&first));
        second.log().contains(&said)
    });
    for (mount, other) in [(&first, &second), (&second, &first)] {
        let status = |arguments: &[&str]| {
            let at = path(mount);
            let arguments = [&["status", &at], arguments].concat();
            output_of(&mount.mountpoint, SESSIONFS, &arguments)
        };
        let said = status(&[]);
        assert!(
            said.contains(&format!("also mounted on {}", path(other))),
            "{said}"
        );
        let told: serde_json::Value = serde_json::from_str(&status(&["--json"])).unwrap();
        assert_eq!(told[0]["also_mounted"], serde_json::json!([path(other)]));
    }
    drop(second);
    let alone = output_of(&first.mountpoint, SESSIONFS, &["status", &path(&first)]);
    assert!(!alone.contains("also mounted"), "{alone}");
}

/// Between two mounts, and between a mount and a command, the first save wins, not the
/// first writer.
#[test]
fn rule_2_9_two_mounts_and_a_command_beside_a_writer() {
    let (mount, session) = mounted(Backing::Tmpfs, &[]);
    let (_second, same) = second_mount(&mount, &session);
    let by_command = |content: &str| {
        let line = format!("printf %s '{content}' | \"$SAVE\" save -r \"$REPOSITORY\" a");
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        command
            .env("SAVE", SESSIONFS)
            .env("REPOSITORY", &mount.repository);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let by_mount = |content: &str| fs::write(same.file(), content).unwrap();
    let others: [&dyn Fn(&str); 2] = [&by_command, &by_mount];
    for other in others {
        // One that began with the old content finds that it was replaced.
        fs::write(session.file(), "old").unwrap();
        let writer = open_rw(session.file()).unwrap();
        writer.write_all_at(b"O", 0).unwrap();
        other("newer");
        assert_eq!(errno(close(writer)), libc::ESTALE);
        assert_saved(&session, "newer");
        // One that truncates replaces whatever is there.
        let mut writer = fs::File::create(session.file()).unwrap();
        writer.write_all(b"mine").unwrap();
        other("newer still");
        assert_eq!(fs::read_to_string(session.file()).unwrap(), "newer still");
        close(writer).unwrap();
        assert_saved(&session, "mine");
        assert_saved(&same, "mine");
    }
    assert_next_save_works(&session);
    assert_next_save_works(&same);
}

/// Runs a program on the session, which must end by itself.
fn ends(session: &Session, program: &str, script: &str) -> String {
    let start = Instant::now();
    let printed = output_of(&session.on_mount, program, &["-c", script]);
    assert!(start.elapsed() < SOON, "it waited");
    printed
}

#[test]
fn rule_2_8_a_program_does_not_wait_for_itself() {
    let (_mount, session) = mounted(Backing::Tmpfs, &["--lock-wait", LONG]);
    let script = "
import errno, os
def told(f):
    try: f(); return 'OK'
    except OSError as e: return errno.errorcode[e.errno]
first = open('session', 'w'); first.write('first'); first.flush()
print(told(lambda: open('session', 'w')))
second = os.open('session', os.O_RDWR)
print(told(lambda: os.write(second, b'second')), told(lambda: os.close(second)))
first.close()";
    assert_eq!(ends(&session, "python3", script), "EBUSY\nEBUSY EBUSY");
    assert_saved(&session, "first");
    assert_next_save_works(&session);
}

/// Four threads of one process write, one after the other and at once.
#[test]
fn rule_2_8_parallel_appends_of_one_program_come_to_an_end() {
    let (_mount, session) = mounted(Backing::Tmpfs, &["--lock-wait", LONG]);
    let script = "
const fs = require('fs').promises
const appends = Array.from({ length: 20 }, (_, n) => fs.appendFile('session', '+'))
Promise.allSettled(appends).then(all => {
  const codes = all.map(one => one.reason ? one.reason.code : 'OK')
  console.log([...new Set(codes)].sort().join())
  console.log(codes.filter(code => code === 'OK').length)
})";
    let start = Instant::now();
    let printed = output_of(&session.on_mount, "node", &["-e", script]);
    assert!(start.elapsed() < SOON, "it waited");
    let (codes, count) = printed.split_once('\n').unwrap();
    let codes: BTreeSet<&str> = codes.split(',').collect();
    let expected = BTreeSet::from(["EBUSY", "OK"]);
    assert!(
        codes.is_subset(&expected) && codes.contains("OK"),
        "{codes:?}"
    );
    let content = fs::read_to_string(session.file()).unwrap();
    let saved = "+".repeat(count.parse().unwrap());
    assert_eq!(content, format!("old{saved}"));
    assert_next_save_works(&session);
}

/// timeout(1) has written nothing itself: its close must not get an error for the killed
/// command.
#[test]
fn rule_2_6_a_program_that_is_timed_out_saves_nothing_and_timeout_says_so() {
    let (_mount, session) = mounted(Backing::Tmpfs, &[]);
    let line = "timeout -s TERM .3 sh -c 'echo half; exec sleep 600' > session";
    let output = crate::common::shell("sh", &session.on_mount, line);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_saved(&session, "old");
    assert_next_save_works(&session);
}
