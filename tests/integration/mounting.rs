//! `sessionfs mount` and `sessionfs umount`, as a user runs them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::tools::output_of;
use crate::common::{Backing, Disk, Mount, SESSIONFS, is_mounted, times, wait_until};

/// A directory with `repository` in it; a mount on `mnt` ends with it.
struct Place {
    disk: Disk,
    mountpoint: PathBuf,
}

impl Place {
    fn new() -> Self {
        let disk = Disk::new(Backing::Here);
        fs::create_dir(disk.path().join("repository")).unwrap();
        let mountpoint = disk.path().join("mnt");
        Self { disk, mountpoint }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        sessionfs(self.disk.path(), arguments)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.mountpoint) {
            self.run(&["umount", "--lazy", "mnt"]);
        }
    }
}

fn sessionfs(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(SESSIONFS)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Fails unless a command has said in one line why it did nothing.
#[track_caller]
fn assert_refused(output: &Output, status: i32, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.starts_with("sessionfs: cannot "), "{said}");
    assert!(said.contains(reason), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(output.stdout, b"");
}

#[test]
fn mount_returns_when_the_mount_is_usable_and_umount_when_it_is_gone() {
    let place = Place::new();
    for _ in 0..20 {
        // A machine need not have a log.
        let output = place.run(&["mount", "--log-level=off", "repository", "mnt"]);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
        let session = place.mountpoint.join("a.session");
        fs::create_dir(&session).unwrap();
        fs::write(session.join("session"), "saved").unwrap();
        fs::remove_dir_all(&session).unwrap();
        let output = place.run(&["umount", "mnt"]);
        assert!(output.status.success(), "{output:?}");
        assert!(!is_mounted(&place.mountpoint));
    }
}

#[test]
fn a_pipe_behind_mount_ends() {
    let place = Place::new();
    let mount = "mount --log-level=off repository mnt";
    let line = format!("'{SESSIONFS}' {mount} 2>&1 | cat; echo \"${{PIPESTATUS[0]}}\"");
    // If the daemon had the pipe, this would hang for ever.
    assert_eq!(
        output_of(place.disk.path(), "timeout", &["60", "bash", "-c", &line]),
        "0"
    );
    assert!(is_mounted(&place.mountpoint));
    assert!(place.run(&["umount", "mnt"]).status.success());
}

#[test]
fn mount_makes_the_mountpoint_and_a_mountpoint_may_be_used_again() {
    let place = Place::new();
    let deep = place.disk.path().join("new/er");
    for _ in 0..2 {
        let output = place.run(&["mount", "repository", "new/er"]);
        assert!(output.status.success(), "{output:?}");
        assert!(is_mounted(&deep));
        assert!(place.run(&["umount", "new/er"]).status.success());
        assert!(deep.is_dir());
    }
}

#[test]
fn a_missing_repository_is_made_with_its_first_session() {
    let place = Place::new();
    assert!(place.run(&["mount", "no/where", "mnt"]).status.success());
    assert_eq!(fs::read_dir(&place.mountpoint).unwrap().count(), 0);
    let missing = place.disk.path().join("no");
    assert!(!missing.exists());
    fs::create_dir(place.mountpoint.join("a.session")).unwrap();
    assert!(missing.join("where/a.session").is_dir());
    assert!(place.run(&["umount", "mnt"]).status.success());
}

#[test]
fn mount_refuses_what_would_do_harm() {
    let place = Place::new();
    let path = place.disk.path();
    fs::write(path.join("file"), "").unwrap();
    fs::create_dir_all(path.join("full/repository")).unwrap();
    for foreground in [&["mount"][..], &["mount", "-f"]] {
        for (repository, mountpoint, reason) in [
            ("repository", "repository", "it is the repository itself"),
            (
                "repository",
                "repository/mnt",
                "it lies inside the repository",
            ),
            ("full/repository", "full", "the repository lies inside it"),
            ("repository", "file", "it is not a directory"),
            ("repository", "file/mnt", "is not a directory"),
            ("file", "mnt", "it is not a directory"),
            ("repository", "full", "it is not empty"),
        ] {
            let output = place.run(&[foreground, &[repository, mountpoint]].concat());
            assert_refused(&output, 5, reason);
            assert!(!is_mounted(&path.join(mountpoint)));
        }
    }
    assert!(!place.mountpoint.exists());
    assert!(!path.join("repository/mnt").exists());
    let output = place.run(&["mount"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn mount_refuses_a_place_where_it_has_mounted_already() {
    let mount = Mount::new(Backing::Here);
    let mountpoint = mount.mountpoint.to_str().unwrap();
    for repository in ["repository", "other"] {
        let output = sessionfs(mount.disk.path(), &["mount", repository, mountpoint]);
        assert_refused(&output, 5, "there already");
    }
    mount.session("a");
}

/// By its filesystem type it belongs to another program.
#[test]
fn a_dead_mount_of_another_program_is_left_alone() {
    let mut mount = Mount::with(Backing::Here, &["--subtype", "other"]);
    mount.signal("KILL");
    mount.wait();
    let mountpoint = mount.mountpoint.to_str().unwrap();
    for options in [&["mount"][..], &["mount", "--foreground"]] {
        let arguments = [options, &["repository", mountpoint]].concat();
        let output = sessionfs(mount.disk.path(), &arguments);
        assert_refused(&output, 5, "a dead mount of another program is there");
    }
    let output = sessionfs(mount.disk.path(), &["umount", mountpoint]);
    assert_refused(&output, 5, "it is not a mount of sessionfs");
    let gone = fs::read_dir(mountpoint).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotConnected);
    let umount = Command::new("umount").arg(mountpoint).status().unwrap();
    assert!(umount.success());
    mount.restart(&[]);
}

#[test]
fn umount_refuses_other_mounts() {
    let disk = Disk::new(Backing::Tmpfs);
    let path = disk.path().to_str().unwrap();
    fs::create_dir(disk.path().join("directory")).unwrap();
    for arguments in [&["umount"][..], &["umount", "--lazy"]] {
        let umount = |path: &str| sessionfs(disk.path(), &[arguments, &[path]].concat());
        assert_refused(&umount(path), 5, "it is not a mount of sessionfs");
        assert_refused(&umount("directory"), 5, "it is not a mount of sessionfs");
        assert_refused(&umount("missing"), 3, "there is no such directory");
    }
    assert!(is_mounted(disk.path()));
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    let inside = session.on_mount.to_str().unwrap();
    let output = sessionfs(disk.path(), &["umount", inside]);
    assert_refused(&output, 5, "it is inside the mount");
    assert!(is_mounted(&mount.mountpoint));
}

#[test]
fn umount_of_a_mount_in_use_is_refused_unless_it_is_lazy() {
    let mut mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    let reader = File::open(session.file()).unwrap();
    let mountpoint = mount.mountpoint.to_str().unwrap().to_owned();
    let umount = |options: &[&str]| {
        let arguments = [&["umount"], options, &[&*mountpoint]].concat();
        sessionfs(Path::new("/"), &arguments)
    };
    assert_refused(&umount(&[]), 6, "it is in use");
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "saved");
    let output = umount(&["--lazy"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!is_mounted(&mount.mountpoint));
    assert_eq!(std::io::read_to_string(reader).unwrap(), "saved");
    assert_eq!(mount.wait().code(), Some(0));
}

/// Many processes find the same dead mount; one of them gets the mountpoint, and none
/// detaches the new mount of another.
#[test]
fn only_a_dead_mount_is_removed_however_many_want_the_place() {
    let place = Place::new();
    let session = place.mountpoint.join("a.session");
    fs::create_dir_all(place.disk.path().join("repository/a.session")).unwrap();
    let status = |output: &Output| output.status.code().unwrap();
    for round in 0..times(50) {
        let output = place.run(&["mount", "repository", "mnt"]);
        assert!(output.status.success(), "{output:?}");
        let pid = daemon_of(&place.mountpoint);
        output_of(place.disk.path(), "kill", &["-KILL", &pid.to_string()]);
        wait_until("the mount is dead", || {
            fs::metadata(&place.mountpoint).is_err()
        });
        let starters: Vec<_> = (0..4)
            .map(|_| {
                Command::new(SESSIONFS)
                    .args(["mount", "repository", "mnt"])
                    .current_dir(place.disk.path())
                    .stdin(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let outputs: Vec<_> = starters
            .into_iter()
            .map(|starter| starter.wait_with_output().unwrap())
            .collect();
        let mounted = outputs.iter().filter(|output| status(output) == 0);
        assert_eq!(mounted.count(), 1, "{outputs:?}");
        let refused = outputs.iter().filter(|output| status(output) == 5);
        assert_eq!(refused.count(), 3, "{outputs:?}");
        let content = round.to_string();
        fs::write(session.join("session"), &content).unwrap();
        let saved = place.disk.path().join("repository/a.session/session");
        assert_eq!(fs::read_to_string(saved).unwrap(), content);
        let output = place.run(&["umount", "mnt"]);
        assert!(output.status.success(), "{output:?}");
        assert!(!is_mounted(&place.mountpoint));
    }
}

/// The process that serves the mount, as it says itself.
fn daemon_of(mountpoint: &Path) -> u64 {
    let report = fs::read(mountpoint.join(".sessionfs-status")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    report["pid"].as_u64().unwrap()
}
