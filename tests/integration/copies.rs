//! Whole sessions copied in and out by ordinary tools, which create files
//! exclusively or remove them first.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{Backing, Mount, shell, wait_until};

on_each_filesystem!(
    an_ordinary_tool_copies_a_whole_session_in_and_out,
    a_checkpoint_is_removed_and_made_anew_by_one_program,
);

/// A session outside of the repository, with a log in it.
fn make_source(directory: &Path) {
    let source = directory.join("source.session");
    fs::create_dir_all(source.join("io-logs")).unwrap();
    fs::write(source.join("session"), "checkpoint").unwrap();
    fs::write(source.join("io-logs/1"), "log").unwrap();
}

fn succeeds(directory: &Path, command: &str) {
    // A tool that tries for ever fails.
    let output = shell(
        "sh",
        directory,
        &format!("exec timeout 30 sh -c '{command}'"),
    );
    assert!(output.status.success(), "{command}: {output:?}");
}

fn an_ordinary_tool_copies_a_whole_session_in_and_out(backing: Backing) {
    let mount = Mount::new(backing);
    let beside = mount.disk.beside("beside");
    fs::create_dir(&beside).unwrap();
    make_source(&beside);
    for (name, command) in [
        ("cp", "cp -r source.session ../mnt/cp.session"),
        ("cp-a", "cp -a source.session ../mnt/cp-a.session"),
        (
            "tar",
            "tar c source.session | tar x -C ../mnt && mv ../mnt/source.session ../mnt/tar.session",
        ),
        (
            "twice",
            "tar c source.session | tar x -C ../mnt && tar c source.session | tar x -C ../mnt && mv ../mnt/source.session ../mnt/twice.session",
        ),
        (
            "over",
            "cp -r source.session ../mnt/over.session && cp -r source.session/. ../mnt/over.session",
        ),
        (
            "mv",
            "cp -r source.session copy.session && mv copy.session ../mnt/mv.session",
        ),
    ] {
        succeeds(&beside, command);
        let there = mount.repository.join(name).with_extension("session");
        assert_eq!(
            fs::read_to_string(there.join("session")).unwrap(),
            "checkpoint",
            "{name}"
        );
        assert_eq!(
            fs::read_to_string(there.join("io-logs/1")).unwrap(),
            "log",
            "{name}"
        );
        assert_eq!(fs::read_dir(&there).unwrap().count(), 2, "{name}");
    }
    succeeds(&beside, "cp -r ../mnt/cp.session back.session");
    succeeds(&beside, "diff -r source.session back.session");
}

fn a_checkpoint_is_removed_and_made_anew_by_one_program(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let beside = mount.disk.beside("beside");
    fs::create_dir(&beside).unwrap();
    make_source(&beside);
    for command in [
        "cp --remove-destination source.session/session ../mnt/a.session/session",
        "install -m 640 source.session/session ../mnt/a.session/session",
        "cp source.session/session moved && mv moved ../mnt/a.session/session",
    ] {
        fs::write(session.file(), "something else").unwrap();
        succeeds(&beside, command);
        assert_eq!(
            fs::read_to_string(session.checkpoint()).unwrap(),
            "checkpoint",
            "{command}"
        );
        assert_eq!(
            fs::read_to_string(session.file()).unwrap(),
            "checkpoint",
            "{command}"
        );
        assert_eq!(session.names(), ["session"], "{command}");
    }
    succeeds(&session.on_mount, "rm session");
    wait_until("it is removed", || session.names().is_empty());
    assert_eq!(
        fs::read_to_string(session.file()).unwrap(),
        "",
        "shown empty to others"
    );
    succeeds(&session.on_mount, "umask 027; echo first > session");
    let mode = fs::metadata(session.checkpoint())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
}
