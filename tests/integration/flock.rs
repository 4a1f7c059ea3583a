//! flock(2) on the mount: of `session` it is a lock of the session, whatever is saved
//! meanwhile, and programs that take turns with it lose nothing (DESIGN 2.16).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::common::observe::{has_ended, is_in_call, state, threads};
use crate::common::saves::{PYTHON_PAUSE, Running, kill};
use crate::common::side_by_side::SideBySide;
use crate::common::tools::{assert_saved, output_of, python, save};
use crate::common::users::{Program, User, run_as, shared_mount, told};
use crate::common::{Backing, Mount, Session, times, wait_until};

on_each_filesystem!(
    rule_2_16_commands_under_a_lock_lose_no_update,
    rule_2_16_open_lock_read_and_write_lose_no_update,
    rule_2_16_lines_appended_under_a_lock_are_all_there,
    rule_2_16_locks_are_those_of_a_directory,
);

// Filesystems that reuse inode numbers.
mod reused {
    use super::Backing;

    #[test]
    fn rule_2_16_a_lock_of_a_session_that_is_gone_is_no_lock_of_another_one() {
        super::rule_2_16_a_lock_of_a_session_that_is_gone_is_no_lock_of_another_one(Backing::Ext4);
    }
}
on_each_filesystem!(in_full reused_on_xfs Xfs
    rule_2_16_a_lock_of_a_session_that_is_gone_is_no_lock_of_another_one
);

/// How many processes take turns.
const PROCESSES: usize = 6;

/// Runs a Python script in that many processes at once.
fn at_once(session: &Session, script: &str) {
    let running: Vec<_> = (0..PROCESSES)
        .map(|_| Running::start("python3", &session.on_mount, script, &[]))
        .collect();
    for running in running {
        let output = running.finish();
        assert!(output.status.success(), "{script}: {output:?}");
    }
}

fn rule_2_16_commands_under_a_lock_lose_no_update(backing: Backing) {
    let mount = Mount::new(backing);
    // Without a checkpoint: the first one of all makes it.
    let session = mount.session("a");
    let count = times(400);
    let line = format!(
        "for i in $(seq {count}); do
            flock session sh -c 'n=$(cat session); echo $((n+1)) > session' & done; wait"
    );
    assert_eq!(output_of(&session.on_mount, "bash", &["-c", &line]), "");
    assert_saved(&session, &format!("{count}\n"));
}

/// Python: adds one, `ROUNDS` times, in the way that `HOW` says.
const ADD: &str = "
import fcntl, os
def start():
    fd = os.open('session', os.O_RDWR)
    if 'cached' in HOW: os.read(fd, 100)
    if 'mapped' in HOW: mapped = __import__('mmap').mmap(fd, 0); assert mapped[:1]
    return fd
def add(fd):
    fcntl.flock(fd, fcntl.LOCK_EX)
    n = int(os.pread(fd, 100, 0))
    assert os.fstat(fd).st_size == len('%d' % n) + 1, n
    os.ftruncate(fd, 0)
    os.pwrite(fd, b'%d\\n' % (n + 1), 0)
    if 'synced' in HOW: os.fsync(fd)
    if 'unlocked' in HOW: fcntl.flock(fd, fcntl.LOCK_UN)
fd = start()
for _ in range(ROUNDS):
    add(fd)
    if 'kept' not in HOW:
        os.close(fd)
        fd = start()
";

fn rule_2_16_open_lock_read_and_write_lose_no_update(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let rounds = times(100);
    for how in [
        "",
        "cached",
        "mapped",
        "unlocked",
        "cached unlocked",
        "synced",
        "kept synced unlocked",
        "kept cached synced unlocked",
    ] {
        save(session.file(), "0\n").unwrap();
        at_once(
            &session,
            &format!("ROUNDS = {rounds}; HOW = '{how}'\n{ADD}"),
        );
        let expected = format!("{}\n", PROCESSES * rounds);
        let found = fs::read_to_string(session.checkpoint()).unwrap();
        assert_eq!(found, expected, "{how}");
        assert_saved(&session, &expected);
    }
}

