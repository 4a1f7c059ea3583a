//! Bad input to the commands on the storage gives one clear line and an exit status that
//! says what is wrong, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::tools::copy_sessionfs;
use crate::common::users::{self, User};
use crate::common::{Backing, Disk, SESSIONFS};

/// The commands that take a session, and what goes before it.
const ON_A_SESSION: [&[&str]; 6] = [
    &["load"],
    &["save"],
    &["remove"],
    &["break-lock"],
    &["break-lock", "--force"],
    &["create", "--name"],
];

/// Everything below a directory, with what a change of it would change.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            todo.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let state = (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
        found.insert(path, state);
    }
    found
}

/// A directory with a repository that has the session `nightly`, and a file.
fn place() -> Disk {
    let disk = Disk::new(Backing::Here);
    let session = disk.path().join("repository/nightly.session");
    fs::create_dir_all(&session).unwrap();
    fs::write(session.join("session"), "old").unwrap();
    fs::write(disk.path().join("repository/file.session"), "no session").unwrap();
    std::os::unix::fs::symlink(
        "nightly.session",
        disk.path().join("repository/link.session"),
    )
    .unwrap();
    fs::write(disk.path().join("file"), "").unwrap();
    disk
}

/// Runs a command that must be refused with this status; returns the line it prints.
#[track_caller]
fn refused(disk: &Disk, status: i32, arguments: &[&str]) -> String {
    let before = tree(disk.path());
    let output = Command::new(SESSIONFS)
        .args(arguments)
        .current_dir(disk.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {errors}"
    );
    assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
    assert!(errors.starts_with("sessionfs: "), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    assert_eq!(
        tree(disk.path()),
        before,
        "{arguments:?}: something changed"
    );
    errors
}

#[test]
fn a_name_that_no_session_can_have_is_refused() {
    let disk = place();
    let long = "x".repeat(248);
    let names = [
        "",
        ".",
        "..",
        "../nightly",
        "a/b",
        ".hidden",
        "nightly.session/session",
        &long,
    ];
    for command in ON_A_SESSION {
        for name in names {
            let arguments = [command, &["-r", "repository", "--", name]].concat();
            // The option takes its value at once.
            let arguments = match command {
                ["create", option] => vec!["create", "-r", "repository", option, name],
                _ => arguments,
            };
            let line = refused(&disk, 5, &arguments);
            assert!(line.contains("not a session name"), "{line}");
        }
    }
    for prefix in [".hidden", &long] {
        let line = refused(&disk, 5, &["create", "-r", "repository", prefix]);
        assert!(line.contains("not a session name"), "{line}");
    }
}

#[test]
fn a_directory_that_is_no_session_is_not_found() {
    let disk = place();
    for command in &ON_A_SESSION[..5] {
        for name in ["none", "file", "link", "repository/none.session"] {
            let arguments = [*command, &["-r", "repository", name]].concat();
            let line = refused(&disk, 3, &arguments);
            assert!(line.contains("no such session"), "{line}");
        }
    }
}

#[test]
fn an_id_that_matches_nothing_offers_the_nearest() {
    let disk = place();
    for command in &ON_A_SESSION[..5] {
        for name in ["nightlx", "nigthly.session", "repository/nightl.session"] {
            let arguments = [*command, &["-r", "repository", name]].concat();
            let line = refused(&disk, 3, &arguments);
            assert!(line.ends_with("; did you mean \"nightly\"?\n"), "{line}");
        }
        let arguments = [*command, &["-r", "repository", "weekend"]].concat();
        let line = refused(&disk, 3, &arguments);
        assert!(line.ends_with("no such session\n"), "{line}");
    }
}

#[test]
fn a_repository_that_is_missing_has_no_sessions_and_is_not_made() {
    let disk = place();
    for command in &ON_A_SESSION[..5] {
        let arguments = [*command, &["-r", "missing/repository", "nightly"]].concat();
        let line = refused(&disk, 3, &arguments);
        assert!(
            line.contains("missing/repository/nightly.session"),
            "{line}"
        );
    }
    for arguments in [
        &["doctor", "missing"][..],
        &["doctor", "-r", "missing"],
        &["doctor", "--fix", "missing"],
    ] {
        let line = refused(&disk, 3, arguments);
        assert_eq!(line, "sessionfs: missing: there is no such directory\n");
    }
    for form in [&[][..], &["--long"], &["--json"]] {
        let arguments = [&["list", "-r", "missing"], form].concat();
        let mut list = Command::new(SESSIONFS);
        let output = list
            .args(arguments)
            .current_dir(disk.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let none: &[u8] = if form == ["--json"] { b"[]\n" } else { b"" };
        assert_eq!(output.stdout, none);
    }
    assert!(!disk.path().join("missing").exists());
}

#[test]
fn a_file_is_no_repository() {
    let disk = place();
    let on_a_session = ON_A_SESSION.map(|command| match command {
        ["create", option] => vec!["create", "-r", "file", option, "a"],
        _ => [command, &["-r", "file", "a"]].concat(),
    });
    let others = [
        &["list", "-r", "file"][..],
        &["list", "-r", "file", "--json"],
        &["create", "-r", "file"],
        &["doctor", "file"],
    ];
    for arguments in on_a_session.iter().map(|words| &words[..]).chain(others) {
        let line = refused(&disk, 5, arguments);
        let expected = "sessionfs: cannot use the repository file: it is not a directory\n";
        assert_eq!(line, expected);
    }
}

#[test]
fn options_that_make_no_sense_are_a_usage_error() {
    let disk = place();
    for arguments in [
        &["list", "--json", "--long"][..],
        &["list", "--json", "-0"],
        &["list", "--nonsense"],
        &["list", "repository"],
        &["remove"],
        &["break-lock"],
        &["break-lock", "a", "b"],
        &["load", "a", "b"],
        &["save"],
        &["doctor", "a", "b"],
        &["doctor", "-r", "a", "b"],
        &["doctor", "--fix=yes"],
        &["create", "--name", "a", "b"],
        &["list", "-r", ""],
        &["doctor", ""],
        &["umount"],
        &["umount", ""],
        &["umount", "--lasy", "mnt"],
        &["umount", "a", "b"],
        &["status", ""],
        &["status", "a", "b"],
        &["status", "--long"],
        &["generate"],
        &["mount"],
        &["mount", "", "mnt"],
        &["mount", "repository", ""],
        &["mount", "repository", "mnt", "more"],
        &["mount", "--lock-wait=nan", "repository", "mnt"],
        &["mount", "--attr-timeout=-1", "repository", "mnt"],
        &["mount", "--alow-other", "repository", "mnt"],
        &["mount", "-f", "--background-process", "repository", "mnt"],
        &["lsit"],
        &["--nonsense"],
        &[],
    ] {
        let line = refused(&disk, 2, arguments);
        let about = match arguments {
            ["lsit", ..] | ["--nonsense", ..] | [] => "",
            [command, ..] => &format!("{command} "),
        };
        let help = format!("(see sessionfs {about}--help)\n");
        assert!(line.ends_with(&help), "{line}");
    }
}

#[test]
fn a_file_that_cannot_be_read_or_written_is_named() {
    let disk = place();
    for (arguments, name) in [
        (
            ["save", "-r", "repository", "-i", "missing", "nightly"],
            "missing",
        ),
        (
            ["save", "-r", "repository", "-i", "repository", "nightly"],
            "repository",
        ),
        (
            ["load", "-r", "repository", "-o", "no/such", "nightly"],
            "no/such",
        ),
        (
            ["load", "-r", "repository", "-o", "repository", "nightly"],
            "repository",
        ),
    ] {
        let line = refused(&disk, 1, &arguments);
        assert!(line.contains(name), "{line}");
    }
}

#[test]
fn a_place_that_cannot_be_mounted_or_unmounted_is_named() {
    let disk = place();
    let long = "x".repeat(300);
    for (status, arguments) in [
        (1, &["mount", "repository", &*long][..]),
        (1, &["mount", &*long, "mnt"]),
        (1, &["mount", "-f", "repository", &*long]),
        (
            1,
            &["mount", "repository", "mnt", "--log-file", "repository"],
        ),
        (
            1,
            &["mount", "-f", "repository", "mnt", "--log-file", "no/such"],
        ),
        (5, &["mount", "file", "mnt"]),
        (5, &["mount", "repository", "file"]),
        (5, &["mount", "repository", "repository"]),
        (1, &["umount", &*long]),
        (3, &["umount", "missing"]),
        (5, &["umount", "file"]),
        (5, &["umount", "repository"]),
        (3, &["status", &*long]),
        (3, &["status", "file"]),
        (1, &["generate", "file"]),
        (1, &["list", "-r", &*long]),
        (1, &["doctor", &*long]),
    ] {
        let line = refused(&disk, status, arguments);
        let named = arguments
            .iter()
            .skip(1)
            .any(|argument| line.contains(argument));
        assert!(named, "{line}");
    }
}

/// Runs a script in a mount namespace of its own.
fn in_namespace(disk: &Disk, script: &str) -> std::process::Output {
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .args([script, "sh", SESSIONFS])
        .current_dir(disk.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Root mounts directly, other users by fusermount3.
#[test]
fn a_missing_fuse_device_is_reported_and_no_mountpoint_is_left() {
    let disk = place();
    fs::create_dir(disk.path().join("dev")).unwrap();
    let script = "
mount -t tmpfs -o mode=0755 tmpfs dev
for node in 'null c 1 3' 'urandom c 1 9'; do mknod -m 0666 dev/$node; done
mount --rbind dev /dev
for options in '' '--foreground' '--auto-unmount'; do
    if \"$1\" mount $options repository mnt; then echo mounted; else echo $?; fi
done
ls -d mnt || true
umount /dev dev";
    let output = in_namespace(&disk, script);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&output.stdout), "1\n1\n1\n", "{output:?}");
    let said = text(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    for line in &lines[..3] {
        assert!(line.starts_with("sessionfs: cannot mount on "), "{said}");
        assert!(
            line.ends_with("/dev/fuse is missing (modprobe fuse)"),
            "{said}"
        );
    }
}

/// An ordinary user, and a repository that only root may write, or see.
#[test]
fn a_forbidden_operation_is_reported_and_changes_nothing() {
    let disk = place();
    let path = disk.path();
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    set_mode(&disk.beside("."), 0o755);
    set_mode(path, 0o755);
    let session = path.join("repository/nightly.session");
    fs::write(session.join("session.next"), "").unwrap();
    copy_sessionfs(disk.beside("sessionfs"));
    let on_a_session = [
        "load nightly",
        "remove nightly",
        "break-lock --force nightly",
    ];
    let others = ["create", "create --name a", "save nightly"];
    for may_read in [true, false] {
        set_mode(
            &path.join("repository"),
            if may_read { 0o755 } else { 0o700 },
        );
        let before = tree(path);
        for command in on_a_session.iter().chain(&others) {
            let (command, rest) = command.split_once(' ').unwrap_or((command, ""));
            let line = format!("../sessionfs {command} -r repository {rest}");
            let output = users::run_as(User::Cid, path, &line);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if may_read && command == "load" {
                assert_eq!(output.stdout, b"old");
                continue;
            }
            assert_eq!(output.status.code(), Some(1), "{line}: {said}");
            // A removal goes on, and prints a line for each thing that stays.
            let lines = if may_read && command == "remove" {
                4
            } else {
                1
            };
            assert_eq!(said.lines().count(), lines, "{line}: {said}");
            for told in said.lines() {
                assert!(told.starts_with("sessionfs: "), "{line}: {said}");
                assert!(told.contains("repository"), "{line}: {said}");
                assert!(!told.contains("nightly.session/nightly.session"), "{said}");
            }
            assert!(said.contains("Permission denied"), "{line}: {said}");
        }
        let output = users::run_as(User::Cid, path, "../sessionfs mount repository ../mnt");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("Permission denied"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(tree(path), before, "something changed");
    }
}
