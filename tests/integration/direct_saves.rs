//! Saves made directly in the repository, by programs that do not know of the
//! mount: seen at the very next open (DESIGN 2.10).

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use crate::common::tools::{close, output_of};
use crate::common::{Backing, Mount, Session, times};

on_each_filesystem!(
    rule_2_10_a_direct_save_is_read_at_the_next_open,
    rule_2_10_a_direct_save_is_read_at_the_next_open_without_passthrough,
    rule_2_10_direct_saves_and_saves_on_the_mount_take_turns,
    rule_2_10_a_change_in_place_is_seen_at_the_next_open,
    rule_2_10_a_change_in_place_is_seen_at_the_next_open_without_passthrough,
    rule_2_10_a_checkpoint_that_comes_and_goes_is_seen,
    rule_2_1_a_reader_is_not_disturbed_by_direct_saves,
);

const NO_PASSTHROUGH: &[&str] = &["--no-passthrough"];

/// A content that shows from which round it is, with a size that changes.
fn content(round: usize) -> Vec<u8> {
    let line = format!("round {round};");
    let size = match round % 7 {
        0 => 20_000,
        1 => 0,
        2 => 4096,
        n => 100 * n,
    };
    line.as_bytes()
        .iter()
        .copied()
        .cycle()
        .take(size.max(line.len()))
        .collect()
}

/// Saves as the original does: a new file, renamed onto `session`.
fn save_directly(session: &Session, content: &[u8]) {
    let next = session.in_repository.join("session.next");
    fs::write(&next, content).unwrap();
    fs::rename(&next, session.checkpoint()).unwrap();
}

/// Opens on the mount; size and content agree with what is expected.
#[track_caller]
fn assert_read(session: &Session, expected: &[u8], round: usize) {
    let mut file = fs::File::open(session.file()).unwrap_or_else(|e| panic!("{round}: {e}"));
    assert_eq!(
        file.metadata().unwrap().len(),
        expected.len() as u64,
        "{round}"
    );
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    let begin = String::from_utf8_lossy(&read[..read.len().min(20)]).into_owned();
    assert!(read == expected, "{round}: {} bytes, {begin}", read.len());
}

fn saves_are_read(backing: Backing, options: &[&str]) {
    let mount = Mount::with(backing, options);
    let session = mount.session("a");
    for round in 0..times(10_000) {
        let expected = content(round);
        save_directly(&session, &expected);
        assert_read(&session, &expected, round);
        if round % 3 == 0 {
            // Out of whatever has been cached.
            assert_read(&session, &expected, round);
            assert_eq!(
                fs::metadata(session.file()).unwrap().len(),
                expected.len() as u64
            );
        }
    }
}

fn rule_2_10_a_direct_save_is_read_at_the_next_open(backing: Backing) {
    saves_are_read(backing, &[]);
}

fn rule_2_10_a_direct_save_is_read_at_the_next_open_without_passthrough(backing: Backing) {
    saves_are_read(backing, NO_PASSTHROUGH);
}

fn rule_2_10_direct_saves_and_saves_on_the_mount_take_turns(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    for round in 0..times(1000) {
        let expected = content(2 * round);
        save_directly(&session, &expected);
        assert_read(&session, &expected, round);
        let appended = content(2 * round + 1);
        let mut writer = fs::File::options()
            .append(true)
            .open(session.file())
            .unwrap();
        writer.write_all(&appended).unwrap();
        close(writer).unwrap_or_else(|e| panic!("{round}: {e}"));
        assert_read(&session, &[expected, appended].concat(), round);
    }
    assert_eq!(session.names(), ["session"]);
}

fn changes_are_seen(backing: Backing, options: &[&str]) {
    let mount = Mount::with(backing, options);
    let session = mount.session("a");
    fs::write(session.file(), "").unwrap();
    let mut expected = Vec::new();
    for round in 0..times(1000) {
        let line = format!("line {round}\n");
        let direct = fs::File::options().append(true).open(session.checkpoint());
        direct.unwrap().write_all(line.as_bytes()).unwrap();
        expected.extend(line.as_bytes());
        assert_read(&session, &expected, round);
        // Of the same size: only the mtime differs.
        expected[0] = b'a' + (round % 26) as u8;
        let direct = fs::File::options().write(true).open(session.checkpoint());
        direct.unwrap().write_all_at(&expected[..1], 0).unwrap();
        assert_read(&session, &expected, round);
    }
    for tool in ["echo x >> session", "printf abc > session", ": > session"] {
        output_of(&session.in_repository, "sh", &["-c", tool]);
        let expected = fs::read(session.checkpoint()).unwrap();
        assert_eq!(output_of(&session.on_mount, "cat", &["session"]).len(), {
            String::from_utf8_lossy(&expected).trim().len()
        });
        assert_read(&session, &expected, 0);
    }
}

fn rule_2_10_a_change_in_place_is_seen_at_the_next_open(backing: Backing) {
    changes_are_seen(backing, &[]);
}

fn rule_2_10_a_change_in_place_is_seen_at_the_next_open_without_passthrough(backing: Backing) {
    changes_are_seen(backing, NO_PASSTHROUGH);
}

fn rule_2_10_a_checkpoint_that_comes_and_goes_is_seen(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    for round in 0..times(500) {
        assert_read(&session, b"", round);
        let expected = content(round);
        save_directly(&session, &expected);
        assert_read(&session, &expected, round);
        fs::remove_file(session.checkpoint()).unwrap();
        // And a session that is another one of the same name.
        if round % 10 == 0 {
            fs::remove_dir(&session.in_repository).unwrap();
            fs::create_dir(&session.in_repository).unwrap();
            assert_read(&session, b"", round);
            save_directly(&session, &expected);
            assert_read(&session, &expected, round);
            fs::remove_file(session.checkpoint()).unwrap();
        }
    }
    assert!(session.names().is_empty());
}

fn rule_2_1_a_reader_is_not_disturbed_by_direct_saves(backing: Backing) {
    for options in [&[], NO_PASSTHROUGH] {
        let mount = Mount::with(backing, options);
        let session = mount.session("a");
        let mut readers = Vec::new();
        for round in 0..times(200) {
            let expected = content(round);
            save_directly(&session, &expected);
            readers.push((fs::File::open(session.file()).unwrap(), expected));
        }
        for (round, (mut file, expected)) in readers.into_iter().enumerate() {
            assert_eq!(
                file.metadata().unwrap().len(),
                expected.len() as u64,
                "{round}"
            );
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(
                read == expected,
                "{options:?}, {round}: {} bytes",
                read.len()
            );
        }
    }
}