fn rule_2_16_lines_appended_under_a_lock_are_all_there(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let rounds = times(200);
    let script = format!(
        "
import fcntl, os
for i in range({rounds}):
    with open('session', 'a') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write('%d %d\\n' % (os.getpid(), i))
"
    );
    at_once(&session, &script);
    let lines = fs::read_to_string(session.checkpoint()).unwrap();
    let mut lines: Vec<_> = lines.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), PROCESSES * rounds);
    assert!(lines.iter().all(|line| line.contains(' ')), "{lines:?}");

    // The checkpoint it was opened on was longer, or shorter.
    for content in ["short\n", &"long\n".repeat(2000)] {
        save(session.file(), "what was there\n").unwrap();
        let script = format!(
            "import fcntl, os\nf = open('session', 'a')\npause()\n\
             fcntl.flock(f, fcntl.LOCK_EX)\nassert os.fstat(f.fileno()).st_size == {}\n\
             f.write('added\\n'); f.close()",
            content.len()
        );
        let script = format!("{PYTHON_PAUSE}{script}");
        let mut running = Running::start("python3", &session.on_mount, &script, &[]);
        running.told();
        save(session.file(), content).unwrap();
        running.go_on();
        let output = running.finish();
        assert!(output.status.success(), "{output:?}");
        assert_saved(&session, &format!("{content}added\n"));
    }
}

/// Which requests for a lock are granted, of `session` and of another file.
const LOCKS: &str = "
import fcntl, signal
EX, SH, UN, NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_NB
def lock(name, fd, how): t(name, lambda: fcntl.flock(fd, how | NB))
def in_child(f):
    out, into = os.pipe()
    if os.fork() == 0:
        os.dup2(into, 1)
        f()
        sys.stdout.flush(); os._exit(0)
    os.close(into); os.wait()
    print('in a child:', os.read(out, 1000).decode())
import sys; sys.stdout.reconfigure(line_buffering=True)
with open(NAME, 'w') as f: f.write('content')
def opened(how=os.O_RDONLY): return os.open(NAME, how)
a, b, c, w = opened(), opened(), opened(), opened(os.O_RDWR)
lock('shared', a, SH); lock('shared', b, SH); lock('exclusive', w, EX); lock('shared', w, SH)
lock('to exclusive', a, EX)
# It has lost the other one with that.
fcntl.flock(b, UN); fcntl.flock(w, UN)
lock('exclusive', w, EX); lock('again', w, EX); lock('shared', a, SH)
lock('to shared', w, SH); lock('shared', a, SH); lock('exclusive', b, EX)
fcntl.flock(a, UN); fcntl.flock(w, UN); lock('unlock', w, UN)
# Of an open file, with all its duplicates.
d = os.dup(a)
lock('exclusive', a, EX); lock('by the duplicate', d, EX); os.close(d); lock('other', b, SH)
in_child(lambda: (lock('inherited', a, EX), lock('other', b, SH)))
in_child(lambda: os.close(a)); lock('closed in a child', b, SH)
in_child(lambda: lock('unlocked in a child', a, UN)); lock('then', b, SH); fcntl.flock(b, UN)
# Given back with the last descriptor.
d = opened(); fcntl.flock(d, EX); e = os.dup(d); os.close(d); lock('one left', b, SH)
os.close(e); lock('closed', b, SH); fcntl.flock(b, UN)
pid = os.fork()
if pid == 0: fcntl.flock(opened(), EX); os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED); lock('held by another', a, SH)
os.kill(pid, signal.SIGKILL); os.wait(); lock('killed', a, SH); fcntl.flock(a, UN)
# Waiting, and what passes it on: an unlock, a close, an end.
for end in lambda fd: fcntl.flock(fd, UN), os.close, lambda fd: os._exit(0):
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = opened(); fcntl.flock(fd, EX); os.write(go, b'x')
        signal.sigtimedwait([], 0.05); end(fd); signal.pause()
    os.read(ready, 1)
    lock('not at once', a, EX); t('waited', lambda: fcntl.flock(a, EX)); fcntl.flock(a, UN)
    os.kill(pid, signal.SIGKILL); os.wait()
