//! The end of a mount, in every way and in the middle of anything: acknowledged saves are
//! there, none is there by half, and the exit status says how it ended.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::common::slow::{save, slow_disk, wait_for_fsync};
use crate::common::tools::close;
use crate::common::users::{Program, User, shared_mount};
use crate::common::{
    Backing, Mount, SESSIONFS, assert_checkpoint, is_mounted, mounted, wait_until,
};

/// Runs a program on the mountpoint.
fn at(mount: &Mount, words: &[&str]) -> Output {
    Command::new(words[0])
        .args(&words[1..])
        .arg(&mount.mountpoint)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn assert_gone(mount: &Mount) {
    assert!(!is_mounted(&mount.mountpoint));
    assert_eq!(fs::read_dir(&mount.mountpoint).unwrap().count(), 0);
}

#[test]
fn signals_finish_the_save_in_progress_and_count_it() {
    for signal in ["TERM", "INT", "HUP"] {
        let (mut mount, session) = mounted(Backing::Here);
        let slow = slow_disk(mount.pid());
        let saving = save(&session, "new");
        wait_for_fsync(mount.pid());
        mount.signal(signal);
        assert_checkpoint(&session, "old");
        saving.join().unwrap().unwrap();
        assert_checkpoint(&session, "new");
        let status = mount.wait();
        drop(slow);
        assert_eq!(status.code(), Some(0), "{signal}: {}", mount.log());
        assert_gone(&mount);
        let log = mount.log();
        assert!(log.contains("because of SIG"), "{log}");
        assert!(log.contains("1 save(s) finished meanwhile"), "{log}");
    }
}

/// A save keeps the mount busy: an ordinary unmount is refused until it is done.
#[test]
fn an_ordinary_unmount_does_not_cut_a_save_off() {
    for unmount in [
        &[SESSIONFS, "umount"][..],
        &["umount"],
        &["fusermount3", "-u"],
    ] {
        let (mut mount, session) = mounted(Backing::Here);
        let slow = slow_disk(mount.pid());
        let saving = save(&session, "new");
        wait_for_fsync(mount.pid());
        let refused = at(&mount, unmount);
        assert!(!refused.status.success(), "{unmount:?}");
        assert!(is_mounted(&mount.mountpoint));
        saving.join().unwrap().unwrap();
        assert_checkpoint(&session, "new");
        drop(slow);
        // A program that looks at all mounts may keep it busy for a moment.
        wait_until("it is unmounted", || at(&mount, unmount).status.success());
        assert_eq!(mount.wait().code(), Some(0), "{unmount:?}");
        assert_gone(&mount);
    }
}

#[test]
fn a_lazy_unmount_finishes_the_save_in_progress() {
    for unmount in [
        &[SESSIONFS, "umount", "--lazy"][..],
        &["umount", "-l"],
        &["fusermount3", "-u", "-z"],
    ] {
        let (mut mount, session) = mounted(Backing::Here);
        let slow = slow_disk(mount.pid());
        let saving = save(&session, "new");
        wait_for_fsync(mount.pid());
        let done = at(&mount, unmount);
        assert!(done.status.success(), "{unmount:?}: {done:?}");
        assert_gone(&mount);
        saving.join().unwrap().unwrap();
        assert_checkpoint(&session, "new");
        drop(slow);
        assert_eq!(mount.wait().code(), Some(0), "{unmount:?}");
    }
}

#[test]
fn a_signal_does_not_save_what_is_not_closed_and_says_so() {
    let (mut mount, session) = mounted(Backing::Here);
    mount.may_complain = true;
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(b"not all").unwrap();
    mount.signal("TERM");
    assert_eq!(mount.wait().code(), Some(6), "{}", mount.log());
    assert!(close(writer).is_err(), "it was told that it is saved");
    assert_checkpoint(&session, "old");
    assert_gone(&mount);
    let log = mount.log();
    let own = std::process::id();
    assert!(
        log.contains("1 file(s) were still open for writing"),
        "{log}"
    );
    assert!(log.contains(&format!("in use by {own} (")), "{log}");
}

#[test]
fn a_change_waiting_for_another_writer_does_not_delay_the_end() {
    let mut mount = Mount::with(Backing::Here, &["--lock-wait", "3600"]);
    mount.may_complain = true;
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let writer = File::create(session.file()).unwrap();
    let file = session.file();
    let waiting = std::thread::spawn(move || File::create(file).map(drop));
    wait_until("the other one waits", || {
        !crate::common::observe::threads(mount.pid(), Some("worker")).is_empty()
    });
    mount.signal("TERM");
    let status = mount.wait();
    assert_eq!(status.code(), Some(6), "{}", mount.log());
    assert!(waiting.join().unwrap().is_err());
    drop(writer);
    assert_checkpoint(&session, "old");
}

/// The second signal waits neither for open writers nor for the disk.
#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut mount, session) = mounted(Backing::Here);
    mount.may_complain = true;
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(b"not all").unwrap();
    mount.signal("INT");
    wait_until("it is detached", || !is_mounted(&mount.mountpoint));
    mount.signal("INT");
    assert_eq!(mount.wait().code(), Some(6), "{}", mount.log());
    assert!(mount.log().contains("second signal"), "{}", mount.log());
    assert!(close(writer).is_err());
    assert_checkpoint(&session, "old");
    mount.restart(&[]);
    fs::write(session.file(), "new").unwrap();
    assert_checkpoint(&session, "new");
}

#[test]
fn an_idle_mount_ends_with_any_of_them() {
    let log = |mount: &Mount| mount.log();
    for unmount in [
        &[SESSIONFS, "umount"][..],
        &["umount"],
        &["fusermount3", "-u"],
        &["umount", "-l"],
    ] {
        let (mut mount, session) = mounted(Backing::Here);
        wait_until("it is unmounted", || at(&mount, unmount).status.success());
        assert_eq!(mount.wait().code(), Some(0), "{unmount:?}: {}", log(&mount));
        assert!(log(&mount).contains("0 save(s) finished meanwhile"));
        assert_checkpoint(&session, "old");
    }
}

/// Connections that send nothing do not block others.
#[test]
fn rule_13_3_silent_connections_do_not_keep_an_unmount_from_being_heard() {
    let mut mount = shared_mount(Backing::Here);
    let script = "
import os, socket, sys
device = os.stat(sys.argv[1]).st_dev
name = '\\0sessionfs/%d:%d' % (os.major(device), os.minor(device))
def connect():
    s = socket.socket(socket.AF_UNIX); s.connect(name); return s
connections = [connect() for _ in range(100)]
print('connected', flush=True)
sys.stdin.read()
";
    let mountpoint = mount.mountpoint.to_str().unwrap().to_owned();
    let silent = Program::start_with(User::Ann, "/".as_ref(), script, &[&mountpoint]);
    assert_eq!(silent.line, "connected");
    let output = at(&mount, &[SESSIONFS, "umount"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
    let log = mount.log();
    assert!(log.contains("unmounted by sessionfs umount"), "{log}");
    drop(silent);
}
