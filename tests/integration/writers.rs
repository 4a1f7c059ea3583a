//! Two writers of one checkpoint: the slot and the lock (DESIGN 2.8, I3, I4).

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::saves::{PYTHON_PAUSE, Running};
use crate::common::tools::{
    Helper, assert_next_save_works, assert_saved, close, errno, hold_at_linkat, open_rw, python,
    sessionfs,
};
use crate::common::{Backing, Disk, Mount, Session, is_mounted, wait_until};

on_each_filesystem!(
    rule_2_8_a_second_writer_that_truncates_is_busy_at_open,
    rule_2_8_a_second_writer_that_does_not_truncate_is_busy_at_its_first_change,
    rule_2_8_lock_wait_lets_the_second_writer_wait,
    rule_2_8_lock_wait_ends_after_its_time,
    rule_2_8_a_foreign_lock_refuses_every_kind_of_save,
    rule_2_8_a_broken_lock_refuses_nothing,
    rule_2_10_a_thread_that_was_refused_finds_the_checkpoint_again,
    rule_2_3_an_error_at_another_process_is_reported_to_the_opener_too,
    invariant_4_a_dead_lock_is_removed_by_the_next_save,
    invariant_4_a_lock_of_a_living_owner_is_not_taken_for_dead,
    invariant_3_a_writer_whose_lock_was_broken_publishes_nothing,
    invariant_3_a_writer_whose_lock_was_replaced_publishes_nothing,
);

/// A mount with one session whose checkpoint says "old".
fn mounted(backing: Backing, options: &[&str]) -> (Mount, Session) {
    let mount = Mount::with(backing, options);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    (mount, session)
}

fn rule_2_8_a_second_writer_that_truncates_is_busy_at_open(backing: Backing) {
    let (_mount, session) = mounted(backing, &[]);
    let opens: [fn(PathBuf) -> std::io::Result<fs::File>; 2] = [fs::File::create, open_rw];
    for open in opens {
        let mut first = open(session.file()).unwrap();
        first.write_all(b"first").unwrap();
        assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
        first.write_all(b" goes on").unwrap();
        close(first).unwrap();
        // By the thread that was refused: it finds the checkpoint again.
        assert_saved(&session, "first goes on");
        assert_next_save_works(&session);
    }
}

fn rule_2_8_a_second_writer_that_does_not_truncate_is_busy_at_its_first_change(backing: Backing) {
    let (_mount, session) = mounted(backing, &[]);
    let mut first = fs::File::create(session.file()).unwrap();
    first.write_all(b"first").unwrap();
    for change in [
        |file: &fs::File| file.write_all_at(b"second", 0),
        |file: &fs::File| file.set_len(1),
    ] {
        let second = open_rw(session.file()).unwrap();
        assert_eq!(errno(change(&second)), libc::EBUSY);
        // A save that lost a piece must not be made, even if the rest would work.
        assert_eq!(errno(close(second)), libc::EBUSY);
    }
    // A writer that changes nothing does not count.
    close(open_rw(session.file()).unwrap()).unwrap();
    first.write_all(b" goes on").unwrap();
    close(first).unwrap();
    assert_saved(&session, "first goes on");
    assert_next_save_works(&session);
}

/// Waits until a thread of this process sleeps in the kernel, in one of these
/// system calls.
fn wait_until_it_waits(tid: &AtomicU32, calls: &[libc::c_long]) {
    wait_until("the second writer waits", || {
        let tid = tid.load(Ordering::SeqCst);
        let call = fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).unwrap_or_default();
        let number = call.split(' ').next().and_then(|n| n.parse().ok());
        number.is_some_and(|number| calls.contains(&number))
    });
}

/// Another process that has truncated the checkpoint and written "first". It closes when
/// it is told to go on.
fn first_writer(session: &Session) -> Running {
    let program = format!(
        "{PYTHON_PAUSE}
f = open('session', 'w')
f.write('first'); f.flush(); pause(); f.close()"
    );
    let mut writer = Running::start("python3", &session.on_mount, &program, &[]);
    writer.told();
    writer
}