# fcntl locks are others. Each writer of a checkpoint is a file of its own to them.
fcntl.flock(a, EX)
t('fcntl', lambda: fcntl.lockf(w, EX | NB))
def other(): fd = opened(os.O_RDWR); t('fcntl', lambda: fcntl.lockf(fd, EX | NB))
if NAME == 'file': in_child(other)
t('wrong', lambda: fcntl.flock(a, 0))
";

fn rule_2_16_locks_are_those_of_a_directory(backing: Backing) {
    let both = SideBySide::new(backing);
    for name in ["file", "session"] {
        let said = both.same(&format!("NAME = '{name}'\n{LOCKS}"));
        assert_eq!(said.matches("waited None").count(), 3, "{said}");
        assert!(
            said.contains("held by another EAGAIN\nkilled None"),
            "{said}"
        );
    }
}

/// A lock that was given back is free for the next caller with `LOCK_NB`, though the
/// kernel tells us of the last close without waiting for us.
#[test]
fn rule_2_16_the_lock_of_an_ended_process_is_free() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    save(session.file(), "x").unwrap();
    let rounds = times(3000);
    let line = format!(
        "for i in $(seq {rounds}); do flock -n session true || exit 1; done
        for i in $(seq {rounds}); do {{ flock -n 9 || exit 2; }} 9>>session; done"
    );
    output_of(&session.on_mount, "bash", &["-c", &line]);
}

/// Whatever checkpoint a descriptor is of.
#[test]
fn rule_2_16_the_lock_is_one_of_the_session() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    save(session.file(), "old").unwrap();
    let script = "
import fcntl, os, subprocess
EX, SH, NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB
def lock(fd, how):
    try: fcntl.flock(fd, how | NB); return 'free'
    except BlockingIOError: return 'held'
def write(path, content):
    with open(path, 'w') as f: f.write(content)
def new(path): write(path, 'new')
old = os.open('session', os.O_RDONLY)
reader = os.open('session', os.O_RDONLY)
fcntl.flock(old, EX)
new('session')
print('saved', lock(os.open('session', os.O_RDONLY), SH), lock(os.open('session', os.O_RDWR), SH))
new('other'); os.rename('other', 'session')
print('renamed', lock(os.open('session', os.O_RDONLY), SH))
os.rename('session', 'backup')
new('session')
print('anew', lock(os.open('session', os.O_RDONLY), SH))
print('backup', lock(os.open('backup', os.O_RDONLY), EX))
os.unlink('session')
made = os.open('session', os.O_RDWR | os.O_CREAT | os.O_EXCL)
print('made', lock(made, SH)); os.write(made, b'made'); os.close(made)
writer = os.open('session', os.O_RDWR)
subprocess.run(['sh', '-c', 'printf last > session'], check=True)
print('elsewhere', lock(os.open('../b.session/session', os.O_RDONLY), EX))
os.close(old)
# A reader has its own checkpoint to the end (2.1), a writer has the one that stands.
fcntl.flock(reader, SH); fcntl.flock(writer, SH)
print(os.read(reader, 9), os.read(writer, 9))
print(os.fstat(writer).st_ino == os.stat('session').st_ino, os.fstat(writer).st_size)
";
    let other = mount.session("b");
    save(other.file(), "other").unwrap();
    let said = python(&session.on_mount, script);
    let expected = "saved held held|renamed held|anew held|backup free|made held|\
                    elsewhere free|b'old' b'last'|True 4";
    assert_eq!(said.replace('\n', "|"), expected);
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), "last");
}

/// A writer that has changed something is not moved: it would lose its change, or one in
/// between.
#[test]
fn rule_2_9_a_writer_that_has_changed_something_is_refused_in_the_end() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    save(session.file(), "old").unwrap();
    let script = "
