//! What a mount reports about itself: `sessionfs status`, the file in its root, the
//! service manager, and the processes that keep it from being unmounted.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::tools::{close, open_rw};
use crate::common::users::{self, User};
use crate::common::{Backing, Disk, Mount, SESSIONFS, shell, wait_until};
use serde_json::Value;

const REPORT: &str = ".sessionfs-status";

fn sessionfs(arguments: &[&str], mountpoint: &Path) -> Output {
    Command::new(SESSIONFS)
        .args(arguments)
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is reported of a mount, which the command and the file agree on.
fn report(mount: &Mount) -> Value {
    let output = sessionfs(&["status", "--json"], &mount.mountpoint);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_well = told[0]["errors"] == serde_json::json!([]);
    let expected = if is_well { 0 } else { 8 };
    assert_eq!(output.status.code(), Some(expected), "{output:?}");
    let read: Value =
        serde_json::from_slice(&fs::read(mount.mountpoint.join(REPORT)).unwrap()).unwrap();
    for key in [
        "schema",
        "version",
        "pid",
        "repository",
        "saves",
        "save_microseconds",
        "saving",
        "errors",
        "unseen_writers",
    ] {
        assert_eq!(told[0][key], read[key], "{key}");
    }
    assert_eq!(told[0]["state"], "serving");
    told[0].clone()
}

#[test]
fn saves_are_counted_by_how_they_end() {
    let mut mount = Mount::new(Backing::Small(4096));
    mount.may_complain = true;
    let (a, b) = (mount.session("a"), mount.session("b"));
    let fresh = report(&mount);
    assert_eq!(fresh["pid"], mount.pid());
    assert_eq!(fresh["repository"], mount.repository.to_str().unwrap());
    assert_eq!(
        fresh["saves"],
        serde_json::json!({"done": 0, "abandoned": 0, "failed": 0})
    );
    assert_eq!(fresh["errors"], serde_json::json!([]));

    fs::write(a.file(), "one").unwrap();
    fs::write(a.on_mount.join("new"), "two").unwrap();
    fs::rename(a.on_mount.join("new"), a.file()).unwrap();
    // A save point, and what comes after it.
    let mut writer = File::create(a.file()).unwrap();
    writer.write_all(b"three").unwrap();
    writer.sync_all().unwrap();
    writer.write_all(b"four").unwrap();
    close(writer).unwrap();
    // Nothing has been changed.
    close(open_rw(a.file()).unwrap()).unwrap();
    // By a killed program, and on a full disk.
    shell(
        "bash",
        &b.on_mount,
        "exec 3> session; echo half >&3; kill -9 $$",
    );
    let big = fs::write(a.file(), vec![1; 8 << 20]);
    assert_eq!(big.unwrap_err().raw_os_error(), Some(libc::ENOSPC));

    let told = report(&mount);
    assert_eq!(
        told["saves"],
        serde_json::json!({"done": 4, "abandoned": 1, "failed": 1})
    );
    let errors: Vec<_> = told["errors"].as_array().unwrap().iter().collect();
    let brief: Vec<_> = errors
        .iter()
        .map(|e| (&e["session"], &e["errno"]))
        .collect();
    let value = |text: &str| Value::from(text);
    assert_eq!(
        brief,
        [
            (&value("a"), &Value::from(libc::ENOSPC)),
            (&value("b"), &Value::from(libc::ECANCELED))
        ]
    );
    let micros = |key: &str| told["save_microseconds"][key].as_u64().unwrap();
    assert!(0 < micros("p50") && micros("p50") <= micros("p99") && micros("p99") <= micros("max"));

    // An error stays until the next good save of its session.
    fs::write(a.file(), "five").unwrap();
    let told = report(&mount);
    assert_eq!(told["errors"].as_array().unwrap().len(), 1);
    assert_eq!(told["errors"][0]["session"], "b");
    let lines = text(&sessionfs(&["status"], &mount.mountpoint).stdout);
    assert!(lines.contains("5 saved, 1 abandoned, 1 failed"), "{lines}");
    assert!(lines.contains("b: not saved at 20"), "{lines}");
    assert!(lines.contains("Z: Operation canceled\n"), "{lines}");
}

#[test]
fn readers_and_writers_are_shown_with_their_processes() {
    let mount = Mount::new(Backing::Here);
    let (a, b) = (mount.session("a"), mount.session("b"));
    fs::write(b.file(), "old").unwrap();
    let mut writer = File::create(a.file()).unwrap();
    writer.write_all(b"not yet").unwrap();
    let reader = File::open(b.file()).unwrap();
    // Another process looks it up: the kernel then shows the writer's name as deleted.
    fs::metadata(a.file()).unwrap();

    let own = std::process::id();
    let told = report(&mount);
    assert_eq!(
        told["saving"],
        serde_json::json!([{"session": "a", "pid": own}])
    );
    assert_eq!(told["unsaved_writers"], 1);
    let processes = told["processes"].as_array().unwrap();
    let process = processes.iter().find(|p| p["pid"] == own).unwrap();
    for (path, how) in [(a.file(), "writes"), (b.file(), "reads")] {
        let file = serde_json::json!({"path": path.to_str().unwrap(), "how": how});
        let files = process["files"].as_array().unwrap();
        assert!(files.contains(&file), "{file}: {files:?}");
    }
    let lines = text(&sessionfs(&["status"], &mount.mountpoint).stdout);
    assert!(
        lines.contains(&format!("a: being saved by {own}")),
        "{lines}"
    );
    close(writer).unwrap();
    drop(reader);
    assert_eq!(report(&mount)["saving"], serde_json::json!([]));
}

/// A page that is still mapped when the file is closed is written and saved when it is
/// unmapped, and no call reports an error of that.
const SAVED_AT_RELEASE: &str = r#"
import ctypes, os, sys
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
f = os.open('session', os.O_RDWR)
at = c.mmap(None, 3, 3, 1, f, 0)
os.close(f)
ctypes.memmove(at, b'new', 3)
open(sys.argv[1], 'x')
sys.exit(c.munmap(at, 3))
"#;

#[test]
fn an_error_found_only_at_release_is_reported_until_the_next_good_save() {
    let mut mount = Mount::new(Backing::Here);
    mount.may_complain = true;
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let lock = session.in_repository.join("session.next");
    let writer = Command::new("python3")
        .args(["-c", SAVED_AT_RELEASE])
        .arg(&lock)
        .current_dir(&session.on_mount)
        .output()
        .unwrap();
    // None of its calls has failed.
    assert!(writer.status.success(), "{writer:?}");
    let mut told = Value::Null;
    wait_until("the error is told", || {
        told = report(&mount);
        told["errors"] != serde_json::json!([])
    });
    assert_eq!(told["errors"][0]["session"], "a");
    assert_eq!(told["errors"][0]["errno"], libc::EBUSY);
    assert_eq!(told["saves"]["failed"], 1);
    let log = mount.log();
    assert!(
        log.contains("error: a.session: the save was lost after its last close"),
        "{log}"
    );
    assert_eq!(fs::read(session.checkpoint()).unwrap(), b"old");
    // Neither another session's save nor one that fails clears it.
    fs::write(mount.session("b").file(), "other").unwrap();
    assert!(fs::File::create(session.file()).and_then(close).is_err());
    let lines = text(&sessionfs(&["status"], &mount.mountpoint).stdout);
    assert!(lines.contains("a: not saved at 20"), "{lines}");
    fs::remove_file(lock).unwrap();
    fs::write(session.file(), "new").unwrap();
    assert_eq!(report(&mount)["errors"], serde_json::json!([]));
}

/// Tools that walk the tree do not meet the report, and it cannot be changed.
#[test]
fn the_report_can_be_read_by_its_name() {
    let mount = Mount::with(Backing::Here, &["--allow-other"]);
    mount.session("a");
    let outer = mount.disk.beside(".");
    for dir in [&outer, &mount.disk.path().to_owned(), &mount.repository] {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let told = users::told(&users::run_as(
        User::Root,
        &mount.mountpoint,
        "ls -aU; find . ; du -a . > /dev/null; cp -a . ../copy && ls -A ../copy; diff -r . ../copy",
    ));
    assert_eq!(
        told,
        "Some(0): .\n..\na.session\n.\n./a.session\n./a.session/session\na.session\n"
    );
    let changes = "(echo > F; rm F; touch F; mv F x.session; ln F a.session/f; mkdir F; chmod 666 F
        setfattr -n user.x F; truncate -s 0 F; rmdir F; rm -rf F) 2> /dev/null; stat -c '%A %s' F";
    let changes = changes.replace('F', REPORT);
    let told = users::told(&users::run_as(User::Root, &mount.mountpoint, &changes));
    assert_eq!(told, "Some(0): -r-------- 0\n");
    let other = users::run_as(User::Cid, &mount.mountpoint, &format!("cat {REPORT}"));
    assert!(
        users::told(&other).contains("Permission denied"),
        "{other:?}"
    );
    // Read in pieces it is still one report.
    let mut pieces = String::new();
    let mut file = File::open(mount.mountpoint.join(REPORT)).unwrap();
    let mut piece = [0; 7];
    while let n @ 1.. = std::io::Read::read(&mut file, &mut piece).unwrap() {
        pieces.push_str(str::from_utf8(&piece[..n]).unwrap());
    }
    let whole: Value = serde_json::from_str(&pieces).unwrap();
    assert_eq!(whole["pid"], mount.pid());
}

#[test]
fn a_dead_or_hanging_daemon_is_reported_as_such() {
    let mut mount = Mount::new(Backing::Here);
    mount.signal("STOP");
    let output = sessionfs(&["status"], &mount.mountpoint);
    assert!(
        text(&output.stdout).contains("does not answer"),
        "{output:?}"
    );
    mount.signal("CONT");
    mount.signal("KILL");
    mount.wait();
    let output = sessionfs(&["status"], &mount.mountpoint);
    assert!(text(&output.stdout).contains("is dead"), "{output:?}");
    let output = sessionfs(&["status", "--json"], &mount.mountpoint);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["state"], "dead");
    mount.restart(&[]);
    assert_eq!(report(&mount)["pid"], mount.pid());
}

