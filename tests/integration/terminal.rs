//! What reaches a terminal (13.5): names are data, and never change what the terminal
//! does.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::common::storage::{self, NEXT, Repository, text};
use crate::common::{Backing, Mount, SESSIONFS};

/// Ids that would clear a screen, fake a line or reverse the direction of writing, and
/// those that do so with one byte.
const ODD: [&[u8]; 5] = [
    b"a\x1b[2J\x1b]0;title\x07",
    b"b\nsessionfs: error: none\r",
    b"c\xc2\x9b31m\x7f",
    "d\u{202e}noisses\u{2066}\u{2028}".as_bytes(),
    b"e\x9b31m",
];

fn id(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn directory_of(id: &OsStr) -> OsString {
    let mut name = id.to_owned();
    name.push(".session");
    name
}

/// Fails if a terminal would do anything but show it.
#[track_caller]
fn assert_plain(what: &[u8]) {
    let is_odd = |c: char| {
        let turns = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c != '\n' && c.is_control() || turns
    };
    for chunk in what.utf8_chunks() {
        assert!(!chunk.valid().contains(is_odd), "{:?}", chunk.valid());
        let is_odd = |byte: &u8| (0x80..0xa0).contains(byte);
        assert!(!chunk.invalid().iter().any(is_odd), "{:?}", chunk.invalid());
    }
}

#[track_caller]
fn assert_all_plain(output: &Output) {
    assert_plain(&output.stdout);
    assert_plain(&output.stderr);
    let said = text(&output.stderr);
    assert!(
        said.lines().all(|line| line.starts_with("sessionfs: ")),
        "{said}"
    );
}

fn run(repository: &Path, arguments: &[&OsStr]) -> Output {
    Command::new(SESSIONFS)
        .args(arguments)
        .arg("--repository")
        .arg(repository)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn rule_13_5_no_command_lets_a_name_reach_a_terminal() {
    let repository = Repository::new(Backing::Here);
    for odd in ODD {
        repository.session(id(odd), "saved");
    }
    let word = OsStr::new;
    for arguments in [&[][..], &["--long"]] {
        let arguments = [&["list"], arguments].concat();
        let listed = repository.sessionfs(&arguments);
        assert!(listed.status.success(), "{listed:?}");
        assert_all_plain(&listed);
        assert_eq!(
            text(&listed.stdout).lines().count(),
            ODD.len(),
            "{listed:?}"
        );
    }
    // For programs the output is exact.
    let listed = repository.sessionfs(&["list", "-0"]).stdout;
    let mut ids: Vec<_> = listed
        .split(|&b| b == 0)
        .filter(|id| !id.is_empty())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ODD);
    let told = repository.list();
    assert_all_plain(&repository.sessionfs(&["list", "--json"]));
    assert_all_plain(&repository.sessionfs(&["doctor", "--json"]));
    for odd in ODD {
        let found = told
            .as_array()
            .unwrap()
            .iter()
            .any(|one| match &one["id_bytes"] {
                Value::Null => one["id"].as_str().map(str::as_bytes) == Some(odd),
                bytes => *bytes == serde_json::json!(odd),
            });
        assert!(found, "{odd:?}: {told}");
    }
    for odd in ODD {
        let directory = repository.path.join(directory_of(id(odd)));
        fs::write(directory.join(NEXT), "").unwrap();
        // Locked, then the lock, then none.
        let refused = run(&repository.path, &[word("save"), id(odd)]);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        assert_all_plain(&refused);
        assert_all_plain(&run(&repository.path, &[word("doctor")]));
        for _ in 0..2 {
            let broken = run(&repository.path, &[word("break-lock"), id(odd)]);
            assert!(broken.status.success(), "{broken:?}");
            assert_all_plain(&broken);
            assert_eq!(text(&broken.stdout).lines().count(), 1, "{broken:?}");
        }
        let mut almost = id(odd).to_owned();
        almost.push("x");
        for command in ["load", "save", "remove", "break-lock"] {
            let missing = run(&repository.path, &[word(command), &almost]);
            assert_eq!(missing.status.code(), Some(3), "{missing:?}");
            assert_all_plain(&missing);
        }
        for command in [
            &["create", "--name"][..],
            &["mount", "-f"],
            &["umount"],
            &["status"],
        ] {
            let mut arguments: Vec<_> = command.iter().map(|argument| word(argument)).collect();
            arguments.push(id(odd));
            let mut program = Command::new(SESSIONFS);
            let refused = program
                .args(arguments)
                .args(["/none", "-r"])
                .output()
                .unwrap();
            assert_eq!(refused.status.code(), Some(2), "{refused:?}");
            assert_all_plain(&refused);
        }
    }
}

/// A program, and the files it has open, may have any name.
#[test]
fn rule_13_5_names_of_processes_and_what_they_use_are_shown_plainly() {
    let repository = Repository::new(Backing::Here);
    let session = repository.session(id(ODD[0]), "saved");
    let lock = session.join(NEXT);
    fs::write(&lock, "").unwrap();
    let program = repository.path.join("sl\x1b[2Jeep");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut child = Command::new(&program)
        .arg("600")
        .stdin(fs::File::open(&lock).unwrap())
        .spawn()
        .unwrap();
    let refused = run(&repository.path, &[OsStr::new("break-lock"), id(ODD[0])]);
    let forced = [OsStr::new("break-lock"), OsStr::new("--force"), id(ODD[0])];
    let broken = run(&repository.path, &forced);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(broken.status.success(), "{broken:?}");
    for output in [refused, broken] {
        assert_all_plain(&output);
        assert!(format!("{output:?}").contains("eep"), "{output:?}");
    }
}

#[test]
fn rule_13_5_no_name_reaches_the_log_or_the_status_of_a_mount() {
    let mut mount = Mount::new(Backing::Here);
    mount.may_complain = true;
    let (first, rest) = ODD.split_first().unwrap();
    let held = mount.session(id(first));
    let mut writer = fs::File::create(held.file()).unwrap();
    std::io::Write::write_all(&mut writer, b"not yet").unwrap();
    for odd in rest {
        let session = mount.session(id(odd));
        fs::write(session.file(), "saved").unwrap();
        // A writer that is killed is in the log and in the status.
        crate::common::shell(
            "bash",
            &session.on_mount,
            "exec 3> session; echo half >&3; kill -9 $$",
        );
    }
    let status = Command::new(SESSIONFS)
        .arg("status")
        .arg(&mount.mountpoint)
        .output()
        .unwrap();
    assert_plain(&status.stdout);
    let told = text(&status.stdout);
    assert_eq!(
        told.matches(": not saved at 20").count(),
        rest.len(),
        "{told}"
    );
    assert!(told.contains("being saved by"), "{told}");
    let report = fs::read(mount.mountpoint.join(".sessionfs-status")).unwrap();
    assert_plain(&report);
    assert!(serde_json::from_slice::<Value>(&report).is_ok());
    let log = mount.log();
    assert_plain(log.as_bytes());
    assert!(log.matches("abandoned").count() >= rest.len(), "{log}");
    let refused = Command::new(SESSIONFS)
        .arg("umount")
        .arg(&mount.mountpoint)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert_all_plain(&refused);
    crate::common::tools::close(writer).unwrap();
}

/// On a terminal, and for a program that reads the output.
#[test]
fn rule_13_5_create_shows_a_name_plainly_on_a_terminal() {
    let repository = Repository::new(Backing::Here);
    let made = run(
        &repository.path,
        &["create", "--name"]
            .map(OsStr::new)
            .iter()
            .copied()
            .chain([id(ODD[0])])
            .collect::<Vec<_>>(),
    );
    assert_eq!(made.stdout, [ODD[0], b"\n"].concat(), "{made:?}");
    let script = format!(
        "'{SESSIONFS}' create -r '{}' --name \"$(printf 'x\\033[2J')\"",
        repository.path.display()
    );
    let shown = storage::text(
        &Command::new("script")
            .args(["-q", "-e", "-c", &script, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .stdout,
    );
    assert_eq!(shown.trim_end(), "x\\u{1b}[2J");
}
