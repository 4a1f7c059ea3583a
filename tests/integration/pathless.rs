//! DESIGN 2.14: opens that walk no path: of a descriptor in `/proc`, of a bind mount of
//! the single file, by a file handle.

use std::fs;

use crate::common::saves::{PYTHON_PAUSE, Running, Saves, kill};
use crate::common::tools::{assert_next_save_works, assert_saved, python};
use crate::common::{Backing, Mount, Session, wait_until};

on_each_filesystem!(
    rule_2_14_a_bound_file_is_saved_and_read_back,
    rule_2_14_a_bound_file_that_is_only_read_stays_what_it_was,
    rule_2_14_a_descriptor_is_opened_again_for_writing,
);

/// Whether the kernel reads checkpoints by itself.
const EITHER: [&[&str]; 2] = [&[], &["--no-passthrough"]];

fn mounted(backing: Backing, options: &[&str]) -> (Mount, Session) {
    let mount = Mount::with(backing, options);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    (mount, session)
}

/// Python, in a mount namespace of its own where `session` is bound to `bound`, as
/// into a container. The mount ends with the program.
fn in_container(mount: &Mount, session: &Session, script: &str) -> Running {
    let bound = mount.disk.beside("bound");
    fs::write(&bound, "").unwrap();
    let program = mount.disk.beside("program");
    let prelude = "
import errno, subprocess, sys
bound = os.environ['BOUND']
subprocess.run(['mount', '--bind', 'session', bound], check=True)
def read():
    with open(bound) as f: return f.read()
def refused(f):
    try: f(); return 'OK'
    except OSError as e: return errno.errorcode[e.errno]
";
    fs::write(&program, format!("{PYTHON_PAUSE}{prelude}{script}")).unwrap();
    let start = "exec unshare --mount --propagation private python3 \"$PROGRAM\"";
    let environment = [("BOUND", bound), ("PROGRAM", program)];
    Running::start("sh", &session.on_mount, start, &environment)
}

#[track_caller]
fn finishes(container: Running) {
    let output = container.finish();
    assert!(output.status.success(), "{output:?}");
}

#[track_caller]
fn pauses(container: &mut Running) {
    assert_eq!(container.told(), "");
}

fn rule_2_14_a_bound_file_is_saved_and_read_back(backing: Backing) {
    for options in EITHER {
        let (mount, session) = mounted(backing, options);
        let mut saves = Saves::of(&session);
        let script = "
for turn in range(3):
    with open(bound, 'w') as f: f.write('save %d' % turn)
    assert read() == 'save %d' % turn, read()
    assert os.stat(bound).st_size == 6
pause()
# Wherever the kernel takes the end for, and in pieces.
fd = os.open(bound, os.O_WRONLY | os.O_APPEND)
os.write(fd, b' and')
assert os.fstat(fd).st_size == 10
assert read() == 'save 2', 'nobody else sees it'
os.write(fd, b' more')
os.close(fd)
assert read() == 'save 2 and more', read()
fd = os.open(bound, os.O_RDWR)
assert os.read(fd, 4) == b'save'
os.write(fd, b'd')
os.lseek(fd, 0, os.SEEK_END)
os.write(fd, b'.')
os.close(fd)
assert read() == 'saved2 and more.', read()
os.truncate(bound, 6)
assert read() == 'saved2' and os.stat(bound).st_size == 6
subprocess.run(['sh', '-c', 'echo by a shell > \"$BOUND\"; echo and again >> \"$BOUND\"'], check=True)
assert read() == 'by a shell\\nand again\\n', read()
os.chmod(bound, 0o640)
assert os.stat(bound).st_mode & 0o777 == 0o640
pause()
assert read() == 'from outside', read()
with open(bound, 'a') as f: f.write(', and inside')
assert read() == 'from outside, and inside'
";
        let mut container = in_container(&mount, &session, script);
        pauses(&mut container);
        assert_saved(&session, "save 2");
        assert_eq!(saves.count(), 3);
        container.go_on();
        pauses(&mut container);
        assert_saved(&session, "by a shell\nand again\n");
        fs::write(session.file(), "from outside").unwrap();
        container.go_on();
        finishes(container);
        assert_saved(&session, "from outside, and inside");
        assert_next_save_works(&session);
    }
}