#[test]
fn only_a_mount_has_a_status() {
    let disk = Disk::new(Backing::Here);
    for path in [disk.path().to_owned(), disk.beside("missing")] {
        let output = sessionfs(&["status"], &path);
        assert_eq!(output.status.code(), Some(3));
        let said = text(&output.stderr);
        assert!(
            said.contains("not a mount of sessionfs") && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn a_refused_unmount_names_the_processes_that_use_the_mount() {
    let mut mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    let mut children = Vec::new();
    for command in [
        "cd a.session; exec sleep 1000",
        "exec sleep 1000 < a.session/session",
    ] {
        let mut shell = Command::new("dash");
        shell.args(["-c", command]).current_dir(&mount.mountpoint);
        children.push(shell.spawn().unwrap());
    }
    let said = || text(&sessionfs(&["umount"], &mount.mountpoint).stderr);
    wait_until("both are named", || {
        let said = said();
        assert_eq!(said.lines().count(), 1, "{said}");
        children
            .iter()
            .all(|child| said.contains(&format!("{} (sleep): ", child.id())))
    });
    let said = said();
    assert!(said.contains("--lazy"), "{said}");
    assert!(said.contains(session.on_mount.to_str().unwrap()), "{said}");
    let status = sessionfs(&["umount"], &mount.mountpoint).status;
    assert_eq!(status.code(), Some(6));
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(sessionfs(&["umount"], &mount.mountpoint).status.success());
    assert!(mount.wait().success());
}

/// The daemon as a service: sd_notify(3) and the watchdog.
#[test]
fn a_service_manager_is_notified_of_the_state_of_the_mount() {
    let disk = Disk::new(Backing::Here);
    let socket = disk.beside("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let next = || {
        let mut message = [0; 4096];
        let n = manager.recv(&mut message).unwrap();
        text(&message[..n])
    };
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    let starter = [
        "env",
        &format!("NOTIFY_SOCKET={}", socket.display()),
        "WATCHDOG_USEC=40000",
    ];
    let mut mount = Mount::started_by(&starter, disk, repository, &[]);
    let ready = next();
    assert!(ready.starts_with("READY=1\nSTATUS=Serving /"), "{ready}");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1\n");
    }
    mount.signal("TERM");
    let mut last = next();
    while last == "WATCHDOG=1\n" {
        last = next();
    }
    assert!(last.starts_with("STOPPING=1\nSTATUS="), "{last}");
    assert!(mount.wait().success());
}
