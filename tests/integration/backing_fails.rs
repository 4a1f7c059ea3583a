//! The filesystem under the mount refuses, goes away and comes back. Programs get its
//! error, the old checkpoint stands, nothing is left behind, and all works again as soon
//! as the filesystem does (DESIGN 2.3, I1, I4, I5). A disk that fails is in
//! `failing_disk`, one that is full in `full_disk`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use crate::common::observe::descriptors;
use crate::common::tools::{assert_next_save_works, assert_saved, close, errno, save};
use crate::common::{Backing, Disk, Mount, Session, run, unmount, wait_until};

/// A mount of a repository on this disk, with a session whose checkpoint says
/// `old`.
fn mounted(disk: Disk) -> (Mount, Session) {
    let repository = disk.path().join("repository");
    if !repository.exists() {
        fs::create_dir(&repository).unwrap();
    }
    let mut mount = Mount::of(disk, repository, &[]);
    // It logs saves that failed.
    mount.may_complain = true;
    let session = mount.session("a");
    save(session.file(), b"old").unwrap();
    (mount, session)
}

fn remount(disk: &Path, options: &str) {
    let options = format!("remount,{options}");
    run("mount", ["-o".as_ref(), options.as_ref(), disk.as_os_str()]);
}

/// Every change that a program may ask for gets this errno; reading still works.
#[track_caller]
fn assert_all_refused(mount: &Mount, session: &Session, expected: i32) {
    let a_name = session.on_mount.join("a-name");
    let appended = File::options().append(true).open(session.file());
    let refusals = [
        ("save", save(session.file(), b"new")),
        (
            "append",
            appended.and_then(|mut f| f.write_all(b"more").and_then(|()| close(f))),
        ),
        ("make a file", File::create_new(&a_name).map(drop)),
        ("make a directory", fs::create_dir(&a_name)),
        (
            "make a session",
            fs::create_dir(mount.mountpoint.join("b.session")),
        ),
    ];
    for (what, result) in refusals {
        assert_eq!(errno(result), expected, "{what}");
    }
    assert_saved(session, "old");
    assert!(!mount.repository.join("b.session").exists());
}

#[test]
fn rule_2_3_a_filesystem_that_is_made_read_only_says_erofs() {
    for backing in [Backing::Ext4, Backing::Xfs, Backing::Tmpfs] {
        let (mount, session) = mounted(Disk::new(backing));
        let before = descriptors(mount.pid()).len();
        let mut reader = File::open(session.file()).unwrap();
        // A writer that has changed nothing yet does not hold it up.
        let mut writer = crate::common::tools::open_rw(session.file()).unwrap();
        remount(mount.disk.path(), "ro");
        assert_eq!(errno(writer.write_all(b"new")), libc::EROFS, "{backing:?}");
        assert_eq!(errno(close(writer)), libc::EROFS, "{backing:?}");
        assert_all_refused(&mount, &session, libc::EROFS);
        let refused = errno(fs::remove_file(session.file()));
        assert_eq!(refused, libc::EROFS, "{backing:?}");
        assert_saved(&session, "old");
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "old");
        drop(reader);
        remount(mount.disk.path(), "rw");
        assert_next_save_works(&session);
        mount.assert_nothing_leaked(before);
    }
}

