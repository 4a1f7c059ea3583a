//! Each exit status, as the manual documents it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::storage::text;
use crate::common::{Backing, Mount, SESSIONFS};

fn run(directory: &Path, program: &[&str], arguments: &[&str]) -> Output {
    Command::new(program[0])
        .args(&program[1..])
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn each_exit_status_has_its_reason() {
    let mount = Mount::new(Backing::Here);
    let (a, _) = (mount.session("a"), mount.session("locked"));
    fs::write(a.file(), "old").unwrap();
    fs::write(mount.repository.join("locked.session/session.next"), "").unwrap();
    let reader = File::open(a.file()).unwrap();
    let place = mount.repository.parent().unwrap();
    let mountpoint = mount.mountpoint.to_str().unwrap();
    for (status, arguments, reason) in [
        (0, &["load", "-r", "repository", "a"][..], ""),
        (2, &["load", "-r", "repository"], "required arguments"),
        (3, &["load", "-r", "repository", "none"], "no such session"),
        (3, &["umount", "none"], "there is no such directory"),
        (4, &["save", "-r", "repository", "locked"], "locked"),
        (
            5,
            &["mount", "repository", "repository"],
            "the repository itself",
        ),
        (5, &["create", "-r", "repository", "--name", "a"], "exists"),
        (5, &["load", "-r", "repository", "."], "not a session name"),
        (6, &["umount", mountpoint], "in use by"),
    ] {
        let output = run(place, &[SESSIONFS], arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), usize::from(status != 0), "{said}");
    }
    drop(reader);
}

/// An error of the disk, wherever it comes.
#[test]
fn an_error_of_the_disk_exits_with_1_and_names_the_operation() {
    let mount = Mount::new(Backing::Here);
    let a = mount.session("a");
    fs::write(a.file(), "old").unwrap();
    let place = mount.repository.parent().unwrap();
    for (call, arguments) in [
        (
            "fsync",
            &["save", "--allow-empty", "-r", "repository", "a"][..],
        ),
        (
            "renameat,renameat2,rename",
            &["save", "--allow-empty", "-r", "repository", "a"],
        ),
        ("getdents64", &["list", "-r", "repository"]),
        ("mkdirat,mkdir", &["create", "-r", "repository"]),
    ] {
        let inject = format!("inject={call}:error=EIO");
        let trace = format!("trace={call}");
        let strace = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
            SESSIONFS,
        ];
        let output = run(place, &strace, arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{call}: {said}");
        assert!(said.contains("Input/output error"), "{call}: {said}");
        assert!(said.starts_with("sessionfs: repository"), "{call}: {said}");
        assert_eq!(said.lines().count(), 1, "{call}: {said}");
        assert_eq!(fs::read(a.checkpoint()).unwrap(), b"old", "{call}");
    }
}
