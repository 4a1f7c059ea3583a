//! What the commands show of sessions: `list` and `break-lock`, beside a mount and
//! without one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::common::storage::leave_dead;
use crate::common::tools::{assert_next_save_works, close, hold_at_linkat, output_of};
use crate::common::{Backing, Disk, Mount, SESSIONFS, times};
use serde_json::{Value, json};

fn sessionfs(repository: &Path, arguments: &[&str]) -> Output {
    let (command, rest) = arguments.split_first().unwrap();
    Command::new(SESSIONFS)
        .args([command, "-r"])
        .arg(repository)
        .args(rest)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn listed(repository: &Path) -> Vec<Value> {
    let output = sessionfs(repository, &["list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list.as_array().unwrap().clone()
}

/// What is listed of one session.
fn about(repository: &Path, id: &str) -> Value {
    let mut list = listed(repository).into_iter();
    list.find(|session| session["id"] == id).unwrap()
}

/// Sets the time of the last change of a file or directory.
fn age(path: &Path, seconds: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_long_list_has_size_age_and_state_youngest_first() {
    let disk = Disk::new(Backing::Here);
    let repository = disk.path();
    let make = |id: &[u8], content: Option<&str>| {
        let dir = repository.join(OsStr::from_bytes(&[id, b".session"].concat()));
        fs::create_dir(&dir).unwrap();
        if let Some(content) = content {
            fs::write(dir.join("session"), content).unwrap();
            age(&dir.join("session"), 7300);
        }
        dir
    };
    let locked = make(b"locked", Some("four"));
    fs::write(locked.join("session.next"), "").unwrap();
    age(&locked.join("session.next"), 200);
    let odd = make(b"odd", None);
    fs::create_dir(odd.join("session")).unwrap();
    let bytes = make(b"\xff\n", Some("12"));
    let empty = make(b"empty", None);
    let clean = make(b"clean", Some("123456789"));
    for (place, dir) in [&clean, &empty, &bytes, &odd, &locked].iter().enumerate() {
        age(dir, 10 * place as u64);
    }
    let output = sessionfs(repository, &["list", "--long"]);
    assert_eq!(
        text(&output.stdout),
        "9  2 h  clean             clean\n\
         -    -  empty             empty\n\
         2  2 h  clean             \u{fffd}\\n\n\
         -    -  no regular file   odd\n\
         4  2 h  locked for 3 min  locked\n"
    );
    let list = listed(repository);
    let brief: Vec<_> = list
        .iter()
        .map(|s| (&s["id"], &s["size"], &s["state"]))
        .collect();
    let expected = [
        (json!("clean"), json!(9), json!("clean")),
        (json!("empty"), json!(null), json!("empty")),
        (json!("\u{fffd}\n"), json!(2), json!("clean")),
        (json!("odd"), json!(null), json!("no regular file")),
        (json!("locked"), json!(4), json!("locked")),
    ];
    let expected: Vec<_> = expected.iter().map(|(a, b, c)| (a, b, c)).collect();
    assert_eq!(brief, expected);
    assert_eq!(list[2]["id_bytes"], json!([0xff, 0x0a]));
    let seconds = |value: &Value| value.as_u64().unwrap();
    assert_eq!(
        seconds(&list[4]["since"]),
        seconds(&list[4]["saved"]) + 7100
    );
    assert!(list.iter().all(|told| told["schema"] == 1), "{list:?}");
    // Nothing has been changed.
    assert_eq!(
        sessionfs(repository, &["list"]).stdout,
        b"clean\nempty\n\xff\\n\nodd\nlocked\n"
    );
    assert!(locked.join("session.next").exists());
}

#[test]
fn a_session_that_is_being_saved_is_listed_with_the_process() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(b"new").unwrap();
    for repository in [&mount.repository, &mount.mountpoint] {
        let told = about(repository, "a");
        assert_eq!(told["state"], "being saved");
        assert_eq!(told["pid"], std::process::id());
        assert_eq!(told["size"], 3);
    }
    close(writer).unwrap();
    assert_eq!(about(&mount.repository, "a")["state"], "clean");
}

/// While the daemon is stopped between linkat(2) and rename(2).
#[test]
fn a_living_lock_is_broken_by_force_only() {
    let mut mount = Mount::new(Backing::Here);
    mount.may_complain = true;
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let held = hold_at_linkat(mount.pid());
    let file = session.file();
    let saving = std::thread::spawn(move || fs::write(file, "new"));
    let next = session.in_repository.join("session.next");
    crate::common::wait_until("the lock is there", || next.exists());
    let output = sessionfs(&mount.repository, &["break-lock", "a"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains(&format!("in use by {}", mount.pid())),
        "{said}"
    );
    assert!(
        said.contains("--force") && said.lines().count() == 1,
        "{said}"
    );
    assert!(next.exists());
    let output = sessionfs(&mount.repository, &["break-lock", "--force", "a"]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        text(&output.stdout).starts_with("a.session: the lock of "),
        "{output:?}"
    );
    assert!(!next.exists());
    drop(held);
    // Rust's write ignores the error of the close; the old checkpoint stands.
    let _ = saving.join().unwrap();
    crate::common::wait_until("the save has failed", || mount.log().contains("lock"));
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), "old");
}

#[test]
fn a_dead_lock_is_reported_and_broken_without_force() {
    let disk = Disk::new(Backing::Here);
    let dir = disk.path().join("a.session");
    fs::create_dir(&dir).unwrap();
    let next = dir.join("session.next");
    fs::write(&next, "half").unwrap();
    let mark = ["-n", "user.sessionfs.staged"].map(OsStr::new);
    crate::common::run("setfattr", mark.into_iter().chain([next.as_os_str()]));
    assert_eq!(about(disk.path(), "a")["state"], "dead lock");
    assert!(next.exists());
    let output = sessionfs(disk.path(), &["break-lock", "a"]);
    assert!(
        text(&output.stdout).contains("it belonged to a save that died"),
        "{output:?}"
    );
    assert_eq!(about(disk.path(), "a")["state"], "empty");
}

#[test]
fn a_foreign_lock_is_alive_while_a_process_has_it_open() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    let in_repository = session.in_repository.join("session.next");
    let on_mount = session.on_mount.join("session.next");
    for next in [&in_repository, &on_mount] {
        let lock = File::create_new(next).unwrap();
        for repository in [&mount.repository, &mount.mountpoint] {
            let output = sessionfs(repository, &["break-lock", "a"]);
            assert_eq!(output.status.code(), Some(6), "{output:?}");
        }
        assert_eq!(about(&mount.repository, "a")["state"], "locked");
        drop(lock);
        let mut output = sessionfs(&mount.repository, &["break-lock", "a"]);
        // The daemon closes its own descriptor a moment later.
        crate::common::wait_until("nobody has it open", || {
            if output.status.code() == Some(6) {
                output = sessionfs(&mount.repository, &["break-lock", "a"]);
            }
            output.status.success()
        });
        assert!(
            text(&output.stdout).contains("another program made it"),
            "{output:?}"
        );
        let output = sessionfs(&mount.repository, &["break-lock", "a"]);
        assert_eq!(text(&output.stdout), "a.session: there was no lock\n");
        assert_next_save_works(&session);
    }
}

#[test]
fn no_save_is_refused_because_a_command_looks_at_the_lock() {
    let mount = Mount::new(Backing::Here);
    mount.session("a");
    mount.session("b");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let output = sessionfs(&mount.repository, &["list", "--json"]);
                assert!(output.status.success(), "{output:?}");
                looks += 1;
            }
            looks
        });
        for n in 0..times(300) {
            // In place on the mount, and beside it over a dead lock.
            let on_mount = mount.mountpoint.join("a.session");
            leave_dead(&mount.repository.join("b.session"));
            for session in [on_mount, mount.repository.join("b.session")] {
                let script = format!("echo {n} | {SESSIONFS} save '{}'", session.display());
                output_of(mount.disk.path(), "bash", &["-ec", &script]);
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(looks.join().unwrap() > 0);
    });
}
