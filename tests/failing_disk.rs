//! A disk that fails under the mount, and works again: the error is that of the
//! disk, told to the one whose call it was, and the old checkpoint stands
//! (DESIGN 2.3, I1, I5).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use common::failing::{FAULTY, FailingDevice};
use common::observe::descriptors;
use common::tools::{assert_next_save_works, assert_saved, close, errno, open_rw};
use common::{Mount, SESSIONFS, Session, run};

/// Filesystems that have a device.
const FILESYSTEMS: [&str; 2] = ["ext4", "xfs"];

/// A mount of a repository on a device, with a session whose checkpoint says
/// `old`.
fn mounted(device: &FailingDevice, options: &[&str]) -> (Mount, Session) {
    let disk = device.disk();
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    let mut mount = Mount::of(disk, repository, options);
    // It logs saves that failed.
    mount.may_complain = true;
    let session = mount.session("a");
    save(&session, b"old").unwrap();
    (mount, session)
}

/// Saves, and tells what close(2) says.
fn save(session: &Session, content: &[u8]) -> std::io::Result<()> {
    let mut writer = File::create(session.file())?;
    writer.write_all(content)?;
    close(writer)
}

/// The page cache keeps nothing of a file, so that reading it asks the disk.
fn forget(file: &Path) {
    let file = File::open(file).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// A block cannot be written, and all others can: the save that has it fails,
/// and the next ones do not.
#[test]
fn rule_2_3_a_block_that_cannot_be_written_fails_the_save() {
    for filesystem in FILESYSTEMS {
        let device = FailingDevice::with(filesystem);
        let (mount, session) = mounted(&device, &[]);
        let inode = session.inode();
        let before = descriptors(mount.pid()).len();
        device.faults.writes.store(true, Ordering::SeqCst);
        type Way = fn(&Session) -> std::io::Result<()>;
        let close_it: Way = |session| save(session, FAULTY);
        let sync_it: Way = |session| {
            let mut writer = open_rw(session.file())?;
            writer.write_all(FAULTY)?;
            let synced = writer.sync_all();
            // Told once more to whoever looks only at close.
            assert_eq!(errno(close(writer)), libc::EIO);
            synced
        };
        let append_it: Way = |session| {
            let mut writer = File::options().append(true).open(session.file())?;
            writer.write_all(FAULTY)?;
            close(writer)
        };
        for (number, way) in [close_it, sync_it, append_it].into_iter().enumerate() {
            let failed = device.failed();
            assert_eq!(
                errno(way(&session)),
                libc::EIO,
                "{filesystem}, way {number}"
            );
            assert!(device.failed() > failed, "it was not the disk");
            assert_saved(&session, "old");
            assert_eq!(session.inode(), inode);
        }
        // A rename onto it is a save as well (DESIGN 2.11).
        let new = session.on_mount.join("new");
        fs::write(&new, FAULTY).unwrap();
        assert_eq!(errno(fs::rename(&new, session.file())), libc::EIO);
        fs::remove_file(&new).unwrap();
        assert_saved(&session, "old");
        // While the disk has that fault still, and when it is gone.
        assert_next_save_works(&session);
        device.faults.writes.store(false, Ordering::SeqCst);
        save(&session, FAULTY).unwrap();
        assert_saved(&session, std::str::from_utf8(FAULTY).unwrap());
        let log = mount.log();
        assert!(log.contains("a.session"), "{log}");
        assert!(log.contains("Input/output error"), "{log}");
        mount.assert_nothing_leaked(before);
    }
}

/// A checkpoint that cannot be read is told as that, to readers of all kinds
/// and to writers that need what is in it; who replaces it does not.
#[test]
fn rule_2_3_a_checkpoint_that_cannot_be_read_is_an_error_of_the_disk() {
    for filesystem in FILESYSTEMS {
        for options in [&["--no-passthrough"][..], &[]] {
            let device = FailingDevice::with(filesystem);
            let (_mount, session) = mounted(&device, options);
            let mut content = vec![b'x'; 64 << 10];
            content.extend_from_slice(FAULTY);
            // Directly: nothing of it is in a cache of the mount.
            fs::write(session.checkpoint(), &content).unwrap();
            forget(&session.checkpoint());
            device.faults.reads.store(true, Ordering::SeqCst);
            assert_eq!(errno(fs::read(session.file())), libc::EIO, "{filesystem}");
            assert!(device.failed() > 0, "it was not the disk");
            let mut writer = File::options().append(true).open(session.file()).unwrap();
            assert_eq!(errno(writer.write_all(b"more")), libc::EIO, "{filesystem}");
            assert_eq!(errno(close(writer)), libc::EIO, "{filesystem}");
            assert_eq!(session.names(), ["session"]);
            device.faults.reads.store(false, Ordering::SeqCst);
            assert!(fs::read(session.file()).unwrap() == content);
            forget(&session.checkpoint());
            device.faults.reads.store(true, Ordering::SeqCst);
            assert_next_save_works(&session);
        }
    }
}

/// Nothing can be written, the journal neither: the filesystem gives up. What
/// is told is its error, readers go on, and after it has been mounted anew all is
/// there.
#[test]
fn rule_2_3_a_filesystem_that_gives_up_loses_nothing() {
    for filesystem in FILESYSTEMS {
        let device = FailingDevice::with(filesystem);
        let (mut mount, session) = mounted(&device, &[]);
        let other = mount.session("b");
        save(&other, b"the other").unwrap();
        let mut writer = File::create(other.file()).unwrap();
        writer.write_all(b"unfinished").unwrap();
        device.faults.all_writes.store(true, Ordering::SeqCst);
        let failures = [libc::EIO, libc::EROFS];
        for round in 0..5 {
            let saved = errno(save(&session, b"new"));
            assert!(failures.contains(&saved), "{filesystem}: {round}: {saved}");
        }
        let closed = errno(close(writer));
        assert!(failures.contains(&closed), "{filesystem}: {closed}");
        let made = errno(fs::create_dir(mount.mountpoint.join("c.session")));
        assert!(failures.contains(&made), "{filesystem}: {made}");
        // It lives, and says so.
        let status = Command::new(SESSIONFS).arg("status").output().unwrap();
        let status = String::from_utf8(status.stdout).unwrap();
        let place = mount.mountpoint.to_str().unwrap();
        assert!(status.contains(place), "{status}");
        // An xfs that has shut down reads nothing either.
        let expected = if filesystem == "ext4" {
            Ok("old".into())
        } else {
            Err(libc::EIO)
        };
        let read = fs::read_to_string(session.file()).map_err(|e| e.raw_os_error().unwrap());
        assert_eq!(read, expected);

        // Both are unmounted as usual, and mounted anew.
        device.faults.all_writes.store(false, Ordering::SeqCst);
        run(SESSIONFS, ["umount".as_ref(), mount.mountpoint.as_os_str()]);
        assert!(mount.wait().success(), "{}", mount.log());
        run("umount", [mount.disk.path()]);
        run("mount", [&device.device, mount.disk.path()]);
        mount.restart(&[]);
        assert_saved(&session, "old");
        assert_saved(&other, "the other");
        assert_next_save_works(&session);
        assert_next_save_works(&other);
    }
}
