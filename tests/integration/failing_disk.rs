//! A disk that fails under the mount, and works again. The program whose call failed gets
//! the disk's error, and the old checkpoint stands (DESIGN 2.3, I1, I5).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use crate::common::failing::{FAULTY, FailingDevice};
use crate::common::mkfs::NO_PATH;
use crate::common::observe::descriptors;
use crate::common::tools::{assert_next_save_works, assert_saved, close, errno, open_rw, save};
use crate::common::{Backing, Disk, Mount, SESSIONFS, Session, run, unmount, wait_until};

/// Filesystems that have a device.
const FILESYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// A mount of a repository on a device, with a session whose checkpoint says
/// `old`.
fn mounted(device: &FailingDevice, options: &[&str]) -> (Mount, Session) {
    mounted_on(device.disk(), options)
}

fn mounted_on(disk: Disk, options: &[&str]) -> (Mount, Session) {
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    let mut mount = Mount::of(disk, repository, &[&NO_PATH, options].concat());
    // It logs saves that failed.
    mount.may_complain = true;
    let session = mount.session("a");
    save(session.file(), b"old").unwrap();
    (mount, session)
}

/// Drops a file from the page cache, so that reading it asks the disk.
fn forget(file: &Path) {
    let file = File::open(file).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Ends the daemon and the filesystem as usual, and mounts both again.
fn mount_anew(device: &FailingDevice, mount: &mut Mount) {
    unmount(
        SESSIONFS,
        &["umount".as_ref(), mount.mountpoint.as_os_str()],
    );
    assert!(mount.wait().success(), "{}", mount.log());
    unmount("umount", &[mount.disk.path()]);
    run("mount", [&device.device, mount.disk.path()]);
    mount.restart(&NO_PATH);
}

/// One block cannot be written: the save that needs it fails, and the next ones do not.
#[test]
fn rule_2_3_a_block_that_cannot_be_written_fails_the_save() {
    for filesystem in FILESYSTEMS {
        let device = FailingDevice::with(filesystem);
        let (mount, session) = mounted(&device, &[]);
        let inode = session.inode();
        let before = descriptors(mount.pid()).len();
        device.faults.writes.store(true, Ordering::SeqCst);
        type Way = fn(&Session) -> std::io::Result<()>;
        let close_it: Way = |session| save(session.file(), FAULTY);
        let sync_it: Way = |session| {
            let mut writer = open_rw(session.file())?;
            writer.write_all(FAULTY)?;
            let synced = writer.sync_all();
            // Reported again at close, for programs that look only there.
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
            let told = errno(device.faults.prompt(|| way(&session)));
            assert_eq!(told, libc::EIO, "{filesystem}, way {number}");
            assert!(device.failed() > failed, "it was not the disk");
            assert_saved(&session, "old");
            assert_eq!(session.inode(), inode);
        }
        // A rename onto it is a save as well (DESIGN 2.11).
        let new = session.on_mount.join("new");
        fs::write(&new, FAULTY).unwrap();
        let renamed = device.faults.prompt(|| fs::rename(&new, session.file()));
        assert_eq!(errno(renamed), libc::EIO, "{filesystem}");
        fs::remove_file(&new).unwrap();
        assert_saved(&session, "old");
        // While the disk has that fault, and after it.
        assert_next_save_works(&session);
        device.faults.writes.store(false, Ordering::SeqCst);
        save(session.file(), FAULTY).unwrap();
        assert_saved(&session, std::str::from_utf8(FAULTY).unwrap());
        let log = mount.log();
        assert!(log.contains("a.session"), "{log}");
        assert!(log.contains("Input/output error"), "{log}");
        mount.assert_nothing_leaked(before);
    }
}

/// A checkpoint that cannot be read gives that error to all readers, and to writers that
/// need its content, but not to writers that replace it.
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
            let read = device.faults.prompt(|| fs::read(session.file()));
            assert_eq!(errno(read), libc::EIO, "{filesystem}");
            assert!(device.failed() > 0, "it was not the disk");
            let mut writer = File::options().append(true).open(session.file()).unwrap();
            let written = device.faults.prompt(|| writer.write_all(b"more"));
            assert_eq!(errno(written), libc::EIO, "{filesystem}");
            let closed = device.faults.prompt(|| close(writer));
            assert_eq!(errno(closed), libc::EIO, "{filesystem}");
            assert_eq!(session.names(), ["session"]);
            device.faults.reads.store(false, Ordering::SeqCst);
            assert!(fs::read(session.file()).unwrap() == content);
            forget(&session.checkpoint());
            device.faults.reads.store(true, Ordering::SeqCst);
            assert_next_save_works(&session);
        }
    }
}

