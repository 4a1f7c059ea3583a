//! A disk that is full: programs get the error, the old checkpoint stands, and nothing is
//! left behind (DESIGN 2.3, I1, I4).

use std::fs;
use std::io::{Read, Write};

use crate::common::tools::{close, errno, open_rw, python};
use crate::common::{Backing, Mount, Session, times};

/// The size of the disk in KiB: about 2 MiB for files, beside the journal.
const DISK: u32 = 3072;

/// A size that fits once, but not twice.
const BIG: usize = 1300 << 10;

/// A mount of a small disk with a session whose checkpoint says `old`.
fn small_disk(old: &[u8]) -> (Mount, Session) {
    let mut mount = Mount::new(Backing::Small(DISK));
    // It logs saves that failed.
    mount.may_complain = true;
    let session = mount.session("a");
    fs::write(session.file(), old).unwrap();
    (mount, session)
}

/// Bytes that show where they are from.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251) as u8 ^ i as u8 ^ seed).collect()
}

#[track_caller]
fn assert_stands(session: &Session, content: &[u8], inode: u64) {
    assert!(fs::read(session.checkpoint()).unwrap() == content);
    assert!(fs::read(session.file()).unwrap() == content);
    assert_eq!(session.inode(), inode);
    assert_eq!(session.names(), ["session"]);
}

#[track_caller]
fn assert_small_save_works(session: &Session) {
    let mut writer = fs::File::create(session.file()).unwrap();
    writer.write_all(b"small").unwrap();
    close(writer).unwrap();
    assert_stands(session, b"small", session.inode());
}

#[test]
fn rule_2_3_a_writer_gets_enospc_on_a_full_disk_and_the_old_checkpoint_stands() {
    let old = pattern(1, 700 << 10);
    let (mount, session) = small_disk(&old);
    let inode = session.inode();
    for round in 0..3 {
        let mut writer = fs::File::create(session.file()).unwrap();
        let new = pattern(2, 3 << 20);
        let written = new.chunks(64 << 10).try_for_each(|c| writer.write_all(c));
        let closed = close(writer);
        // Reported by both calls, as a program may look at only one of them.
        assert_eq!(errno(written), libc::ENOSPC, "round {round}");
        assert_eq!(errno(closed), libc::ENOSPC, "round {round}");
        assert_stands(&session, &old, inode);
    }
    assert!(mount.log().contains("a.session"), "{}", mount.log());
    assert_small_save_works(&session);
}

#[test]
fn rule_2_3_a_save_without_room_beside_the_old_checkpoint_fails_with_any_tool() {
    let old = pattern(1, 700 << 10);
    let (mount, session) = small_disk(&old);
    let inode = session.inode();
    let source = mount.disk.beside("source");
    fs::write(&source, pattern(2, BIG)).unwrap();
    for command in [
        "cat \"$S\" > session",
        "cp \"$S\" session",
        "dd if=\"$S\" of=session bs=100k",
    ] {
        let command = format!("S={}; LC_ALL=C {command}", source.display());
        let output = crate::common::shell("bash", &session.on_mount, &command);
        assert!(!output.status.success(), "{command}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("No space left on device"),
            "{command}: {said}"
        );
        assert_stands(&session, &old, inode);
    }
    assert_small_save_works(&session);
}

#[test]
fn rule_2_3_replaced_checkpoints_do_not_fill_the_disk() {
    let (_mount, session) = small_disk(b"");
    for round in 0..times(300) {
        let content = pattern(round as u8, 700 << 10);
        let mut writer = fs::File::create(session.file()).unwrap();
        let written = writer.write_all(&content);
        assert!(written.is_ok(), "round {round}: {written:?}");
        let closed = close(writer);
        assert!(closed.is_ok(), "round {round}: {closed:?}");
        match round % 3 {
            // Reading, stat and listing all look the checkpoint up.
            0 => assert!(fs::read(session.file()).unwrap() == content),
            1 => assert_eq!(fs::metadata(session.file()).unwrap().len(), 700 << 10),
            _ => assert_eq!(fs::read_dir(&session.on_mount).unwrap().count(), 1),
        }
    }
    assert_eq!(session.names(), ["session"]);
}

#[test]
fn rule_2_3_saves_of_many_tools_do_not_fill_the_disk() {
    let (mount, session) = small_disk(b"");
    let source = mount.disk.beside("source");
    let content = pattern(7, 700 << 10);
    fs::write(&source, &content).unwrap();
    let command = "cp \"$S\" session && cat session | cmp - \"$S\" && \
                   cat \"$S\" > session && ls -l session >&2 && cmp session \"$S\" && \
                   dd if=session bs=1M status=none | cmp - \"$S\"";
    let command = format!("set -o pipefail; S={}; {command}", source.display());
    for round in 0..times(50) {
        let output = crate::common::shell("bash", &session.on_mount, &command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "round {round}: {said}");
    }
    assert_stands(&session, &content, session.inode());
}

#[test]
fn rule_2_1_a_reader_keeps_its_checkpoint_on_a_disk_that_fills_up() {
    let old = pattern(1, 700 << 10);
    let (_mount, session) = small_disk(&old);
    let mut reader = fs::File::open(session.file()).unwrap();
    fs::write(session.file(), pattern(2, 700 << 10)).unwrap();
    // Both files are there, so a third does not fit.
    let mut writer = fs::File::create(session.file()).unwrap();
    assert_eq!(
        errno(writer.write_all(&pattern(3, 700 << 10))),
        libc::ENOSPC
    );
    assert_eq!(errno(close(writer)), libc::ENOSPC);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == old);
    drop(reader);
    assert!(fs::read(session.file()).unwrap() == pattern(2, 700 << 10));
    crate::common::wait_until("the reader's blocks are free", || {
        fs::write(session.file(), pattern(3, 700 << 10)).is_ok()
    });
}

