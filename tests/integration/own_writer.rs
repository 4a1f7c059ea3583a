//! DESIGN 2.8, 2.12, 2.15 and 2.17: a process and a writer that it has open itself.

use std::fs;
use std::process::Command;

use crate::common::saves::{PYTHON_PAUSE, Running, Saves};
use crate::common::tools::{Helper, assert_next_save_works, assert_saved, python};
use crate::common::{Backing, Mount, Session, assert_checkpoint, is_mounted, mounted, wait_until};

on_each_filesystem!(
    rule_2_15_truncate_by_path_acts_on_its_own_writer,
    rule_2_12_a_process_finds_the_checkpoint_it_has_made_anew,
    rule_2_12_a_writer_removed_by_its_own_process_is_a_file_without_a_name,
    rule_2_12_a_writer_replaced_by_its_own_process_is_a_file_without_a_name,
    rule_2_17_descriptors_of_one_checkpoint_show_one_number,
);

/// Runs a program of Python that checks everything itself.
#[track_caller]
fn checks(session: &Session, script: &str) {
    python(&session.on_mount, &format!("import errno, os\n{script}"));
}

fn rule_2_15_truncate_by_path_acts_on_its_own_writer(backing: Backing) {
    let (_mount, session) = mounted(backing);
    // A writer that has written, one that was only opened, and one that has truncated.
    for (opened, expected) in [
        (
            "fd = os.open('session', os.O_RDWR); os.write(fd, b'OLDER')",
            "OL+",
        ),
        ("fd = os.open('session', os.O_RDWR)", "ol+"),
        (
            "fd = os.open('session', os.O_RDWR | os.O_TRUNC); os.write(fd, b'new')",
            "ne+",
        ),
    ] {
        fs::write(session.file(), "old").unwrap();
        let mut saves = Saves::of(&session);
        checks(
            &session,
            &format!(
                "{opened}
os.truncate('session', 2)
# What the kernel knows of its size, too: where it appends, and where it ends.
assert os.fstat(fd).st_size == 2 and os.lseek(fd, 0, os.SEEK_END) == 2
assert os.pread(fd, 9, 0) == b'{}'
os.truncate('session', 3)
os.truncate('session', 2)
assert open('session').read() == 'old', 'others see nothing of it'
os.write(fd, b'+')
os.close(fd)",
                &expected[..2]
            ),
        );
        assert_checkpoint(&session, expected);
        assert_eq!(saves.count(), 1, "{opened}");
    }
    // A writer that appends does so at the new end.
    fs::write(session.file(), "old").unwrap();
    checks(
        &session,
        "
fd = os.open('session', os.O_WRONLY | os.O_APPEND)
os.write(fd, b' and more')
os.truncate('session', 4)
os.write(fd, b'!')
os.close(fd)",
    );
    assert_checkpoint(&session, "old !");
    // Without a writer of its own it is a save by itself, even beside another process's
    // writer that has changed nothing.
    let script = format!("{PYTHON_PAUSE}fd = os.open('session', os.O_RDWR); pause()");
    let mut other = Running::start("python3", &session.on_mount, &script, &[]);
    other.told();
    checks(&session, "os.truncate('session', 3)");
    assert_checkpoint(&session, "old");
    other.go_on();
    other.finish();
    assert_next_save_works(&session);
}

/// bindfs truncates by path a file that it has open.
#[test]
fn rule_2_15_a_save_through_bindfs_is_saved() {
    let (mount, session) = mounted(Backing::Tmpfs);
    let bound = mount.disk.beside("bound");
    fs::create_dir(&bound).unwrap();
    let mut bindfs = Command::new("bindfs");
    let _bindfs = Helper::start(bindfs.arg("-f").arg(&mount.mountpoint).arg(&bound));
    wait_until("bindfs is mounted", || is_mounted(&bound));
    let directory = bound.join("a.session");
    python(
        &directory,
        "
import os
fd = os.open('session', os.O_RDWR)
os.write(fd, b'something longer')
os.ftruncate(fd, 9)
os.truncate('session', 4)
os.close(fd)",
    );
    // bindfs closes when it is told to, which may be a little later.
    wait_until("it is saved", || {
        fs::read_to_string(session.checkpoint()).unwrap() == "some"
    });
    assert_checkpoint(&session, "some");
}

