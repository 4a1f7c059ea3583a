//! Entries of a repository that are no session or no checkpoint: they are never followed,
//! and never disturb the rest (DESIGN 1).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::tools::{errno, names_in, output_of, sessionfs};
use crate::common::{Backing, Mount, SESSIONFS, shell};

on_each_filesystem!(
    section_1_what_is_no_session_is_not_listed,
    section_1_what_is_no_checkpoint_is_never_followed,
);

/// A repository with everything that is no session, and one good session.
fn untidy_repository(mount: &Mount) -> PathBuf {
    let canary = mount.disk.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("session"), "canary").unwrap();
    let repository = &mount.repository;
    symlink("/nowhere/at/all", repository.join("x.session")).unwrap();
    fs::write(repository.join("y.session"), "a file").unwrap();
    symlink(&canary, repository.join("z.session")).unwrap();
    fs::create_dir(repository.join(".hidden.session")).unwrap();
    fs::create_dir(repository.join("directory")).unwrap();
    fs::create_dir(repository.join(".session")).unwrap();
    fs::write(repository.join("notes.txt"), "notes").unwrap();
    output_of(repository, "mkfifo", &["w.session"]);
    let odd = |name: &str| {
        let path = repository.join(name);
        fs::create_dir(&path).unwrap();
        path.join("session")
    };
    fs::create_dir(odd("directory.session")).unwrap();
    output_of(
        repository,
        "mkfifo",
        &[odd("fifo.session").to_str().unwrap()],
    );
    symlink(canary.join("session"), odd("symlink.session")).unwrap();
    symlink(
        repository.join("good.session/session"),
        odd("within.session"),
    )
    .unwrap();
    symlink("/nowhere/at/all", odd("dangling.session")).unwrap();
    let good = mount.session("good");
    fs::write(good.file(), "good").unwrap();
    canary
}

const SHOWN: [&str; 6] = ["dangling", "directory", "fifo", "good", "symlink", "within"];

fn section_1_what_is_no_session_is_not_listed(backing: Backing) {
    let mount = Mount::new(backing);
    let canary = untidy_repository(&mount);
    let shown: Vec<OsString> = SHOWN
        .iter()
        .map(|id| OsString::from(format!("{id}.session")))
        .collect();
    assert_eq!(names_in(&mount.mountpoint), shown);
    let listed = sessionfs(&mount.repository, "list", [""; 0]);
    let mut listed: Vec<_> = std::str::from_utf8(&listed.stdout)
        .unwrap()
        .lines()
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, SHOWN);
    let long = output_of(&mount.mountpoint, "ls", &["-l"]);
    assert_eq!(long.lines().count(), 1 + SHOWN.len(), "{long}");
    output_of(&mount.mountpoint, "find", &["."]);
    for name in ["x", "y", "z", "w", ".hidden", ""] {
        let path = mount.mountpoint.join(format!("{name}.session"));
        assert_eq!(errno(fs::symlink_metadata(&path)), libc::ENOENT, "{name}");
        assert_eq!(
            errno(fs::read(path.join("session"))),
            libc::ENOENT,
            "{name}"
        );
        assert_eq!(errno(fs::remove_dir(&path)), libc::ENOENT, "{name}");
        for command in ["load", "save", "remove", "break-lock"] {
            let id = format!("./{name}.session");
            let done = sessionfs(&mount.repository, command, [&id]);
            assert!(!done.status.success(), "{command} {id}: {done:?}");
        }
    }
    for name in ["x", "y", "z", "w"] {
        let path = mount.mountpoint.join(format!("{name}.session"));
        assert_eq!(errno(fs::create_dir(&path)), libc::EEXIST, "{name}");
    }
    assert_eq!(
        fs::read(mount.repository.join("y.session")).unwrap(),
        b"a file"
    );
    assert_eq!(
        fs::read_link(mount.repository.join("z.session")).unwrap(),
        canary
    );
    assert_eq!(fs::read(canary.join("session")).unwrap(), b"canary");
    assert_eq!(names_in(&canary), ["session"]);
}

/// A shell command that must fail, and must not print anything of the files outside.
#[track_caller]
fn assert_fails(directory: &Path, command: &str) {
    let output = shell(
        "bash",
        directory,
        &format!("timeout 20 bash -c '{command}'"),
    );
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code != 0 && code != 124),
        "{command}: {output:?}"
    );
    assert!(output.stdout.is_empty(), "{command}: {output:?}");
}

fn section_1_what_is_no_checkpoint_is_never_followed(backing: Backing) {
    let mount = Mount::new(backing);
    let canary = untidy_repository(&mount);
    let state = |path: &Path| {
        let attributes = fs::metadata(path).unwrap();
        let times = (attributes.mtime_nsec(), attributes.ctime_nsec());
        (
            fs::read(path).unwrap(),
            times,
            attributes.ino(),
            attributes.mode(),
        )
    };
    let good = mount.repository.join("good.session/session");
    let outside = canary.join("session");
    let before = (state(&outside), state(&good));
    let source = mount.disk.beside("source");
    fs::write(&source, "source").unwrap();
    for session in ["symlink", "within", "dangling", "directory"] {
        let directory = mount.mountpoint.join(format!("{session}.session"));
        output_of(&directory, "ls", &["-a"]);
        for command in ["cat session", "echo > session", "echo >> session"] {
            assert_fails(&directory, command);
        }
        for command in ["truncate -s 0 session", "dd of=session conv=notrunc <<< x"] {
            assert_fails(&directory, command);
        }
        if session != "directory" {
            for command in ["cp $S session", "chmod 777 session", "touch session"] {
                assert_fails(&directory, &command.replace("$S", source.to_str().unwrap()));
            }
        }
        for command in ["load", "save"] {
            let done = sessionfs(&mount.repository, command, [session]);
            assert!(!done.status.success(), "{command} {session}: {done:?}");
            assert!(done.stdout.is_empty(), "{command} {session}: {done:?}");
        }
        let kept = mount.repository.join(format!("{session}.session"));
        assert_eq!(names_in(&kept), ["session"], "{session}");
    }
    // A FIFO is only looked at: nothing has its other end open.
    let fifo = mount.mountpoint.join("fifo.session/session");
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    for command in ["load", "save"] {
        let done = Command::new("timeout")
            .args(["20", SESSIONFS, command, "-r"])
            .args([mount.repository.as_os_str(), OsStr::new("fifo")])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert_ne!(done.status.code(), Some(124), "{command}");
        assert!(!done.status.success(), "{command}: {done:?}");
    }
    assert_eq!((state(&outside), state(&good)), before);
    assert!(!Path::new("/nowhere").exists());
    // All of them can be removed like any file, and nothing else goes with them.
    for session in ["symlink", "within", "dangling", "directory", "fifo"] {
        output_of(
            &mount.mountpoint,
            "rm",
            &["-r", &format!("{session}.session")],
        );
    }
    assert_eq!(names_in(&mount.mountpoint), ["good.session"]);
    assert_eq!((state(&outside), state(&good)), before);
}