import fcntl, os
fd = os.open('session', os.O_RDWR)
os.write(fd, b'mine')
pause()
fcntl.flock(fd, fcntl.LOCK_EX)
print(os.pread(fd, 9, 0))
try: os.close(fd)
except OSError as e: print(e.errno)
";
    let script = format!("{PYTHON_PAUSE}{script}");
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    running.told();
    save(session.checkpoint(), "directly").unwrap();
    fs::rename(session.checkpoint(), session.in_repository.join("x")).unwrap();
    save(session.checkpoint(), "another").unwrap();
    running.go_on();
    let output = running.finish();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("b'mine'\n{}\n", libc::ESTALE));
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), "another");
}

/// No writer is moved to a checkpoint that it could not have opened.
#[test]
fn rule_13_1_a_lock_gives_no_access_to_another_users_checkpoint() {
    let mount = shared_mount(Backing::Ext4);
    let session = mount.session("a");
    fs::set_permissions(&session.in_repository, PermissionsExt::from_mode(0o777)).unwrap();
    save(session.file(), "old").unwrap();
    fs::set_permissions(session.file(), PermissionsExt::from_mode(0o666)).unwrap();
    let script = format!(
        "
import fcntl, os
os.setgroups([])
def opened():
    os.seteuid(61002)
    fd = os.open('session', os.O_RDWR)
    os.seteuid(0)
    return fd
def replace(content, mode):
    path = '{}/new'
    with open(path, 'w') as f: f.write(content)
    os.chmod(path, mode); os.chown(path, 61001, 61001)
    os.rename(path, '{}')
def lock(fd):
    os.seteuid(61002)
    fcntl.flock(fd, fcntl.LOCK_EX)
    print(os.pread(fd, 99, 0))
    os.write(fd, b'mine')
    try: os.close(fd); print('saved')
    except OSError as e: print(e.errno)
    os.seteuid(0)
fd = opened(); replace('to be read by all', 0o666); lock(fd)
fd = opened(); replace('secret', 0o600); lock(fd)
",
        session.in_repository.display(),
        session.checkpoint().display()
    );
    let said = python(&session.on_mount, &script);
    let expected = format!(
        "b'to be read by all'\nsaved\nb'minee read by all'\n{}",
        libc::ESTALE
    );
    assert_eq!(said, expected);
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), "secret");
}

/// A process that locks a session until this value is dropped.
fn holder(session: &Session) -> Running {
    let script = "import fcntl, os, signal\nfd = os.open('session', os.O_RDONLY)\n\
                  fcntl.flock(fd, fcntl.LOCK_EX)\npause()";
    let script = format!("{PYTHON_PAUSE}{script}");
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    running.told();
    running
}

fn is_waiting(pid: u32) -> bool {
    threads(pid, None)
        .iter()
        .any(|&tid| is_in_call(tid, libc::SYS_flock))
}

/// The kernel waits for our answer, whatever signal comes: fuser does not handle its
/// interrupts.
#[test]
fn rule_2_16_a_process_waiting_for_a_lock_can_be_killed() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    save(session.file(), "x").unwrap();
    let holder = holder(&session);
    let alone = "exec flock session true";
    let threads = "exec python3 -c \"
import fcntl, threading
def lock(): fcntl.flock(open('session'), fcntl.LOCK_EX)
t = [threading.Thread(target=lock) for _ in range(3)]
for one in t: one.start()
for one in t: one.join()\"";
    for command in [alone, threads] {
        for signal in ["KILL", "TERM", "INT"] {
            // Python finds a SIGINT in its first thread only, which does not wait.
            if signal == "INT" && command == threads {
                continue;
            }
            let waiter = Running::start("bash", &session.on_mount, command, &[]);
            wait_until("it waits", || is_waiting(waiter.pid));
            kill(signal, &waiter.pid.to_string());
            wait_until("it has ended", || has_ended(waiter.pid));
        }
    }
    // One that is stopped and continued, and one whose handler returns, go on waiting.
    let script = "