/// ext4 makes itself read-only when it finds an error: it does not wait for
/// writers as a remount does. It stays so until it is unmounted.
#[test]
fn rule_2_3_a_filesystem_that_makes_itself_read_only_says_so() {
    let disk = Disk::new(Backing::Ext4);
    remount(disk.path(), "errors=remount-ro");
    let (mut mount, session) = mounted(disk);
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(b"unfinished").unwrap();
    let output = run(
        "findmnt",
        ["-no", "SOURCE", mount.disk.path().to_str().unwrap()],
    );
    let device = String::from_utf8(output.stdout).unwrap();
    let name = device.trim().strip_prefix("/dev/").unwrap();
    fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").unwrap();
    // ext4 answers EIO to an fsync then, and EROFS to a change (Linux 6.18).
    let closed = errno(close(writer));
    assert!([libc::EIO, libc::EROFS].contains(&closed), "{closed}");
    assert_all_refused(&mount, &session, libc::EROFS);
    // access(2) does not see it (Linux 6.18). The removal ends with its process, so it
    // must be refused and not deferred (DESIGN 2.12).
    let other = mount.mountpoint.join("other.session");
    assert_eq!(errno(fs::rename(&session.on_mount, &other)), libc::EROFS);
    for command in ["rm a.session/session", "rm -r a.session"] {
        let output =
            crate::common::shell("bash", &mount.mountpoint, &format!("LC_ALL=C {command}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{command}");
        assert!(said.contains("Read-only file system"), "{command}: {said}");
    }
    assert_saved(&session, "old");
    mount.signal("TERM");
    assert!(mount.wait().success(), "{}", mount.log());
    let image = mount.disk.image();
    unmount("umount", &[mount.disk.path()]);
    // fsck exits with 1: it has repaired what we marked as broken.
    let repaired = std::process::Command::new("e2fsck")
        .arg("-fy")
        .arg(&image)
        .output();
    let status = repaired.unwrap().status.code();
    assert!(matches!(status, Some(0 | 1)), "{status:?}");
    let arguments = ["-o".as_ref(), "loop".as_ref(), image.as_os_str()];
    run(
        "mount",
        arguments.into_iter().chain([mount.disk.path().as_os_str()]),
    );
    mount.restart(&[]);
    assert_saved(&session, "old");
    assert_next_save_works(&session);
}

#[test]
fn rule_2_3_a_filesystem_without_inodes_says_enospc() {
    let small = ["-q", "-F", "-N", "32"];
    // A hundredth of it, 3 MiB, for inodes of 2 KiB each: about 1500.
    let xfs = ["-q", "-K", "-i", "size=2048,maxpct=1"];
    let tmpfs = ["-t", "tmpfs", "-o", "size=10m,nr_inodes=64", "tmpfs"];
    for disk in [
        Disk::formatted(4 << 20, "mkfs.ext4", &small),
        Disk::formatted(300 << 20, "mkfs.xfs", &xfs),
        Disk::with_options(&tmpfs),
    ] {
        let (mount, session) = mounted(disk);
        // The kernel forgets replaced checkpoints, which gives their inodes back.
        drop(fs::read(session.file()));
        let fillers = mount.disk.path().join("fillers");
        fs::create_dir(&fillers).unwrap();
        let mut number = 0;
        let filled = loop {
            number += 1;
            assert!(number < 10_000, "it has no end");
            if let Err(e) = File::create_new(fillers.join(number.to_string())) {
                break e;
            }
        };
        assert_eq!(filled.raw_os_error(), Some(libc::ENOSPC));
        let inode = session.inode();
        let before = descriptors(mount.pid()).len();
        for _ in 0..3 {
            assert_all_refused(&mount, &session, libc::ENOSPC);
        }
        assert_eq!(session.inode(), inode);
        // Two, because tmpfs also takes the room for an attribute, the mark of the staged
        // file, from the room for inodes (Linux 6.18).
        for name in ["1", "2"] {
            fs::remove_file(fillers.join(name)).unwrap();
        }
        for _ in 0..20 {
            wait_until("the inode of the last one is free", || {
                save(session.file(), b"again").is_ok()
            });
            assert_saved(&session, "again");
        }
        mount.assert_nothing_leaked(before);
    }
}

#[test]
fn rule_2_3_a_filesystem_over_quota_says_edquot() {
    // This kernel has quotas on btrfs only.
    let disk = Disk::formatted(512 << 20, "mkfs.btrfs", &["-q", "-K"]);
    let repository = disk.path().join("repository");
    let place = repository.to_str().unwrap();
    run("btrfs", ["subvolume", "create", place]);
    run("btrfs", ["quota", "enable", disk.path().to_str().unwrap()]);
    let limit = |limit: &str| {
        run("btrfs", ["qgroup", "limit", limit, place]);
    };
    limit("8M");
    let (mount, session) = mounted(disk);
    let inode = session.inode();
    let before = descriptors(mount.pid()).len();
    for round in 0..3 {
        let mut writer = File::create(session.file()).unwrap();
        let piece = vec![round; 64 << 10];
        let written = (0..512).try_for_each(|_| writer.write_all(&piece));
        let closed = close(writer);
        assert_eq!(errno(written), libc::EDQUOT, "round {round}");
        assert_eq!(errno(closed), libc::EDQUOT, "round {round}");
        assert_saved(&session, "old");
        assert_eq!(session.inode(), inode);
    }
    let log = mount.log();
    assert!(log.contains("Disk quota exceeded"), "{log}");
    // What fits within the quota still works.
    assert_next_save_works(&session);
    limit("none");
    let big = vec![b'b'; 16 << 20];
    save(session.file(), &big).unwrap();
    assert!(fs::read(session.checkpoint()).unwrap() == big);
    assert_next_save_works(&session);
    mount.assert_nothing_leaked(before);
}

/// The daemon keeps the repository open. For the mount nothing changes, and the same
/// filesystem is there when it is mounted again.
#[test]
fn invariant_2_a_filesystem_that_is_unmounted_lazily_keeps_what_is_saved() {
    for backing in [Backing::Ext4, Backing::Xfs] {
        let (mount, session) = mounted(Disk::new(backing));
        let mut writer = File::create(session.file()).unwrap();
        writer.write_all(b"on").unwrap();
        let output = run(
            "findmnt",
            ["-no", "SOURCE", mount.disk.path().to_str().unwrap()],
        );
        let device = String::from_utf8(output.stdout).unwrap();
        run("umount", ["-l".as_ref(), mount.disk.path().as_os_str()]);
        assert!(!mount.repository.exists());
        writer.write_all(b"ward").unwrap();
        close(writer).unwrap();
        assert_eq!(fs::read(session.file()).unwrap(), b"onward");
        let other = mount.mountpoint.join("b.session");
        fs::create_dir(&other).unwrap();
        // Nothing has been made where the filesystem was.
        assert_eq!(fs::read_dir(mount.disk.path()).unwrap().count(), 0);
        run(
            "mount",
            [device.trim().as_ref(), mount.disk.path().as_os_str()],
        );
        assert_saved(&session, "onward");
        assert!(mount.repository.join("b.session").is_dir());
        assert_next_save_works(&session);
    }
}

/// The mount is of the directory, whatever its name is now.
#[test]
fn invariant_1_a_repository_that_is_moved_stays_the_mounted_one() {
    let (mount, session) = mounted(Disk::new(Backing::Ext4));
    let moved = mount.disk.path().join("moved");
    let in_moved = Session {
        in_repository: moved.join("a.session"),
        ..session.clone()
    };
    let mut reader = File::open(session.file()).unwrap();
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(b"new").unwrap();
    fs::rename(&mount.repository, &moved).unwrap();
    close(writer).unwrap();
    assert_saved(&in_moved, "new");
    assert_next_save_works(&in_moved);
    // Another directory in its place is another repository.
    let decoy = mount.repository.join("a.session");
    fs::create_dir_all(&decoy).unwrap();
    fs::write(decoy.join("session"), "decoy").unwrap();
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "old");
    assert_saved(&in_moved, "the next");
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(b"newer").unwrap();
    close(writer).unwrap();
    assert_saved(&in_moved, "newer");
    assert_eq!(fs::read(decoy.join("session")).unwrap(), b"decoy");
    fs::remove_dir_all(&mount.repository).unwrap();
    fs::rename(&moved, &mount.repository).unwrap();
    assert_saved(&session, "newer");
    assert_next_save_works(&session);
}

/// A repository that is removed is gone, for writers as well; the one that is
/// made in its place is used.
#[test]
fn invariant_1_a_repository_that_is_removed_is_gone_and_may_be_made_anew() {
    let (mount, session) = mounted(Disk::new(Backing::Ext4));
    let before = descriptors(mount.pid()).len();
    let mut reader = File::open(session.file()).unwrap();
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(b"new").unwrap();
    fs::remove_dir_all(&mount.repository).unwrap();
    assert_eq!(errno(close(writer)), libc::ENOENT);
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "old");
    drop(reader);
    assert_eq!(errno(fs::read(session.file())), libc::ENOENT);
    assert_eq!(errno(save(session.file(), b"new")), libc::ENOENT);
    assert_eq!(fs::read_dir(&mount.mountpoint).unwrap().count(), 0);
    assert!(!mount.repository.exists(), "made by whom?");
    fs::create_dir(&mount.repository).unwrap();
    let session = mount.session("a");
    assert_next_save_works(&session);
    mount.assert_nothing_leaked(before);
}