/// As on any filesystem when a save replaces a file. What is written to it still goes to
/// the session, and from then on it follows the session.
fn rule_2_14_a_bound_file_that_is_only_read_stays_what_it_was(backing: Backing) {
    let (mount, session) = mounted(backing, &[]);
    let script = "
assert read() == 'old'
pause()
for _ in range(3):
    assert read() == 'old', read()
    assert os.stat(bound).st_size == 3
tell('holds for long'); pause()
assert read() == 'old'
with open(bound, 'a') as f: f.write('+')
assert read() == 'newest+', read()
";
    let mut container = in_container(&mount, &session, script);
    pauses(&mut container);
    fs::write(session.file(), "new").unwrap();
    container.go_on();
    container.told();
    pauses(&mut container);
    // By a rename, too. The file is kept open longer than one that was only looked up.
    fs::write(session.on_mount.join("draft"), "newest").unwrap();
    fs::rename(session.on_mount.join("draft"), session.file()).unwrap();
    container.go_on();
    finishes(container);
    assert_saved(&session, "newest+");
    assert_next_save_works(&session);
}

/// Its own file is gone then, and could not be kept.
#[test]
fn rule_2_14_a_bound_file_that_is_replaced_beside_the_mount_follows_the_session() {
    let (mount, session) = mounted(Backing::Tmpfs, &[]);
    let script = "
pause()
assert read() == 'direct', read()
with open(bound, 'a') as f: f.write('+')
assert read() == 'direct+', read()
";
    let mut container = in_container(&mount, &session, script);
    pauses(&mut container);
    let draft = session.in_repository.join("draft");
    // The file that the mounting thread has looked up is kept open for some seconds.
    wait_until("nobody holds it", || {
        let held = fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
        let mut targets = held.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        !targets.any(|target| target == session.checkpoint())
    });
    fs::write(&draft, "direct").unwrap();
    fs::rename(&draft, session.checkpoint()).unwrap();
    container.go_on();
    finishes(container);
    assert_saved(&session, "direct+");
}

#[test]
fn rule_2_14_a_missing_checkpoint_that_is_bound_is_made() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    let script = "
assert read() == '' and os.stat(bound).st_size == 0
with open(bound, 'w') as f: f.write('first')
assert read() == 'first', read()
with open(bound, 'a') as f: f.write('+')
assert read() == 'first+', read()
";
    finishes(in_container(&mount, &session, script));
    assert_saved(&session, "first+");
    assert_next_save_works(&session);
}

#[test]
fn rule_2_6_a_writer_of_a_bound_file_that_is_killed_saves_nothing() {
    let (mount, session) = mounted(Backing::Tmpfs, &[]);
    let script = "
line = 'echo half >> \"$BOUND\"; kill -9 $$'
subprocess.run(['sh', '-c', 'exec >> \"$BOUND\"; echo half; kill -9 $$'])
assert read() == 'old', read()
fd = os.open(bound, os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'half')
tell(os.getpid())
pause()";
    let mut container = in_container(&mount, &session, script);
    let pid = container.told();
    assert_saved(&session, "old");
    kill("KILL", &pid);
    assert!(!container.finish().status.success());
    assert_next_save_works(&session);
    assert!(
        mount.log().matches("the save is abandoned").count() == 2,
        "{}",
        mount.log()
    );
}

/// An inode is open in one way only: while the kernel reads it by itself (passthrough),
/// the daemon cannot serve it.
#[test]
fn rule_2_14_a_reader_that_the_kernel_serves_is_in_the_way() {
    let (mount, session) = mounted(Backing::Tmpfs, &[]);
    let script = "
reader = os.open(bound, os.O_RDONLY)
for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
    assert refused(lambda: os.open(bound, flags)) == 'EBUSY'
assert refused(lambda: os.truncate(bound, 1)) == 'EBUSY'
# The thread finds everything as it was.
os.link('session', 'link'); os.unlink('link')
assert os.stat('session').st_ino == os.fstat(reader).st_ino
assert os.read(reader, 9) == b'old'
os.close(reader)
with open(bound, 'w') as f: f.write('new')
assert read() == 'new'
";
    finishes(in_container(&mount, &session, script));
    assert_saved(&session, "new");
}