import fcntl, signal
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
signal.siginterrupt(signal.SIGUSR1, RESTARTS)
fcntl.flock(open('session'), fcntl.LOCK_EX)
print(len(seen) > 0)
";
    let waiters: Vec<_> = ["True", "False"]
        .map(|restarts| {
            let script = script.replace("RESTARTS", restarts);
            Running::start("python3", &session.on_mount, &script, &[])
        })
        .into();
    for waiter in &waiters {
        let pid = waiter.pid;
        wait_until("it waits", || is_waiting(pid));
        kill("USR1", &pid.to_string());
        kill("STOP", &pid.to_string());
        wait_until("it is stopped", || state(pid) == Some('T'));
        kill("CONT", &pid.to_string());
        wait_until("it waits again", || is_waiting(pid));
    }
    drop(holder);
    for waiter in waiters {
        let output = waiter.finish();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "True\n",
            "{output:?}"
        );
    }
}

/// A signal that another thread takes does not end the wait: the thread would get an
/// errno that no program knows.
#[test]
fn rule_2_16_a_signal_for_another_thread_ends_no_wait() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    save(session.file(), "x").unwrap();
    let holder = holder(&session);
    let script = "
import fcntl, os, signal, threading
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
def lock():
    fcntl.flock(open('session'), fcntl.LOCK_EX)
    print('locked')
t = threading.Thread(target=lock); t.start()
pause()
for number in range(5):
    os.kill(os.getpid(), signal.SIGUSR1)
    # Longer than it takes to be looked at.
    while len(seen) <= number or signal.sigtimedwait([], 0.25): pass
pause()
t.join()
";
    let script = format!("{PYTHON_PAUSE}{script}");
    let mut waiter = Running::start("python3", &session.on_mount, &script, &[]);
    waiter.told();
    wait_until("it waits", || is_waiting(waiter.pid));
    waiter.go_on();
    waiter.told();
    assert!(is_waiting(waiter.pid));
    drop(holder);
    waiter.go_on();
    let output = waiter.finish();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "locked\n",
        "{output:?}"
    );
}

/// As many requests wait as may, without a thread each; further ones are refused.
#[test]
fn rule_13_3_the_locks_that_one_user_waits_for_are_bounded() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    save(session.file(), "x").unwrap();
    let holder = holder(&session);
    let script = "
import errno, fcntl, os, threading
threading.stack_size(256 << 10)
told, lock = [], threading.Lock()
def wait():
    with open('session') as f:
        try: fcntl.flock(f, fcntl.LOCK_EX); said = 'got'
        except OSError as e: said = errno.errorcode[e.errno]
    with lock: told.append(said)
threads = [threading.Thread(target=wait) for _ in range(600)]
for t in threads: t.start()
while len(told) < 88: pass
pause()
for t in threads: t.join()
print(told.count('got'), told.count('ENOLCK'))
";
    let script = format!("{PYTHON_PAUSE}{script}");
    let mut waiter = Running::start("python3", &session.on_mount, &script, &[]);
    waiter.told();
    // The threads that the many opens needed are idle, and end.
    wait_until("nobody waits on a thread", || {
        threads(mount.pid(), None).len() < 40
    });
    assert_eq!(fs::read(session.file()).unwrap(), b"x");
    save(session.file(), "y").unwrap();
    drop(holder);
    waiter.go_on();
    let output = waiter.finish();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "512 88\n",
        "{output:?}"
    );
}