#[track_caller]
fn closes(mut writer: Running) {
    writer.go_on();
    let output = writer.finish();
    assert!(output.status.success(), "{output:?}");
}

fn rule_2_8_lock_wait_lets_the_second_writer_wait(backing: Backing) {
    let (_mount, session) = mounted(backing, &["--lock-wait", "60"]);
    for (round, truncates) in [true, false].into_iter().enumerate() {
        // Not by O_TRUNC: then the second writer's base would be the old checkpoint.
        let first = first_writer(&session);
        let waiter = AtomicU32::new(0);
        let is_free = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let tid = rustix::thread::gettid().as_raw_nonzero().get();
                let mut file = if truncates {
                    waiter.store(tid.unsigned_abs(), Ordering::SeqCst);
                    fs::File::create(session.file()).unwrap()
                } else {
                    let file = open_rw(session.file()).unwrap();
                    waiter.store(tid.unsigned_abs(), Ordering::SeqCst);
                    file
                };
                let written = file.write_all(format!("second {round}").as_bytes());
                assert!(is_free.load(Ordering::SeqCst), "it did not wait");
                written.unwrap();
                close(file)
            });
            wait_until_it_waits(
                &waiter,
                &[libc::SYS_openat, libc::SYS_open, libc::SYS_write],
            );
            is_free.store(true, Ordering::SeqCst);
            closes(first);
            let closed = second.join().unwrap();
            if truncates {
                closed.unwrap();
                assert_saved(&session, "second 0");
            } else {
                // It started from the checkpoint that the first one has replaced.
                assert_eq!(errno(closed), libc::ESTALE);
                assert_saved(&session, "first");
            }
        });
    }
    // A foreign lock is waited for as well.
    let next = session.in_repository.join("session.next");
    fs::write(&next, "foreign").unwrap();
    let waiter = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            waiter.store(tid.unsigned_abs(), Ordering::SeqCst);
            let result = fs::write(session.file(), "after the foreign one");
            (result, next.exists())
        });
        wait_until_it_waits(&waiter, &[libc::SYS_openat, libc::SYS_open]);
        fs::remove_file(&next).unwrap();
        let (result, was_locked) = second.join().unwrap();
        result.unwrap();
        assert!(!was_locked);
    });
    assert_saved(&session, "after the foreign one");
}

/// As many changes wait as may; further ones are refused at once.
#[test]
fn rule_13_3_the_changes_of_one_user_that_wait_for_a_writer_are_bounded() {
    let (_mount, session) = mounted(Backing::Here, &["--lock-wait", "600"]);
    let writer = first_writer(&session);
    let script = "
import errno, os, threading
threading.stack_size(256 << 10)
told, lock = [], threading.Lock()
def write():
    fd = os.open('session', os.O_RDWR)
    try: os.write(fd, b'x'); said = 'got'
    except OSError as e: said = errno.errorcode[e.errno]
    with lock: told.append(said)
threads = [threading.Thread(target=write) for _ in range(600)]
for t in threads: t.start()
while len(told) < 472: pass
print(len(told), *set(told), flush=True)
pause()
for t in threads: t.join()
print(len(told))
";
    let script = format!("{PYTHON_PAUSE}{script}");
    let mut waiters = Running::start("python3", &session.on_mount, &script, &[]);
    waiters.told();
    closes(writer);
    waiters.go_on();
    let output = waiters.finish();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "472 EBUSY\n600\n",
        "{output:?}"
    );
}

fn rule_2_8_lock_wait_ends_after_its_time(backing: Backing) {
    let (_mount, session) = mounted(backing, &["--lock-wait", "0.2"]);
    let first = first_writer(&session);
    let start = Instant::now();
    assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let start = Instant::now();
    let second = open_rw(session.file()).unwrap();
    assert_eq!(errno(second.write_all_at(b"x", 0)), libc::EBUSY);
    assert!(start.elapsed() >= Duration::from_millis(200));
    drop(second);
    closes(first);
    assert_saved(&session, "first");
    let next = session.in_repository.join("session.next");
    fs::write(&next, "foreign").unwrap();
    let start = Instant::now();
    assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
    assert!(start.elapsed() >= Duration::from_millis(200));
    fs::remove_file(next).unwrap();
    assert_next_save_works(&session);
}

