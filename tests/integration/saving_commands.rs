//! `sessionfs save` of a command's output, and of empty input (2.3, 2.6): the output is
//! saved only if the command succeeds.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::storage::{NEXT, Repository, text};
use crate::common::{Backing, SESSIONFS, wait_until};

on_each_filesystem! {
    rule_2_3_the_output_of_a_command_that_ends_well_is_saved,
    rule_2_6_nothing_is_saved_of_a_command_that_fails,
    rule_2_3_nothing_replaces_a_checkpoint_only_if_that_is_allowed,
}

/// A repository with the session `a`, whose checkpoint says "old".
fn place(backing: Backing) -> Repository {
    let repository = Repository::new(backing);
    repository.session("a", "old");
    repository
}

fn save(repository: &Repository, options: &[&str], command: &[&str]) -> Output {
    let arguments = [&["save"], options, &["a", "--"], command].concat();
    repository.sessionfs(&arguments)
}

#[track_caller]
fn assert_is(repository: &Repository, content: &[u8]) {
    let session = repository.path.join("a.session");
    assert!(fs::read(session.join("session")).unwrap() == content);
    assert_eq!(crate::common::tools::names_in(&session), ["session"]);
}

fn rule_2_3_the_output_of_a_command_that_ends_well_is_saved(backing: Backing) {
    let repository = place(backing);
    let saved = save(&repository, &[], &["echo", "-n", "new"]);
    assert!(saved.status.success(), "{saved:?}");
    assert!(
        saved.stdout.is_empty() && saved.stderr.is_empty(),
        "{saved:?}"
    );
    assert_is(&repository, b"new");
    // With more output than a pipe holds, options of its own, an error output, and a
    // child that is the last to write.
    let script = "head -c 3000000 /dev/zero; echo told >&2; { sleep 0.2; echo -n end; } & exit 0";
    let saved = save(&repository, &[], &["sh", "-c", script, "--allow-empty"]);
    assert!(saved.status.success(), "{saved:?}");
    assert_eq!(text(&saved.stderr), "told\n");
    let content = [&vec![0; 3_000_000][..], b"end"].concat();
    assert_is(&repository, &content);
    // It gets the standard input.
    let mut saver = Command::new(SESSIONFS)
        .args(["save", "-r"])
        .arg(&repository.path)
        .args(["a", "--", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    saver.stdin.take().unwrap().write_all(b"input").unwrap();
    assert!(saver.wait().unwrap().success());
    assert_is(&repository, b"INPUT");
}

fn rule_2_6_nothing_is_saved_of_a_command_that_fails(backing: Backing) {
    let repository = place(backing);
    let missing = repository.path.join("none").display().to_string();
    let no_program = repository.path.display().to_string();
    let cases: [(i32, &[&str], &str); 7] = [
        (
            1,
            &["sh", "-c", "echo half; exit 1"],
            "sh ended with exit status 1",
        ),
        (255, &["sh", "-c", "echo half; exit 255"], "exit status 255"),
        (
            137,
            &["sh", "-c", "echo half; kill -9 $$"],
            "sh was killed by signal 9",
        ),
        (
            143,
            &["sh", "-c", "echo half; kill $$"],
            "killed by signal 15",
        ),
        // The signal's default action, though sessionfs itself ignores it.
        (
            141,
            &["sh", "-c", "echo half; kill -PIPE $$"],
            "killed by signal 13",
        ),
        (127, &[&missing], "No such file or directory"),
        (126, &[&no_program], "Permission denied"),
    ];
    for (status, command, reason) in cases {
        for options in [&[][..], &["--allow-empty"]] {
            let saved = save(&repository, options, command);
            let said = text(&saved.stderr);
            assert_eq!(saved.status.code(), Some(status), "{command:?}: {said}");
            assert!(said.contains(reason), "{command:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{command:?}: {said}");
            assert_is(&repository, b"old");
        }
    }
    // No command is run for a session that does not exist.
    let mark = repository.path.join("mark");
    let mark = mark.to_str().unwrap();
    let saved = repository.sessionfs(&["save", "none", "--", "touch", mark]);
    assert_eq!(saved.status.code(), Some(3), "{saved:?}");
    assert!(!Path::new(mark).exists());
}

fn rule_2_3_nothing_replaces_a_checkpoint_only_if_that_is_allowed(backing: Backing) {
    let repository = place(backing);
    let empty = repository.path.join("empty");
    fs::write(&empty, "").unwrap();
    let ways: [&[&str]; 3] = [
        &["save", "a"],
        &["save", "a", "-i", empty.to_str().unwrap()],
        &["save", "a", "--", "true"],
    ];
    let session = repository.path.join("a.session");
    for way in ways {
        let refused = repository.sessionfs(way);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(5), "{way:?}: {said}");
        assert!(said.contains("--allow-empty"), "{way:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{way:?}: {said}");
        assert_is(&repository, b"old");
        // An error that would stop every save is reported first.
        fs::write(session.join(NEXT), "foreign").unwrap();
        assert_eq!(repository.sessionfs(way).status.code(), Some(4), "{way:?}");
        fs::remove_file(session.join(NEXT)).unwrap();

        let allowed = [&way[..1], &["--allow-empty"], &way[1..]].concat();
        let saved = repository.sessionfs(&allowed);
        assert!(saved.status.success(), "{way:?}: {saved:?}");
        assert_is(&repository, b"");
        // Over an empty checkpoint, and as the first one, nothing is lost.
        let saved = repository.sessionfs(way);
        assert!(saved.status.success(), "{way:?}: {saved:?}");
        fs::remove_file(session.join("session")).unwrap();
        let saved = repository.sessionfs(way);
        assert!(saved.status.success(), "{way:?}: {saved:?}");
        assert_is(&repository, b"");
        fs::write(session.join("session"), "old").unwrap();
    }
}

/// A command that has written only a part, and would not end by itself.
#[test]
fn rule_2_6_a_save_that_is_killed_while_its_command_runs_saves_nothing() {
    let repository = place(Backing::Here);
    let begun = repository.path.join("begun");
    let script = format!("echo half; : > '{}'; exec cat", begun.display());
    let mut saver = Command::new(SESSIONFS)
        .args(["save", "-r"])
        .arg(&repository.path)
        .args(["a", "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the command runs", || begun.exists());
    saver.kill().unwrap();
    assert_eq!(saver.wait().unwrap().signal(), Some(9));
    // The command ends with its input.
    drop(saver.stdin.take());
    fs::remove_file(begun).unwrap();
    assert_is(&repository, b"old");
    let saved = save(&repository, &[], &["echo", "-n", "next"]);
    assert!(saved.status.success(), "{saved:?}");
    assert_is(&repository, b"next");
}

#[test]
fn a_command_follows_a_session_that_may_look_like_an_option() {
    let repository = place(Backing::Here);
    let session = repository.session("-x", "old");
    let saved = repository.sessionfs(&["save", "--", "-x", "--", "echo", "-n", "new"]);
    assert!(saved.status.success(), "{saved:?}");
    assert_eq!(fs::read(session.join("session")).unwrap(), b"new");
    let file = repository.path.join("file");
    fs::write(&file, "of a file").unwrap();
    let saved = repository.sessionfs(&["save", "-i", file.to_str().unwrap(), "--", "-x"]);
    assert!(saved.status.success(), "{saved:?}");
    assert_eq!(fs::read(session.join("session")).unwrap(), b"of a file");
    // Standard input, which is empty.
    let refused = repository.sessionfs(&["save", "--", "-x"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
}

#[test]
fn a_command_and_a_file_or_no_command_at_all_make_no_sense() {
    let repository = place(Backing::Here);
    for arguments in [
        &["save", "a", "-i", "file", "--", "true"][..],
        &["save", "--", "a", "true"],
        &["save", "--", "a", "--"],
        &["save", "a", "true"],
    ] {
        let output = repository.sessionfs(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    assert_is(&repository, b"old");
}
