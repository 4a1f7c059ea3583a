//! DESIGN 2, rule by rule, as programs see it.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::common::{Backing, Mount};

on_each_filesystem!(
    rule_2_1_a_reader_reads_the_checkpoint_it_opened_to_its_end,
    rule_2_2_only_the_writer_sees_its_own_file,
    rule_2_5_fsync_is_a_save_and_writing_goes_on,
);

fn rule_2_1_a_reader_reads_the_checkpoint_it_opened_to_its_end(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let old = vec![b'o'; 3 << 20];
    fs::write(session.file(), &old).unwrap();
    let mut reader = fs::File::open(session.file()).unwrap();
    let mut read = vec![0; 1 << 20];
    reader.read_exact(&mut read).unwrap();
    for round in 0..5 {
        fs::write(session.file(), format!("new {round}")).unwrap();
    }
    reader.read_to_end(&mut read).unwrap();
    assert!(read == old, "{} bytes, not the old content", read.len());
    assert_eq!(reader.metadata().unwrap().len(), old.len() as u64);
    assert_eq!(fs::read(session.file()).unwrap(), b"new 4");
}

fn rule_2_2_only_the_writer_sees_its_own_file(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old content").unwrap();
    let mut writer = fs::File::options()
        .read(true)
        .write(true)
        .open(session.file())
        .unwrap();
    writer.write_all(b"NEW").unwrap();
    assert_eq!(writer.metadata().unwrap().len(), 11);
    assert_eq!(writer.seek(SeekFrom::End(0)).unwrap(), 11);
    writer.write_all(b" and more").unwrap();
    writer.rewind().unwrap();
    let mut own = String::new();
    writer.read_to_string(&mut own).unwrap();
    assert_eq!(own, "NEW content and more");
    assert_eq!(fs::read(session.file()).unwrap(), b"old content");
    assert_eq!(fs::metadata(session.file()).unwrap().len(), 11);
    drop(writer);
    assert_eq!(
        fs::read(session.checkpoint()).unwrap(),
        b"NEW content and more"
    );
    assert_eq!(session.names(), ["session"]);
}

fn rule_2_5_fsync_is_a_save_and_writing_goes_on(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let mut writer = fs::File::create(session.file()).unwrap();
    let mut expected = String::new();
    let mut inodes = Vec::new();
    for line in ["one\n", "two\n", "three\n"] {
        writer.write_all(line.as_bytes()).unwrap();
        writer.sync_all().unwrap();
        expected.push_str(line);
        assert_eq!(fs::read_to_string(session.file()).unwrap(), expected);
        assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), expected);
        inodes.push(session.inode());
    }
    writer.write_all(b"not yet").unwrap();
    assert_eq!(fs::read_to_string(session.file()).unwrap(), expected);
    drop(writer);
    assert_eq!(
        fs::read_to_string(session.file()).unwrap(),
        expected + "not yet"
    );
    assert_eq!(session.names(), ["session"]);
}
