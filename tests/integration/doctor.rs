//! What a repository's filesystem can do, and what crashes leave: `doctor`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::storage::{NEXT, Process, Repository, leave_dead, sessionfs, text};
use crate::common::users::{User, run_as};
use crate::common::{Backing, Disk, Mount, SESSIONFS, run};
use serde_json::{Value, json};

fn doctor(repository: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = sessionfs(repository, &[&["doctor", "--json"], arguments].concat());
    let errors = text(&output.stderr);
    assert!(errors.lines().count() <= 1, "{errors}");
    (
        output.status.code().unwrap(),
        serde_json::from_slice(&output.stdout).unwrap(),
    )
}

fn answer(report: &Value, feature: &str) -> String {
    let features = report["features"].as_array().unwrap();
    let row = features
        .iter()
        .find(|row| row["feature"] == feature)
        .unwrap();
    row["answer"].as_str().unwrap().to_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

on_each_filesystem!(doctor_tells_what_a_filesystem_can_do);

fn doctor_tells_what_a_filesystem_can_do(backing: Backing) {
    let repository = Repository::new(backing);
    repository.session("a", "old");
    let (status, report) = doctor(&repository.path, &[]);
    assert_eq!((status, &report["healthy"]), (0, &json!(true)));
    for feature in [
        "unnamed_file",
        "link_unnamed",
        "sync_file",
        "sync_directory",
        "rename",
        "rename_noreplace",
        "rename_exchange",
        "flock",
        "user_xattrs",
        "acl",
        "file_handles",
        "birth_time",
    ] {
        assert_eq!(answer(&report, feature), "yes", "{feature}");
    }
    let reflink = match backing {
        Backing::Xfs | Backing::Btrfs => "yes",
        _ => "no",
    };
    assert_eq!(answer(&report, "reflink"), reflink);
    assert_eq!(answer(&report, "passthrough"), "unknown");
    assert_eq!(names(&repository.path), ["a.session"]);
}

#[test]
fn doctor_says_what_a_poor_filesystem_costs() {
    // Without extended attributes and without times of birth.
    let disk = Disk::new(Backing::Here);
    let poor = disk.path().join("poor");
    fs::create_dir(&poor).unwrap();
    run("mount", ["-t", "ramfs", "ramfs", poor.to_str().unwrap()]);
    let mut command = Command::new(SESSIONFS);
    let table = command.arg("doctor").arg(&poor).output().unwrap();
    let (status, report) = doctor(&poor, &[]);
    let left = names(&poor);
    run("umount", [&poor]);
    assert_eq!((status, left), (0, vec![]), "{table:?}");
    for feature in ["user_xattrs", "acl", "reflink"] {
        assert_eq!(answer(&report, feature), "no", "{feature}");
    }
    let table = text(&table.stdout);
    let costs = "no       a sticky bit marks session.next";
    assert!(table.contains(costs), "{table}");
}

#[test]
fn doctor_finds_leftovers_and_removes_only_dead_ones() {
    let repository = Repository::new(Backing::Here);
    let path = &repository.path;
    leave_dead(&repository.session("dead", "1"));
    let foreign = repository.session("foreign", "2").join(NEXT);
    fs::write(&foreign, "foreign").unwrap();
    let used = repository.session("used", "3").join(NEXT);
    fs::write(&used, "foreign").unwrap();
    let _reader = Process::reader_of(&used);
    let live = leave_dead(&repository.session("live", "4"));
    let _owner = Process::owner_of(&live);
    fs::create_dir(repository.session("broken", "").join("session")).unwrap();
    let link = repository.session("linked", "5").join(".session.77.0");
    fs::write(&link, "5").unwrap();
    fs::create_dir(path.join(".sessionfs-probe-1-0")).unwrap();
    fs::write(path.join(".sessionfs-probe-1-0/one"), "1").unwrap();
    fs::create_dir(path.join(".sessionfs-probe-2-0")).unwrap();
    let _probe = Process::owner_of(&path.join(".sessionfs-probe-2-0"));
    let found = |report: &Value| {
        let found = report["found"].as_array().unwrap().iter();
        let mut found: Vec<_> = found
            .map(|f| {
                let text = |key: &str| f[key].as_str().unwrap().to_owned();
                (text("path"), text("kind"), f["removed"] == true)
            })
            .collect();
        found.sort();
        found
    };
    let expected = |removed: bool| {
        [
            (".sessionfs-probe-1-0", "dead_probe", removed),
            ("broken.session/session", "not_a_file", false),
            ("dead.session/session.next", "dead_lock", removed),
            ("foreign.session/session.next", "foreign_lock", false),
            ("linked.session/.session.77.0", "link", false),
        ]
        .map(|(path, kind, removed)| (path.to_owned(), kind.to_owned(), removed))
    };
    let before = names(path);
    let (status, report) = doctor(path, &[]);
    assert_eq!((status, found(&report)), (1, expected(false).to_vec()));
    assert_eq!(names(path), before, "without --fix nothing is removed");
    assert!(path.join("dead.session").join(NEXT).exists());

    let (status, report) = doctor(path, &["--fix"]);
    assert_eq!((status, found(&report)), (1, expected(true).to_vec()));
    assert!(!path.join("dead.session").join(NEXT).exists());
    assert!(!path.join(".sessionfs-probe-1-0").exists());
    for kept in [
        &foreign,
        &used,
        &live,
        &link,
        &path.join(".sessionfs-probe-2-0"),
    ] {
        assert!(kept.exists(), "{kept:?}");
    }
    fs::remove_file(&foreign).unwrap();
    fs::remove_file(&link).unwrap();
    fs::remove_dir(path.join("broken.session/session")).unwrap();
    leave_dead(&path.join("dead.session"));
    let output = repository.sessionfs(&["doctor", "--fix"]);
    assert_eq!(output.status.code(), Some(0), "all is removed: {output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("by a save that died; removed"), "{said}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn doctor_removes_its_directory_when_it_is_interrupted() {
    let repository = Repository::new(Backing::Here);
    for signal in ["TERM", "INT"] {
        for delay in 0..40 {
            let mut child = Command::new(SESSIONFS)
                .args(["doctor", "-r"])
                .arg(&repository.path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(std::time::Duration::from_micros(250 * delay));
            // It may have ended by then.
            let _ = Command::new("kill")
                .arg(format!("-{signal}"))
                .arg(child.id().to_string())
                .stderr(Stdio::null())
                .status();
            child.wait().unwrap();
            assert_eq!(names(&repository.path), [""; 0], "{signal} after {delay}");
        }
    }
}

#[test]
fn doctor_changes_nothing_in_a_repository_that_is_read_only() {
    let repository = Repository::new(Backing::Tmpfs);
    leave_dead(&repository.session("dead", "1"));
    let disk = repository.path.parent().unwrap().to_owned();
    run(
        "mount",
        [OsStr::new("-o"), OsStr::new("remount,ro"), disk.as_os_str()],
    );
    let (status, report) = doctor(&repository.path, &[]);
    assert_eq!(status, 1);
    assert_eq!(answer(&report, "rename"), "unknown");
    assert_eq!(report["features"][0]["reason"], "read-only");
    assert_eq!(report["found"][0]["kind"], "dead_lock");
    let output = repository.sessionfs(&["doctor", "--fix"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("cannot remove dead.session/session.next"),
        "{errors}"
    );
    assert_eq!(repository.list()[0]["state"], "dead lock");
    run(
        "mount",
        [OsStr::new("-o"), OsStr::new("remount,rw"), disk.as_os_str()],
    );
    fs::remove_dir_all(repository.path.join("dead.session")).unwrap();
    run(
        "mount",
        [OsStr::new("-o"), OsStr::new("remount,ro"), disk.as_os_str()],
    );
    // It finds nothing, but has tried nothing either.
    let (status, report) = doctor(&repository.path, &[]);
    assert_eq!(status, 1);
    assert_eq!(report["healthy"], false);
    let errors = text(&repository.sessionfs(&["doctor"]).stderr);
    assert!(
        errors.ends_with("cannot test whether it is healthy: read-only\n"),
        "{errors}"
    );
    run(
        "mount",
        [OsStr::new("-o"), OsStr::new("remount,rw"), disk.as_os_str()],
    );
}

#[test]
fn doctor_looks_at_the_repository_and_not_at_a_mount() {
    let mount = Mount::new(Backing::Here);
    let output = sessionfs(&mount.mountpoint, &["doctor"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let errors = text(&output.stderr);
    assert!(
        errors.contains(mount.repository.to_str().unwrap()),
        "{errors}"
    );
}

#[test]
fn a_user_who_may_not_look_into_a_session_gets_an_error() {
    let repository = Repository::new(Backing::Here);
    let session = repository.session("private", "secret");
    repository.session("public", "1");
    // It cannot even see whether a save of this program made it.
    let next = leave_dead(&repository.session("saved", "1"));
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    let _owner = Process::owner_of(&next);
    let disk = repository.path.parent().unwrap();
    let program = disk.join("sessionfs");
    // By another process: children of this one may keep open what it writes.
    run("cp", [Path::new(SESSIONFS), &program]);
    for (path, mode) in [
        (disk.parent().unwrap(), 0o755),
        (disk, 0o755),
        (&repository.path, 0o755),
        (&session, 0o700),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let run = |command: &str| {
        let output = run_as(
            User::Ann,
            disk,
            &format!("./sessionfs {command} -r repository"),
        );
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (status, report, errors) = run("doctor");
    assert_eq!(status, Some(1), "{errors}");
    assert!(
        report.contains("rename                     unknown  Permission denied"),
        "{report}"
    );
    assert!(
        report.contains("private.session: Permission denied"),
        "{report}"
    );
    assert!(
        !report.contains("saved.session"),
        "somebody has it: {report}"
    );
    assert!(
        report.contains("it needs the capability SYS_ADMIN"),
        "{report}"
    );
}