/// Tries every kind of save; all are refused and change nothing.
#[track_caller]
fn assert_locked(session: &Session) {
    let next = session.in_repository.join("session.next");
    let lock = fs::read(&next).unwrap();
    let inode = session.inode();
    assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
    let writer = open_rw(session.file()).unwrap();
    assert_eq!(errno(writer.write_all_at(b"x", 0)), libc::EBUSY);
    assert_eq!(errno(close(writer)), libc::EBUSY);
    let writer = open_rw(session.file()).unwrap();
    assert_eq!(errno(writer.set_len(0)), libc::EBUSY);
    drop(writer);
    let truncated = python(
        &session.on_mount,
        "import os\ntry: os.truncate('session', 1)\nexcept OSError as e: print(e.errno)",
    );
    assert_eq!(truncated, libc::EBUSY.to_string());
    let other = session.on_mount.join("other");
    fs::write(&other, "by rename").unwrap();
    assert_eq!(errno(fs::rename(&other, session.file())), libc::EBUSY);
    fs::remove_file(&other).unwrap();
    assert_eq!(errno(fs::remove_file(session.file())), libc::EBUSY);
    assert_eq!(session.inode(), inode);
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), "old");
    assert_eq!(fs::read(&next).unwrap(), lock);
    assert_eq!(session.names(), ["session", "session.next"]);
}

fn rule_2_8_a_foreign_lock_refuses_every_kind_of_save(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    fs::write(session.in_repository.join("session.next"), "foreign").unwrap();
    assert_locked(&session);
    let saved = sessionfs(&mount.repository, "save", ["a"]);
    assert_eq!(saved.status.code(), Some(4), "{saved:?}");
    // Readers are not concerned.
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
}

fn rule_2_8_a_broken_lock_refuses_nothing(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    let next = session.in_repository.join("session.next");
    fs::write(&next, "foreign").unwrap();
    assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
    fs::remove_file(session.on_mount.join("session.next")).unwrap();
    assert_next_save_works(&session);
    fs::write(&next, "foreign").unwrap();
    assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
    let broken = sessionfs(&mount.repository, "break-lock", ["a"]);
    assert!(broken.status.success(), "{broken:?}");
    assert_next_save_works(&session);
}

fn rule_2_10_a_thread_that_was_refused_finds_the_checkpoint_again(backing: Backing) {
    let (_mount, session) = mounted(backing, &[]);
    for refused in ["os.truncate('session', 1)", "open('session', 'w')"] {
        let program = format!(
            "import os, sys
os.chdir('{repository}')
open('session.next', 'w').close()
os.chdir('{mount}')
try: {refused}
except OSError as e: print(e.errno)
os.chdir('{repository}')
os.unlink('session.next')
with open('other', 'w') as f: f.write('direct')
os.rename('other', 'session')
print(open('{mount}/session').read())",
            repository = session.in_repository.display(),
            mount = session.on_mount.display(),
        );
        let expected = format!("{}\ndirect", libc::EBUSY);
        assert_eq!(python(&session.on_mount, &program), expected, "{refused}");
        fs::write(session.file(), "old").unwrap();
    }
}

struct GoesOn<'a>(&'a Mount);

impl Drop for GoesOn<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}