#[test]
fn invariant_1_a_program_that_ignores_the_error_publishes_nothing() {
    let old = pattern(1, 700 << 10);
    let (_mount, session) = small_disk(&old);
    let inode = session.inode();
    let told = python(
        &session.on_mount,
        "import os
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
errors = 0
for i in range(30):
    try: os.write(fd, b'x' * 100000)
    except OSError: errors += 1
for i in range(30):
    try: os.write(fd, b'small')
    except OSError: errors += 1
try: os.fsync(fd)
except OSError as e: print('fsync', e.errno)
try: os.close(fd)
except OSError as e: print('close', e.errno)
print(errors > 30)",
    );
    assert_eq!(told, "fsync 28\nclose 28\nTrue");
    assert_stands(&session, &old, inode);
    // The same by a program that ends without closing.
    let shell = crate::common::shell(
        "bash",
        &session.on_mount,
        "exec 3> session; head -c 3M /dev/zero >&3; echo more >&3; echo more >&3; exit 0",
    );
    assert!(!shell.stderr.is_empty());
    assert_stands(&session, &old, inode);
    assert_small_save_works(&session);
}

#[test]
fn invariant_1_a_hole_that_cannot_be_filled_publishes_nothing() {
    // The write that fails is in the middle: what came later fits.
    let old = pattern(1, 700 << 10);
    let (_mount, session) = small_disk(&old);
    let inode = session.inode();
    let told = python(
        &session.on_mount,
        "import os
fd = os.open('session', os.O_RDWR | os.O_TRUNC)
os.write(fd, b'begin')
try: os.pwrite(fd, b'x' * 3000000, 4096); os.pwrite(fd, b'x' * 3000000, 4004096)
except OSError as e: print(e.errno)
try: os.pwrite(fd, b'end', 0)
except OSError as e: print(e.errno)
try: os.close(fd)
except OSError as e: print(e.errno)",
    );
    assert_eq!(told, "28\n28\n28");
    assert_stands(&session, &old, inode);
}

#[test]
fn rule_2_3_after_enospc_a_writer_may_begin_anew() {
    let old = pattern(1, 700 << 10);
    let (_mount, session) = small_disk(&old);
    let inode = session.inode();
    let mut writer = open_rw(session.file()).unwrap();
    assert_eq!(errno(writer.write_all(&pattern(2, 3 << 20))), libc::ENOSPC);
    assert_stands(&session, &old, inode);
    writer.set_len(0).unwrap();
    std::io::Seek::rewind(&mut writer).unwrap();
    writer.write_all(b"what fits").unwrap();
    close(writer).unwrap();
    assert_stands(&session, b"what fits", session.inode());
    // A size that is not 0 keeps a piece of what was lost.
    let mut writer = fs::File::create(session.file()).unwrap();
    let inode = session.inode();
    assert_eq!(errno(writer.write_all(&pattern(2, 3 << 20))), libc::ENOSPC);
    let _ = writer.set_len(5);
    assert_eq!(errno(close(writer)), libc::ENOSPC);
    assert_stands(&session, b"what fits", inode);
}

#[test]
fn rule_2_3_an_append_whose_copy_does_not_fit_fails() {
    let old = pattern(1, BIG);
    let (_mount, session) = small_disk(&old);
    let inode = session.inode();
    let output = crate::common::shell("bash", &session.on_mount, "LC_ALL=C; echo more >> session");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("No space left on device"), "{said}");
    assert_stands(&session, &old, inode);
    let mut writer = fs::File::options()
        .append(true)
        .open(session.file())
        .unwrap();
    assert_eq!(errno(writer.write_all(b"more")), libc::ENOSPC);
    // Neither a second write nor its end makes a save of it.
    assert_eq!(errno(writer.write_all(b"more")), libc::ENOSPC);
    assert_eq!(errno(close(writer)), libc::ENOSPC);
    assert_stands(&session, &old, inode);
    assert_small_save_works(&session);
}

#[test]
fn rule_2_3_fsync_reports_a_full_disk() {
    let old = pattern(1, 700 << 10);
    let (_mount, session) = small_disk(&old);
    let inode = session.inode();
    let mut writer = fs::File::create(session.file()).unwrap();
    assert_eq!(errno(writer.write_all(&pattern(2, 3 << 20))), libc::ENOSPC);
    assert_eq!(errno(writer.sync_all()), libc::ENOSPC);
    assert_stands(&session, &old, inode);
    assert_eq!(errno(close(writer)), libc::ENOSPC);
    assert_small_save_works(&session);
}

#[test]
fn rule_2_3_a_checkpoint_that_was_only_looked_up_is_not_kept_open() {
    let (mount, session) = small_disk(&pattern(1, 700 << 10));
    let free = || rustix::fs::statvfs(&mount.repository).unwrap().f_bfree;
    let before = free();
    assert_eq!(fs::metadata(session.file()).unwrap().len(), 700 << 10);
    // Directly: the kernel has no reason to forget it.
    fs::remove_file(session.checkpoint()).unwrap();
    crate::common::wait_until("its blocks are free", || free() >= before + 700);
}
