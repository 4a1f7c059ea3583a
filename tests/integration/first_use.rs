//! Mistakes of a new user or administrator, and the messages that say what to do (DESIGN
//! 1, 13.5).

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::storage::{NEXT, Repository, text};
use crate::common::tools::output_of;
use crate::common::{Backing, Disk, Mount, SESSIONFS, is_mounted};

fn sessionfs(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(SESSIONFS)
        .args(arguments)
        .current_dir(directory)
        .env("PLAINBOX_SESSION_REPOSITORY", directory.join("default"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The line of a refusal, which has this status.
#[track_caller]
fn refused(directory: &Path, status: i32, arguments: &[&str]) -> String {
    let output = sessionfs(directory, arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    said
}

/// What is mounted there goes with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let mut umount = Command::new(SESSIONFS);
        let _ = umount.args(["umount", "--lazy"]).arg(self.0).status();
    }
}

#[test]
fn section_1_a_mount_says_what_is_mounted_where_and_what_does_not_exist() {
    let disk = Disk::new(Backing::Here);
    let (directory, at) = (disk.path(), disk.path().join("mnt"));
    let mounted = Mounted(&at);
    let output = sessionfs(directory, &["mount", "--log-level", "off", "mnt"]);
    assert!(output.status.success(), "{output:?}");
    let default = directory.join("default");
    let said = format!("{} is mounted on {}\n", default.display(), at.display());
    assert_eq!(text(&output.stdout), said);
    let warning = text(&output.stderr);
    assert_eq!(warning.lines().count(), 1, "{warning}");
    let begin = format!("the repository {} does not exist yet", default.display());
    assert!(warning.contains(&begin), "{warning}");
    // An empty directory, as it is when the first session is removed.
    for command in [
        "ls -la mnt",
        "getfacl mnt",
        "rsync -aX mnt/ copy",
        "find mnt",
    ] {
        output_of(directory, "sh", &["-ec", command]);
    }
    fs::create_dir(at.join("first.session")).unwrap();
    assert!(default.join("first.session").is_dir());
    drop(mounted);
    assert!(!is_mounted(&at));
    // Two arguments that both exist: nothing to say.
    let _mounted = Mounted(&at);
    let output = sessionfs(directory, &["mount", "--log-level=off", "default", "mnt"]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn section_1_a_session_or_a_file_is_no_repository_for_any_command() {
    let repository = Repository::new(Backing::Here);
    repository.session("a", "saved");
    let here = &*repository.path;
    fs::write(here.join("file"), "").unwrap();
    std::os::unix::fs::symlink("a.session", here.join("link")).unwrap();
    let before = output_of(here, "find", &["-printf", "%p %i %C@\n"]);
    for (place, reason) in [
        ("a.session", "it is a session by its name"),
        ("link", "it is a session by its name"),
        ("b.session", "it is a session by its name"),
        ("file", "it is not a directory"),
        ("file/x", "a part of its path is not a directory"),
    ] {
        for command in [
            &["list", "-r", place][..],
            &["list", "--json", "-r", place],
            &["create", "-r", place],
            &["create", "--name", "a", "-r", place],
            &["load", "a", "-r", place],
            &["save", "a", "-r", place],
            &["remove", "a", "-r", place],
            &["break-lock", "a", "-r", place],
            &["doctor", place],
            &["load", &format!("{place}/a.session")],
            &["mount", place, "../mnt"],
            &["mount", "--foreground", place, "../mnt"],
        ] {
            let line = refused(here, 5, command);
            assert!(line.contains(reason), "{command:?}: {line}");
        }
    }
    assert_eq!(output_of(here, "find", &["-printf", "%p %i %C@\n"]), before);
    assert!(!here.join("../mnt").exists());
}

#[test]
fn an_error_says_what_is_wrong_and_where_the_help_is() {
    let repository = Repository::new(Backing::Here);
    repository.session("a", "saved");
    let here = &*repository.path;
    for (arguments, told) in [
        (&["list", "--lnog"][..], "(see sessionfs list --help)"),
        (
            &["mount", "--thread", "1", "m"],
            "(see sessionfs mount --help)",
        ),
        (
            &["mount", "--log-level", "verbose", "m"],
            "off, error, warn, info, debug, trace",
        ),
        (
            &["remove", "a", "--dry-run"],
            "unexpected argument '--dry-run' found (see",
        ),
        (
            &["save", "a", "--dry-run"],
            "unexpected argument '--dry-run' found (see",
        ),
    ] {
        let line = refused(here, 2, arguments);
        assert!(line.contains(told), "{arguments:?}: {line}");
        assert!(!line.contains("-- --"), "{arguments:?}: {line}");
    }
    assert!(here.join("a.session").exists());
    let line = refused(here, 5, &["create", "-r", ".", "--name", "a/b"]);
    assert!(
        line.contains("\"a/b\": not a session name: an id has no \"/\""),
        "{line}"
    );
    for arguments in [
        &["load", "-r", ".", "-o", "/proc/none/x", "a"][..],
        &["save", "-r", ".", "-i", "missing", "a"],
        &["list", "-r", "/proc/self/mem/x"],
        &["generate", "/proc/none"],
        &["mount", "--log-file", "/proc/none", ".", "/tmp/none"],
        &["status", "a.session/session/x"],
        &["umount", "a.session/session/x"],
    ] {
        let output = sessionfs(here, arguments);
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        let said = text(&output.stderr);
        assert!(!said.contains("os error"), "{arguments:?}: {said}");
    }
}

#[test]
fn help_and_version_are_where_they_are_looked_for() {
    let here = Path::new("/");
    let told = |arguments: &[&str]| {
        let output = sessionfs(here, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    };
    assert_eq!(told(&["help"]), told(&["--help"]));
    assert_eq!(told(&["help", "save"]), told(&["save", "--help"]));
    assert!(told(&["--help"]).contains("-V"));
    assert!(told(&["-V"]).starts_with("sessionfs "));
    assert!(refused(here, 2, &["help", "nonsense"]).contains("'nonsense'"));
    for level in ["off", "ERROR", "Debug"] {
        assert!(told(&["mount", "--log-level", level, "--help"]).contains("mount"));
    }
}

#[test]
fn doctor_and_break_lock_agree_about_a_directory_in_the_place_of_a_lock() {
    let repository = Repository::new(Backing::Here);
    let session = repository.session("a", "saved");
    fs::create_dir(session.join(NEXT)).unwrap();
    fs::write(session.join(NEXT).join("kept"), "").unwrap();
    let here = &*repository.path;
    let found = sessionfs(here, &["doctor", "--fix", "."]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let advice = "a directory: not a lock, but it blocks saves like one; look into it and \
        move it away";
    assert!(text(&found.stdout).contains(advice), "{found:?}");
    for force in [&[][..], &["--force"]] {
        let arguments = [&["break-lock", "a", "-r", "."], force].concat();
        let line = refused(here, 5, &arguments);
        assert!(line.contains(advice), "{line}");
    }
    refused(here, 4, &["save", "-r", ".", "a", "--", "echo", "new"]);
    assert!(session.join(NEXT).join("kept").exists());
    let told = sessionfs(here, &["doctor", "--json", "."]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["found"][0]["kind"], "directory_as_lock");
}

/// For a mount whose repository is removed and made again.
#[test]
fn section_1_a_repository_that_is_missing_is_an_empty_directory() {
    let disk = Disk::new(Backing::Here);
    let repository = disk.path().join("not/yet");
    let mount = Mount::of(disk, repository.clone(), &[]);
    let look = "ls -la; stat -c %F .; getfacl -p .; getfattr -m - -d .; rsync -aX ./ ../copy";
    for _ in 0..2 {
        let told = output_of(&mount.mountpoint, "sh", &["-ec", look]);
        assert!(told.contains("directory\n"), "{told}");
        mount.session("first");
        output_of(&mount.mountpoint, "sh", &["-ec", look]);
        fs::remove_dir_all(&repository).unwrap();
    }
}