fn rule_2_14_a_descriptor_is_opened_again_for_writing(backing: Backing) {
    for options in EITHER {
        let (_mount, session) = mounted(backing, options);
        let script = "
import os
def again(fd, flags): return os.open('/proc/self/fd/%d' % fd, flags)
path = os.open('session', os.O_PATH)
fd = again(path, os.O_RDWR)
assert os.read(fd, 9) == b'old'
os.write(fd, b'er')
assert os.fstat(fd).st_size == 5
os.close(fd)
assert open('session').read() == 'older'
for _ in range(2):
    # Two at a time are two descriptors of one file, as by /dev/stdout.
    first, second = again(path, os.O_WRONLY | os.O_APPEND), again(path, os.O_RDWR)
    os.write(first, b'+')
    os.pwrite(second, b'O', 0)
    os.close(second)
    os.write(first, b'+')
    os.close(first)
assert open('session').read() == 'Older++++', open('session').read()
fd = again(path, os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'new')
os.close(fd)
assert open('session').read() == 'new'
fd = again(path, os.O_RDONLY)
assert os.read(fd, 9) == b'new'
os.close(fd)
os.truncate('/proc/self/fd/%d' % path, 2)
assert open('session').read() == 'ne'
# The thread's memory heals: what it does next is as if nothing had been.
os.link('session', 'link'); os.unlink('link')
with open('session', 'w') as f: f.write('by path')
";
        python(&session.on_mount, script);
        assert_saved(&session, "by path");
        assert_next_save_works(&session);
    }
}

/// A reader's descriptor: its own content stays what it was.
#[test]
fn rule_2_14_a_readers_descriptor_is_opened_for_writing() {
    let (_mount, session) = mounted(Backing::Tmpfs, &["--no-passthrough"]);
    let script = "
import os
reader = os.open('session', os.O_RDONLY)
fd = os.open('/proc/self/fd/%d' % reader, os.O_WRONLY | os.O_APPEND)
os.write(fd, b' and more')
later = os.open('/proc/self/fd/%d' % reader, os.O_RDONLY)
os.close(fd)
assert os.pread(later, 99, 0) == b'old', 'what has been opened stays'
assert os.pread(reader, 99, 0) == b'old'
last = os.open('/proc/self/fd/%d' % reader, os.O_RDONLY)
assert os.pread(last, 99, 0) == b'old and more'
";
    python(&session.on_mount, script);
    assert_saved(&session, "old and more");
    // A passthrough reader is in the way, and nothing is left of the attempt.
    let (_mount, session) = mounted(Backing::Tmpfs, &[]);
    let script = "
import errno, os
reader = os.open('session', os.O_RDONLY)
for _ in range(3):
    try: os.open('/proc/self/fd/%d' % reader, os.O_WRONLY); raise SystemExit('granted')
    except OSError as e: assert e.errno == errno.EBUSY, e
    os.link('session', 'link'); os.unlink('link')
    os.stat('session')
assert os.pread(reader, 99, 0) == b'old'
os.close(reader)
";
    python(&session.on_mount, script);
    assert_next_save_works(&session);
}

#[test]
fn rule_2_14_a_handle_is_opened() {
    let (_mount, session) = mounted(Backing::Tmpfs, &[]);
    let script = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_uint), ('type', ctypes.c_int), ('data', ctypes.c_ubyte * 128)]
handle, mount = Handle(128), ctypes.c_int()
held = os.open('session', os.O_PATH)
assert libc.name_to_handle_at(-100, b'session', ctypes.byref(handle), ctypes.byref(mount), 0) == 0
directory = os.open('.', os.O_RDONLY)
def by_handle(flags):
    fd = libc.open_by_handle_at(directory, ctypes.byref(handle), flags)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd
fd = by_handle(os.O_RDONLY)
assert os.read(fd, 9) == b'old'
os.close(fd)
fd = by_handle(os.O_WRONLY | os.O_APPEND)
os.write(fd, b'er')
os.close(fd)
fd = by_handle(os.O_RDONLY)
assert os.read(fd, 9) == b'older'
os.close(fd)
";
    python(&session.on_mount, script);
    assert_saved(&session, "older");
    assert_next_save_works(&session);
}

/// A writer opened by the path, and one without, are two writers.
#[test]
fn rule_2_8_a_writer_without_a_path_is_one_of_all() {
    let (mount, session) = mounted(Backing::Tmpfs, &[]);
    let script = "
fd = os.open(bound, os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'bound')
pause()
os.close(fd)
pause()
assert refused(lambda: open(bound, 'w')) == 'EBUSY'
assert read() == 'bound'
";
    let mut container = in_container(&mount, &session, script);
    pauses(&mut container);
    let busy = fs::File::create(session.file()).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
    container.go_on();
    pauses(&mut container);
    assert_saved(&session, "bound");
    let writer = fs::File::create(session.file()).unwrap();
    container.go_on();
    finishes(container);
    crate::common::tools::close(writer).unwrap();
    assert_saved(&session, "");
}
