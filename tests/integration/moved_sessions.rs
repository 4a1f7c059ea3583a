//! A session's directory is removed or renamed in the repository, or replaced by a
//! symlink or another session, while files of it are open on the mount. Open files stay
//! those of the old session; nothing is written to what has taken its place (DESIGN 2.1,
//! 2.3, I1).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use crate::common::observe::descriptors;
use crate::common::tools::{assert_next_save_works, assert_saved, close, errno};
use crate::common::{Backing, Mount, Session};

on_each_filesystem!(
    rule_2_3_a_session_that_is_removed_takes_no_save,
    rule_2_3_a_session_that_is_renamed_is_the_one_that_is_saved,
    rule_2_3_nothing_is_saved_through_a_symlink_in_place_of_a_session,
    rule_2_3_nothing_is_saved_in_another_session_of_the_same_name,
);

/// The files that are open on the mount of a session.
struct Open {
    /// The checkpoint, read to its half.
    reader: File,
    writer: File,
    /// A file beside it.
    other: File,
}

const OLD: &str = "the old checkpoint";

impl Open {
    fn of(session: &Session) -> Self {
        let mut first = File::create(session.file()).unwrap();
        first.write_all(OLD.as_bytes()).unwrap();
        close(first).unwrap();
        let mut reader = File::open(session.file()).unwrap();
        let mut half = [0; 8];
        reader.read_exact(&mut half).unwrap();
        assert_eq!(&half, b"the old ");
        let mut writer = File::create(session.file()).unwrap();
        writer.write_all(b"new ").unwrap();
        let other = File::create_new(session.on_mount.join("other")).unwrap();
        Self {
            reader,
            writer,
            other,
        }
    }

    /// All of them can still be used; returns the result of the save.
    fn finish(mut self) -> std::io::Result<()> {
        self.other.write_all(b"other").unwrap();
        self.other.sync_all().unwrap();
        close(self.other).unwrap();
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "checkpoint");
        assert_eq!(self.reader.metadata().unwrap().len(), OLD.len() as u64);
        self.writer.write_all(b"content").unwrap();
        close(self.writer)
    }
}

fn mounted(backing: Backing) -> (Mount, Session, usize) {
    let mut mount = Mount::new(backing);
    // It logs saves that failed.
    mount.may_complain = true;
    let session = mount.session("a");
    let before = descriptors(mount.pid()).len();
    (mount, session, before)
}

fn rule_2_3_a_session_that_is_removed_takes_no_save(backing: Backing) {
    let (mount, session, before) = mounted(backing);
    let open = Open::of(&session);
    fs::remove_dir_all(&session.in_repository).unwrap();
    assert_eq!(errno(open.finish()), libc::ENOENT);
    assert_eq!(fs::read_dir(&mount.repository).unwrap().count(), 0);
    assert_eq!(errno(fs::read(session.file())), libc::ENOENT);
    assert_eq!(errno(File::create(session.file())), libc::ENOENT);
    let log = mount.log();
    assert!(log.contains("a.session"), "{log}");
    // A new session of that name is another one.
    assert_next_save_works(&mount.session("a"));
    mount.assert_nothing_leaked(before);
}

fn rule_2_3_a_session_that_is_renamed_is_the_one_that_is_saved(backing: Backing) {
    let (mount, session, before) = mounted(backing);
    let open = Open::of(&session);
    let moved = mount.repository.join("b.session");
    fs::rename(&session.in_repository, &moved).unwrap();
    open.finish().unwrap();
    assert_eq!(errno(fs::read(session.file())), libc::ENOENT);
    assert_eq!(fs::read(moved.join("other")).unwrap(), b"other");
    fs::remove_file(moved.join("other")).unwrap();
    let renamed = mount.session("b");
    assert_saved(&renamed, "new content");
    assert_next_save_works(&renamed);
    // And back.
    fs::rename(&moved, &session.in_repository).unwrap();
    assert_next_save_works(&session);
    mount.assert_nothing_leaked(before);
}

fn rule_2_3_nothing_is_saved_through_a_symlink_in_place_of_a_session(backing: Backing) {
    let (mount, session, before) = mounted(backing);
    let outside = mount.disk.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("session"), "outside").unwrap();
    let open = Open::of(&session);
    // Names are asked for below this directory, without the link, which the program
    // itself would follow otherwise.
    let directory = File::open(&session.on_mount).unwrap();
    let moved = mount.disk.path().join("elsewhere");
    fs::rename(&session.in_repository, &moved).unwrap();
    symlink(&outside, &session.in_repository).unwrap();
    open.finish().unwrap();
    for flags in [libc::O_RDONLY, libc::O_WRONLY | libc::O_TRUNC] {
        let flags = rustix::fs::OFlags::from_bits_retain(flags.cast_unsigned());
        let opened = rustix::fs::openat(&directory, "session", flags, 0o600.into());
        let opened = opened.map_err(std::io::Error::from);
        let refused = errno(opened);
        assert!([libc::ENOENT, libc::ESTALE].contains(&refused), "{refused}");
    }
    assert_eq!(fs::read(outside.join("session")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    // The close has returned 0, so it must be saved.
    assert_eq!(fs::read(moved.join("session")).unwrap(), b"new content");
    assert!(!moved.join("session.next").exists());
    drop(directory);
    fs::remove_file(&session.in_repository).unwrap();
    fs::remove_file(moved.join("other")).unwrap();
    fs::rename(&moved, &session.in_repository).unwrap();
    assert_saved(&session, "new content");
    assert_next_save_works(&session);
    mount.assert_nothing_leaked(before);
}

fn rule_2_3_nothing_is_saved_in_another_session_of_the_same_name(backing: Backing) {
    let (mount, session, before) = mounted(backing);
    let open = Open::of(&session);
    let moved = mount.repository.join("b.session");
    fs::rename(&session.in_repository, &moved).unwrap();
    fs::create_dir(&session.in_repository).unwrap();
    fs::write(session.checkpoint(), "the second").unwrap();
    open.finish().unwrap();
    assert_saved(&session, "the second");
    fs::remove_file(moved.join("other")).unwrap();
    let renamed = mount.session("b");
    assert_saved(&renamed, "new content");
    assert_next_save_works(&session);
    assert_next_save_works(&renamed);
    mount.assert_nothing_leaked(before);
}