/// Nothing can be written, not even the journal: the filesystem shuts down. Programs get
/// its error, readers go on, and after a new mount everything is there.
#[test]
fn rule_2_3_a_filesystem_that_gives_up_loses_nothing() {
    for filesystem in FILESYSTEMS {
        let device = FailingDevice::with(filesystem);
        let (mut mount, session) = mounted(&device, &[]);
        let other = mount.session("b");
        save(other.file(), b"the other").unwrap();
        let mut writer = File::create(other.file()).unwrap();
        writer.write_all(b"unfinished").unwrap();
        device.faults.all_writes.store(true, Ordering::SeqCst);
        let failures = [libc::EIO, libc::EROFS];
        for round in 0..5 {
            let saved = errno(device.faults.prompt(|| save(session.file(), b"new")));
            assert!(failures.contains(&saved), "{filesystem}: {round}: {saved}");
        }
        let closed = errno(device.faults.prompt(|| close(writer)));
        assert!(failures.contains(&closed), "{filesystem}: {closed}");
        let made = mount.mountpoint.join("c.session");
        let made = errno(device.faults.prompt(|| fs::create_dir(made)));
        assert!(failures.contains(&made), "{filesystem}: {made}");
        // The removal of a checkpoint would only be deferred (DESIGN 2.12).
        let removed = errno(device.faults.prompt(|| fs::remove_file(session.file())));
        assert!(failures.contains(&removed), "{filesystem}: {removed}");
        // It is alive, and says so.
        let status = Command::new(SESSIONFS).arg("status").output().unwrap();
        let status = String::from_utf8(status.stdout).unwrap();
        let place = mount.mountpoint.to_str().unwrap();
        assert!(status.contains(place), "{status}");
        // An xfs that has shut down cannot be read either.
        let expected = if filesystem == "xfs" {
            Err(libc::EIO)
        } else {
            Ok("old".into())
        };
        let read = fs::read_to_string(session.file()).map_err(|e| e.raw_os_error().unwrap());
        assert_eq!(read, expected);

        // Both are unmounted as usual, and mounted anew.
        device.faults.all_writes.store(false, Ordering::SeqCst);
        mount_anew(&device, &mut mount);
        assert_saved(&session, "old");
        assert_saved(&other, "the other");
        assert_next_save_works(&session);
        assert_next_save_works(&other);
    }
}

/// btrfs keeps small files with its metadata. Both copies of one such block cannot be
/// written, everything else can. The filesystem makes itself read-only.
#[test]
fn rule_2_3_metadata_that_cannot_be_written_loses_nothing() {
    let device = FailingDevice::with("btrfs");
    let (mut mount, session) = mounted_on(device.disk_with("defaults"), &[]);
    let refused = mount.session("refused");
    device.faults.writes.store(true, Ordering::SeqCst);
    let saved = errno(device.faults.prompt(|| save(refused.file(), FAULTY)));
    assert!([libc::EIO, libc::EROFS].contains(&saved), "{saved}");
    assert!(device.failed() > 0, "it was not the disk");
    // The disk would write everything else, but the filesystem writes nothing any more.
    for _ in 0..3 {
        let saved = device.faults.prompt(|| save(session.file(), b"new"));
        assert_eq!(errno(saved), libc::EROFS);
    }
    let removed = errno(device.faults.prompt(|| fs::remove_file(session.file())));
    assert!([libc::EIO, libc::EROFS].contains(&removed), "{removed}");
    // Until the next mount, other data of the block that could not be written cannot be
    // read either (Linux 6.18).
    match device.faults.prompt(|| fs::read(session.file())) {
        Ok(read) => assert_eq!(read, b"old"),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO)),
    }
    device.faults.writes.store(false, Ordering::SeqCst);
    mount_anew(&device, &mut mount);
    assert_saved(&session, "old");
    assert!(!refused.checkpoint().exists());
    assert_next_save_works(&session);
    assert_next_save_works(&refused);
}