/// A writer that gets its lock is moved. That writes back what it has mapped, which waits
/// for the writer in the slot. Other locks must not wait for that.
#[test]
fn rule_13_4_a_mapping_that_waits_for_a_writer_holds_up_no_lock() {
    let mount = Mount::with(Backing::Here, &["--lock-wait", "600"]);
    let sessions = ["a", "b"].map(|id| mount.session(id));
    for session in &sessions {
        save(session.file(), "old").unwrap();
    }
    let holders = sessions.each_ref().map(holder);
    let mapped = "
import fcntl, mmap, os
fd = os.open('session', os.O_RDWR)
mapped = mmap.mmap(fd, 0)
mapped[:1] = b'm'
pause()
fcntl.flock(fd, fcntl.LOCK_EX)
";
    let mapped = format!("{PYTHON_PAUSE}{mapped}");
    let mut mapped = Running::start("python3", &sessions[0].on_mount, &mapped, &[]);
    mapped.told();
    let writes = "import os\nfd = os.open('session', os.O_RDWR)\nos.write(fd, b'x')\npause()";
    let writes = format!("{PYTHON_PAUSE}{writes}");
    let mut writer = Running::start("python3", &sessions[0].on_mount, &writes, &[]);
    writer.told();
    let another = sessions[0].in_repository.join("another");
    save(&another, "new").unwrap();
    fs::rename(another, sessions[0].checkpoint()).unwrap();
    mapped.go_on();
    wait_until("the first one waits", || is_waiting(mapped.pid));
    let waits = "import fcntl\nfcntl.flock(open('session'), fcntl.LOCK_EX)\nprint('locked')";
    let waiter = Running::start("python3", &sessions[1].on_mount, waits, &[]);
    wait_until("the second one waits", || is_waiting(waiter.pid));
    let [first, second] = holders;
    drop(first);
    wait_until("the mapping is written back", || {
        threads(mount.pid(), None)
            .iter()
            .any(|&tid| is_in_call(tid, libc::SYS_writev) || is_in_call(tid, libc::SYS_write))
    });
    assert!(is_waiting(mapped.pid));
    drop(second);
    let pid = waiter.pid;
    wait_until("the second one has its lock", || has_ended(pid));
    assert_eq!(waiter.finish().stdout, b"locked\n");
    assert!(is_waiting(mapped.pid));
    drop(writer);
    wait_until("the first one goes on", || has_ended(mapped.pid));
}

#[test]
fn rule_2_16_a_request_waiting_for_a_lock_does_not_delay_the_end() {
    let mut mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    save(session.file(), "x").unwrap();
    let holder = holder(&session);
    let script = "import fcntl\nfcntl.flock(open('session'), fcntl.LOCK_EX)";
    let waiter = Running::start("python3", &session.on_mount, script, &[]);
    wait_until("it waits", || is_waiting(waiter.pid));
    mount.signal("TERM");
    assert!(mount.wait().success(), "{}", mount.log());
    let output = waiter.finish();
    assert!(!output.status.success(), "{output:?}");
    drop(holder);
}

/// A process that has locked the checkpoint of a removed session, before or after the
/// directory was removed, has no lock of a session whose directory gets its number.
fn rule_2_16_a_lock_of_a_session_that_is_gone_is_no_lock_of_another_one(backing: Backing) {
    let mount = shared_mount(backing);
    let hold = "
import fcntl, os, sys
os.mkdir('bob.session')
with open('bob.session/session', 'w') as f: f.write('old')
before = open('bob.session/session')
after = open('bob.session/session')
fcntl.flock(before, fcntl.LOCK_SH)
print(os.stat('bob.session').st_ino, flush=True)
sys.stdin.readline()
fcntl.flock(after, fcntl.LOCK_SH)
print('locked', flush=True)
sys.stdin.readline()";
    let mut bob = Program::start(User::Bob, &mount.mountpoint, hold);
    let number: u64 = bob.line.parse().unwrap();
    fs::rename(
        mount.repository.join("bob.session/session"),
        mount.repository.join("kept"),
    )
    .unwrap();
    fs::remove_dir(mount.repository.join("bob.session")).unwrap();
    let new = mount.repository.join("ann.session");
    let mut others = 0;
    wait_until("another session gets the number", || {
        fs::create_dir(&new).unwrap();
        let is_reused = fs::metadata(&new).unwrap().ino() == number;
        if !is_reused {
            others += 1;
            fs::rename(&new, mount.repository.join(format!("{others}"))).unwrap();
        }
        is_reused
    });
    chown(&new, Some(61001), Some(61001)).unwrap();
    let lock = "echo new > ann.session/session && flock -n ann.session/session \
                sh -c 'cat ann.session/session; flock -n ann.session/session true || echo had'";
    let ann = || told(&run_as(User::Ann, &mount.mountpoint, lock));
    assert_eq!(ann(), "Some(0): new\nhad\n");
    bob.go_on();
    assert_eq!(bob.next_line(), "locked");
    assert_eq!(ann(), "Some(0): new\nhad\n");
    assert_eq!(bob.rest(), "");
}