/// A child that has a copy of the descriptor closes it just before the opener does, like
/// a child that is starting a program. Both closes are waiting when the daemon looks, and
/// the opener has closed by then.
fn rule_2_3_an_error_at_another_process_is_reported_to_the_opener_too(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    let program = format!(
        "import os, signal, threading, time
daemon, lock = {pid}, '{lock}'
def until(condition):
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            os.kill(daemon, signal.SIGCONT)
            os._exit(1)
def is_stopped():
    tasks = '/proc/%d/task' % daemon
    return all(' T ' in open('%s/%s/stat' % (tasks, task)).read() for task in os.listdir(tasks))
def closes(task, fd):
    with open('/proc/%s/syscall' % task) as f: return f.read().split()[:2] == ['3', hex(fd)]
def go_on(fd):
    until(lambda: closes('self/task/%d' % os.getpid(), fd))
    os.kill(daemon, signal.SIGCONT)
told = set()
for i in range({rounds}):
    fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b'new')
    r, w = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(w)
        os.read(r, 1)
        try: os.close(fd)
        except OSError: pass
        os._exit(0)
    os.close(r)
    os.kill(daemon, signal.SIGSTOP)
    until(is_stopped)
    open(lock, 'w').close()
    os.close(w)
    until(lambda: closes(child, fd))
    thread = threading.Thread(target=go_on, args=(fd,))
    thread.start()
    try: os.close(fd); told.add(0)
    except OSError as e: told.add(e.errno)
    thread.join()
    os.waitpid(child, 0)
    os.unlink(lock)
print(told)",
        pid = mount.pid(),
        lock = session.in_repository.join("session.next").display(),
        rounds = 10,
    );
    // Whatever happens, the daemon must be continued.
    let _goes_on = GoesOn(&mount);
    let told = python(&session.on_mount, &program);
    assert_eq!(told, format!("{{{}}}", libc::EBUSY));
    assert_saved(&session, "old");
    assert_next_save_works(&session);
}

/// A `session.next` with our mark, as a crash would leave it.
fn marked_lock(session: &Session) -> fs::File {
    let next = session.in_repository.join("session.next");
    let file = fs::File::create(next).unwrap();
    let mark = "user.sessionfs.staged";
    rustix::fs::fsetxattr(&file, mark, b"", rustix::fs::XattrFlags::empty()).unwrap();
    (&file).write_all(b"unacknowledged").unwrap();
    file
}

fn invariant_4_a_dead_lock_is_removed_by_the_next_save(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    let warnings = || mount.log().matches("sessionfs: warning: ").count();
    drop(marked_lock(&session));
    assert_next_save_works(&session);
    assert_eq!(warnings(), 1, "{}", mount.log());
    assert!(mount.log().contains("a.session"), "{}", mount.log());
    drop(marked_lock(&session));
    let writer = open_rw(session.file()).unwrap();
    writer.write_all_at(b"THE", 0).unwrap();
    close(writer).unwrap();
    assert_saved(&session, "THE next");
    drop(marked_lock(&session));
    let other = session.on_mount.join("other");
    fs::write(&other, "by rename").unwrap();
    fs::rename(&other, session.file()).unwrap();
    assert_saved(&session, "by rename");
    assert_eq!(warnings(), 3, "{}", mount.log());
}

fn invariant_4_a_lock_of_a_living_owner_is_not_taken_for_dead(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    let lock = marked_lock(&session);
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_locked(&session);
    assert!(!mount.log().contains("removing"), "{}", mount.log());
    drop(lock);
    // A child that is being started may have it open a moment longer.
    wait_until("the lock is dead", || {
        fs::write(session.file(), "saved").is_ok()
    });
    assert_saved(&session, "saved");
}

/// A writer that is stopped between the link of `session.next` and the rename, while
/// `meddle` does something to it; returns the result of its close.
///
/// It is a process of its own. Programs that other tests start have copies of what this
/// process has open, and close them at their exec while the writer is stopped: they would
/// wait for it, and it for them.
fn meddle_with_a_commit(mount: &Mount, session: &Session, meddle: impl FnOnce()) -> i32 {
    let program = format!(
        "{PYTHON_PAUSE}
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'new')
pause()
try: os.close(fd); tell(0)
except OSError as e: tell(e.errno)"
    );
    let mut writer = Running::start("python3", &session.on_mount, &program, &[]);
    writer.told();
    let held = hold_at_linkat(mount.pid());
    writer.go_on();
    let next = session.in_repository.join("session.next");
    wait_until("session.next is there", || next.exists());
    assert_eq!(fs::read_to_string(&next).unwrap(), "new");
    meddle();
    drop(held);
    let told = writer.told();
    writer.finish();
    told.parse().unwrap()
}