fn rule_2_12_a_process_finds_the_checkpoint_it_has_made_anew(backing: Backing) {
    let (_mount, session) = mounted(backing);
    let mut saves = Saves::of(&session);
    let script = format!(
        "{PYTHON_PAUSE}
os.unlink('session')
assert not os.path.exists('session')
fd = os.open('session', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
os.write(fd, b'brand new')
by_path, by_descriptor = os.stat('session'), os.fstat(fd)
assert by_path.st_size == 9, by_path
assert by_path.st_ino == by_descriptor.st_ino
assert by_path.st_mode & 0o777 == 0o640
with open('session') as f: assert f.read() == 'brand new'
with open('session', 'r+') as f: f.seek(0, 2); f.write('!')
assert os.fstat(fd).st_size == 10
os.truncate('session', 5)
assert os.fstat(fd).st_size == os.stat('session').st_size == 5
pause()
reader = open('session')
os.close(fd)
with open('session') as f: assert f.read() == 'brand'
assert reader.read() == 'brand'"
    );
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    running.told();
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
    assert_checkpoint(&session, "old");
    running.go_on();
    let output = running.finish();
    assert!(output.status.success(), "{output:?}");
    assert_saved(&session, "brand");
    assert_eq!(saves.count(), 1);
    assert_next_save_works(&session);
}

/// Python: ways to have a writer open.
const OPENED: [&str; 4] = [
    "fd = os.open('session', os.O_RDWR); os.write(fd, b'mine')",
    "fd = os.open('session', os.O_RDWR | os.O_TRUNC); os.write(fd, b'mine')",
    "fd = os.open('session', os.O_RDWR); os.write(fd, b'mine'); os.fsync(fd)",
    "os.unlink('session'); fd = os.open('session', os.O_RDWR | os.O_CREAT | os.O_EXCL); os.write(fd, b'mine')",
];

/// It is written and read as before, and its close reports no error.
const WITHOUT_A_NAME: &str = "
assert os.fstat(fd).st_nlink == 0
os.write(fd, b' only')
assert os.pread(fd, 99, 0) == b'mine only', os.pread(fd, 99, 0)
os.fsync(fd)
os.ftruncate(fd, 2)
assert os.fstat(fd).st_size == 2
duplicate = os.dup(fd)
os.close(fd)
os.write(duplicate, b'!')
os.close(duplicate)";

fn rule_2_12_a_writer_removed_by_its_own_process_is_a_file_without_a_name(backing: Backing) {
    let (_mount, session) = mounted(backing);
    for opened in OPENED {
        fs::write(session.file(), "old").unwrap();
        checks(
            &session,
            &format!(
                "{opened}
os.unlink('session')
assert not os.path.exists('session')
{WITHOUT_A_NAME}
assert not os.path.exists('session')"
            ),
        );
        wait_until("it is gone", || session.names().is_empty());
        assert_next_save_works(&session);
        // The process may make another one meanwhile.
        fs::write(session.file(), "old").unwrap();
        let mut saves = Saves::of(&session);
        checks(
            &session,
            &format!(
                "{opened}
os.unlink('session')
with open('session', 'x') as f: f.write('another'); f.flush(); assert os.fstat(fd).st_nlink == 0
assert open('session').read() == 'another'
{WITHOUT_A_NAME}"
            ),
        );
        assert_saved(&session, "another");
        // The save point, and the other one.
        assert_eq!(
            saves.count(),
            1 + usize::from(opened.contains("fsync")),
            "{opened}"
        );
    }
    // A writer that has changed nothing yet.
    checks(
        &session,
        "
fd = os.open('session', os.O_RDWR)
os.unlink('session')
os.write(fd, b'A')
assert os.pread(fd, 99, 0) == b'Another'
os.close(fd)",
    );
    wait_until("it is gone", || session.names().is_empty());
    assert_next_save_works(&session);
}

fn rule_2_12_a_writer_replaced_by_its_own_process_is_a_file_without_a_name(backing: Backing) {
    let (_mount, session) = mounted(backing);
    for opened in OPENED {
        fs::write(session.file(), "old").unwrap();
        checks(
            &session,
            &format!(
                "{opened}
with open('draft', 'w') as f: f.write('the draft')
os.rename('draft', 'session')
assert open('session').read() == 'the draft'
{WITHOUT_A_NAME}
assert open('session').read() == 'the draft'"
            ),
        );
        assert_saved(&session, "the draft");
        assert_next_save_works(&session);
    }
    // If the rename fails, the writer keeps its name.
    fs::write(session.file(), "old").unwrap();
    checks(
        &session,
        "
fd = os.open('session', os.O_RDWR); os.write(fd, b'NEW')
try: os.rename('missing', 'session'); assert False
except FileNotFoundError: pass
os.mkdir('directory')
try: os.rename('directory', 'session'); assert False
except NotADirectoryError: pass
os.rmdir('directory')
assert os.fstat(fd).st_nlink == 1
os.close(fd)",
    );
    assert_saved(&session, "NEW");
}

fn rule_2_17_descriptors_of_one_checkpoint_show_one_number(backing: Backing) {
    let (_mount, session) = mounted(backing);
    let script = format!(
        "{PYTHON_PAUSE}
flags = [os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR, os.O_PATH]
descriptors = [os.open('session', each) for each in flags]
numbers = {{os.fstat(fd).st_ino for fd in descriptors}} | {{os.stat('session').st_ino}}
assert len(numbers) == 1, numbers
# Also with one that has truncated it, while nothing else is there.
descriptors.append(os.open('session', os.O_WRONLY | os.O_TRUNC))
numbers |= {{os.fstat(fd).st_ino for fd in descriptors}} | {{os.stat('session').st_ino}}
assert len(numbers) == 1, numbers
tell(numbers.pop())
pause()"
    );
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    let number = running.told();
    running.told();
    assert_eq!(
        python(
            &session.on_mount,
            "import os; print(os.stat('session').st_ino)"
        ),
        number
    );
    running.go_on();
    let output = running.finish();
    assert!(output.status.success(), "{output:?}");
}

/// As `crudini --set` does it, and all programs that guard against a file being replaced
/// between their open and their lock.
#[test]
fn rule_2_17_a_program_that_locks_reopens_and_compares_comes_to_an_end() {
    let (_mount, session) = mounted(Backing::Tmpfs);
    checks(
        &session,
        "
import fcntl
for turn in range(3):
    first = os.open('session', os.O_RDWR)
    for look in range(10):
        fcntl.lockf(first, fcntl.LOCK_EX)
        again = os.open('session', os.O_RDWR)
        if os.path.sameopenfile(first, again): break
        os.close(first)
        first = again
    else: raise SystemExit('it never ends')
    with open('session.tmp', 'w') as f: f.write('turn %d' % turn)
    os.rename('session.tmp', 'session')
    os.close(first); os.close(again)",
    );
    assert_saved(&session, "turn 2");
}

/// What another process does to the name does not concern this writer.
#[test]
fn rule_2_8_a_writer_keeps_out_processes_that_would_take_its_name() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let script =
        format!("{PYTHON_PAUSE}f = open('session', 'w'); f.write('new'); f.flush(); pause()");
    let mut writer = Running::start("python3", &session.on_mount, &script, &[]);
    writer.told();
    checks(
        &session,
        "
with open('draft', 'w') as f: f.write('the draft')
try: os.rename('draft', 'session'); assert False
except OSError as e: assert e.errno == errno.EBUSY, e
os.unlink('draft')",
    );
    writer.go_on();
    let output = writer.finish();
    assert!(output.status.success(), "{output:?}");
    assert_saved(&session, "new");
}