/// The disk stops writing before a change of names, which the filesystem makes only in
/// memory: the call must fail. Whether a session has its new name afterwards depends on
/// the disk; its checkpoint is there.
#[test]
fn rule_2_3_a_change_of_names_that_is_not_durable_is_no_success() {
    type Change = fn(&Mount, &Session) -> std::io::Result<()>;
    let make: Change = |mount, _| fs::create_dir(mount.mountpoint.join("new.session"));
    let rename: Change =
        |mount, session| fs::rename(&session.on_mount, mount.mountpoint.join("new.session"));
    // As in any directory, a removal is durable after the next sync.
    fn sync(mount: &Mount) -> std::io::Result<()> {
        fs::File::open(&mount.mountpoint)?.sync_all()
    }
    let remove: Change = |mount, _| {
        fs::remove_dir(mount.mountpoint.join("empty.session"))?;
        sync(mount)
    };
    // As `rm -r` does: the second call needs the first one, a removal that is only
    // deferred so far (DESIGN 2.12).
    let remove_all: Change = |mount, session| {
        fs::remove_file(session.file())?;
        fs::remove_dir(&session.on_mount)?;
        sync(mount)
    };
    let changes = [make, rename, remove, remove_all];
    for filesystem in FILESYSTEMS {
        for (number, change) in changes.into_iter().enumerate() {
            let device = FailingDevice::with(filesystem);
            let (mut mount, session) = mounted(&device, &[]);
            mount.session("empty");
            device.faults.all_writes.store(true, Ordering::SeqCst);
            let failed = device.failed();
            let changed = errno(device.faults.prompt(|| change(&mount, &session)));
            let what = format!("{filesystem}, change {number}: {changed}");
            assert!([libc::EIO, libc::EROFS].contains(&changed), "{what}");
            assert!(device.failed() > failed, "it was not the disk: {what}");
            device.faults.all_writes.store(false, Ordering::SeqCst);
            mount_anew(&device, &mut mount);
            let renamed = Session {
                on_mount: mount.mountpoint.join("new.session"),
                in_repository: mount.repository.join("new.session"),
            };
            let there = match renamed.checkpoint().exists() {
                true => renamed,
                false => session,
            };
            assert_saved(&there, "old");
            assert_next_save_works(&there);
        }
    }
}

/// All tests see one table of mounts. The repository in one of them may lie on a
/// filesystem that does not even return attributes, while another test makes filesystems
/// (see [`NO_PATH`]).
#[test]
fn filesystems_are_made_while_one_has_shut_down() {
    let device = FailingDevice::with("xfs");
    let (mut mount, session) = mounted(&device, &[]);
    device.faults.all_writes.store(true, Ordering::SeqCst);
    // It shuts down when its log cannot be written.
    let made = mount.mountpoint.join("b.session");
    let made = errno(device.faults.prompt(|| fs::create_dir(made)));
    assert_eq!(made, libc::EIO);
    wait_until("the filesystem has shut down", || {
        fs::metadata(&mount.repository).is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
    });
    for backing in [Backing::Btrfs, Backing::Xfs, Backing::Ext4] {
        let disk = Disk::new(backing);
        fs::write(disk.path().join("file"), "it works").unwrap();
    }
    device.faults.all_writes.store(false, Ordering::SeqCst);
    mount_anew(&device, &mut mount);
    assert_saved(&session, "old");
}