fn invariant_3_a_writer_whose_lock_was_broken_publishes_nothing(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    let inode = session.inode();
    let on_mount = session.on_mount.join("session.next");
    let by_rm = || fs::remove_file(&on_mount).unwrap();
    let by_command = || {
        let broken = sessionfs(&mount.repository, "break-lock", ["--force", "a"]);
        assert!(broken.status.success(), "{broken:?}");
    };
    let breaks: [&dyn Fn(); 2] = [&by_rm, &by_command];
    for break_lock in breaks {
        let error = meddle_with_a_commit(&mount, &session, break_lock);
        assert_eq!(error, libc::ECANCELED);
        assert_saved(&session, "old");
        assert_eq!(session.inode(), inode);
    }
    assert_next_save_works(&session);
}

fn invariant_3_a_writer_whose_lock_was_replaced_publishes_nothing(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    let inode = session.inode();
    let next = session.in_repository.join("session.next");
    let error = meddle_with_a_commit(&mount, &session, || {
        fs::remove_file(&next).unwrap();
        fs::write(&next, "foreign").unwrap();
    });
    assert_eq!(error, libc::ECANCELED);
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
    assert_eq!(session.inode(), inode);
    assert_eq!(fs::read_to_string(&next).unwrap(), "foreign");
    assert_eq!(session.names(), ["session", "session.next"]);
    fs::remove_file(&next).unwrap();
    assert_next_save_works(&session);
}

/// A directory seen through a filesystem that has no `O_TMPFILE`.
struct Bound {
    path: PathBuf,
    _disk: Disk,
}

impl Bound {
    fn new() -> (Self, Helper) {
        let disk = Disk::new(Backing::Here);
        let path = disk.beside("bound");
        fs::create_dir(&path).unwrap();
        let mut bindfs = Command::new("bindfs");
        let bindfs = Helper::start(bindfs.arg("-f").arg(disk.path()).arg(&path));
        wait_until("bindfs is mounted", || is_mounted(&path));
        let tmpfile = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
        let opened = rustix::fs::open(&path, tmpfile, rustix::fs::Mode::RUSR);
        assert!(opened.is_err(), "bindfs has learnt O_TMPFILE");
        (Self { path, _disk: disk }, bindfs)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Normally it has ended by itself before.
        if is_mounted(&self.path) {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

#[test]
fn invariant_3_without_o_tmpfile_the_lock_stands_for_the_whole_write() {
    let (bound, _bindfs) = Bound::new();
    let repository = bound.path.join("repository");
    fs::create_dir(&repository).unwrap();
    let mount = Mount::of(Disk::new(Backing::Here), repository, &[]);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    assert_saved(&session, "old");
    let next = session.in_repository.join("session.next");
    let inode = session.inode();

    // A second writer, and one that gives up.
    let mut writer = fs::File::create(session.file()).unwrap();
    writer.write_all(b"new").unwrap();
    assert!(next.exists());
    assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
    let saved = sessionfs(&mount.repository, "save", ["a"]);
    assert_eq!(saved.status.code(), Some(4), "{saved:?}");
    fs::remove_file(session.on_mount.join("session.next")).unwrap();
    writer.write_all(b" and more").unwrap();
    assert_eq!(errno(close(writer)), libc::ECANCELED);
    assert_saved(&session, "old");
    assert_eq!(session.inode(), inode);

    // Broken, and replaced by a foreign one.
    let mut writer = fs::File::create(session.file()).unwrap();
    writer.write_all(b"new").unwrap();
    fs::remove_file(&next).unwrap();
    fs::write(&next, "foreign").unwrap();
    assert_eq!(errno(close(writer)), libc::ECANCELED);
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
    assert_eq!(fs::read_to_string(&next).unwrap(), "foreign");
    assert_eq!(session.names(), ["session", "session.next"]);
    assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
    let broken = sessionfs(&mount.repository, "break-lock", ["a"]);
    assert!(broken.status.success(), "{broken:?}");
    assert_next_save_works(&session);
}
