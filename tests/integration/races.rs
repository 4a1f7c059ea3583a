//! Read, change, write: a program that has lost the race gets an error (DESIGN 2.9).

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::common::tools::{assert_next_save_works, assert_saved, close, errno, open_rw};
use crate::common::{Backing, Mount, Session};

on_each_filesystem!(
    rule_2_9_a_lost_race_is_estale_at_close,
    rule_2_9_a_lost_race_is_estale_at_fsync,
    rule_2_9_a_race_lost_to_a_direct_save_is_estale,
    rule_2_9_a_truncating_writer_replaces_what_is_there,
);

/// A mount with one session whose checkpoint says "old".
fn mounted(backing: Backing) -> (Mount, Session) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    (mount, session)
}

fn rule_2_9_a_lost_race_is_estale_at_close(backing: Backing) {
    let (_mount, session) = mounted(backing);
    let slow = open_rw(session.file()).unwrap();
    // A writer that also reads: one that only appends goes on from the current
    // checkpoint.
    let append = fs::File::options()
        .read(true)
        .append(true)
        .open(session.file());
    let mut append = append.unwrap();
    fs::write(session.file(), "newer").unwrap();
    let inode = session.inode();
    slow.write_all_at(b"slow", 0).unwrap();
    assert_eq!(errno(close(slow)), libc::ESTALE);
    assert_saved(&session, "newer");
    append.write_all(b"appended").unwrap();
    assert_eq!(errno(close(append)), libc::ESTALE);
    assert_saved(&session, "newer");
    assert_eq!(session.inode(), inode);
    assert_next_save_works(&session);
}

fn rule_2_9_a_lost_race_is_estale_at_fsync(backing: Backing) {
    let (_mount, session) = mounted(backing);
    let slow = open_rw(session.file()).unwrap();
    fs::write(session.file(), "newer").unwrap();
    let inode = session.inode();
    slow.write_all_at(b"slow", 0).unwrap();
    assert_eq!(errno(slow.sync_all()), libc::ESTALE);
    assert_saved(&session, "newer");
    // Further writes do not make up for the lost race.
    let more = slow.write_all_at(b"more", 0);
    let _ = more.and_then(|()| slow.sync_all());
    assert_eq!(errno(close(slow)), libc::ESTALE);
    assert_saved(&session, "newer");
    assert_eq!(session.inode(), inode);
    assert_next_save_works(&session);
}

/// A save made directly in the repository.
fn save_directly(session: &Session, content: &str) -> u64 {
    let other = session.in_repository.join("other");
    fs::write(&other, content).unwrap();
    fs::rename(&other, session.checkpoint()).unwrap();
    session.inode()
}

fn rule_2_9_a_race_lost_to_a_direct_save_is_estale(backing: Backing) {
    let (_mount, session) = mounted(backing);
    let slow = open_rw(session.file()).unwrap();
    slow.write_all_at(b"slow", 0).unwrap();
    let inode = save_directly(&session, "direct");
    assert_eq!(errno(close(slow)), libc::ESTALE);
    assert_saved(&session, "direct");
    assert_eq!(session.inode(), inode);

    let slow = open_rw(session.file()).unwrap();
    slow.write_all_at(b"slow", 0).unwrap();
    slow.sync_all().unwrap();
    slow.write_all_at(b"more", 0).unwrap();
    let inode = save_directly(&session, "direct again");
    assert_eq!(errno(slow.sync_all()), libc::ESTALE);
    assert_eq!(errno(close(slow)), libc::ESTALE);
    assert_saved(&session, "direct again");
    assert_eq!(session.inode(), inode);
    assert_next_save_works(&session);
}

fn rule_2_9_a_truncating_writer_replaces_what_is_there(backing: Backing) {
    let (_mount, session) = mounted(backing);
    let mut writer = fs::File::create(session.file()).unwrap();
    writer.write_all(b"replaces").unwrap();
    save_directly(&session, "direct");
    close(writer).unwrap();
    assert_saved(&session, "replaces");
}
