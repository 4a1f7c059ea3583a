//! The disk space that a save takes: no more than its user would be charged in an
//! ordinary directory (DESIGN 13.2); and of its base only data that stays is copied.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::saves::{Running, kill};
use crate::common::tools::{close, end, open_rw, output_of};
use crate::common::users::User::{Bob, Root};
use crate::common::users::{open_to_all, run_as, told};
use crate::common::{Backing, Disk, Mount, Session, assert_checkpoint, mounted, wait_until};

on_each_filesystem!(
    section_3_a_change_of_a_sparse_checkpoint_copies_what_is_data,
    section_3_a_truncation_copies_only_the_rest,
);

/// A mount for all users of a disk, and a session of Bob's on it.
fn shared(disk: Disk) -> (Mount, Session) {
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    let mount = Mount::of(disk, repository, &["--allow-other"]);
    open_to_all(&mount);
    let session = mount.session("bobs");
    std::os::unix::fs::chown(&session.in_repository, Some(61002), Some(61002)).unwrap();
    (mount, session)
}

/// The blocks that are free for root and for others, in MiB.
fn free(place: &Path) -> (u64, u64) {
    let stat = rustix::fs::statvfs(place).unwrap();
    let mib = |blocks: u64| (blocks * stat.f_frsize) >> 20;
    (mib(stat.f_bfree), mib(stat.f_bavail))
}

/// Quotas bind if the file belongs to its writer, and no process that may exceed them
/// writes it (quotactl(2)). Many kernels have no quotas to test it with.
#[test]
fn rule_13_2_a_staged_file_belongs_to_its_writer() {
    let (mount, session) = shared(Disk::new(Backing::Tmpfs));
    let others = mount.session("others");
    let make = "echo old > session; chmod 666 session; chown 61001:61010 session";
    assert!(run_as(Root, &others.in_repository, make).status.success());
    let owners = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
        let mut owners = Vec::new();
        for fd in fds.flatten() {
            let is_staged = fs::metadata(fd.path()).is_ok_and(|it| it.is_file() && it.nlink() == 0);
            let target = fs::read_link(fd.path()).unwrap_or_default();
            if is_staged && target.starts_with(&mount.repository) {
                let stat = fs::metadata(fd.path()).unwrap();
                owners.push((stat.uid(), stat.gid()));
            }
        }
        owners.sort_unstable();
        owners.dedup();
        owners
    };
    for (place, owner) in [
        (&session, (61002, 61002)),
        // On any other filesystem the file itself would be written.
        (&others, (61001, 61010)),
    ] {
        let write = "exec setpriv --reuid=61002 --regid=61002 --clear-groups \
            dash -c 'exec 3> session; echo x >&3; echo; read go' > \"$TOLD\" < \"$GO\"";
        let mut writer = Running::start("sh", &place.on_mount, write, &[]);
        writer.told();
        assert_eq!(owners(), [owner]);
        writer.go_on();
        assert!(writer.finish().status.success());
        let stat = fs::metadata(place.checkpoint()).unwrap();
        assert_eq!((stat.uid(), stat.gid()), owner);
    }
    const CAP_SYS_RESOURCE: u64 = 24;
    for thread in fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let set = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:\t"));
        let set = u64::from_str_radix(set.unwrap(), 16).unwrap();
        assert_eq!(set & (1 << CAP_SYS_RESOURCE), 0, "{status}");
    }
}

#[test]
fn rule_13_2_reserved_blocks_are_not_for_a_save_through_a_daemon_of_root() {
    let options = ["-q", "-F", "-m", "50", "-E", "lazy_itable_init=1,nodiscard"];
    let (mut mount, session) = shared(Disk::formatted(64 << 20, "mkfs.ext4", &options));
    assert!(
        run_as(Bob, &session.on_mount, "echo old > session")
            .status
            .success()
    );
    // What the refused save took.
    mount.may_complain = true;
    let fill = "head -c 60m /dev/zero > session";
    let output = run_as(Bob, &session.on_mount, fill);
    assert!(told(&output).contains("No space left"), "{output:?}");
    assert_checkpoint(&session, "old\n");
    // It could take at most what is free for others.
    let (all, others) = free(&mount.repository);
    let program = format!(
        "import os
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
try:
    while True: os.write(fd, bytes(1 << 20))
except OSError as e: print(e.errno, os.statvfs('{}').f_bfree * os.statvfs('.').f_frsize >> 20)
",
        mount.repository.display()
    );
    let output = run_as(Bob, &session.on_mount, &format!("python3 -c \"{program}\""));
    let said = told(&output);
    let mut words = said.split_whitespace().skip(1);
    assert_eq!(words.next(), Some("28"), "{said}");
    let left: u64 = words.next().unwrap().parse().unwrap();
    assert!(
        left + 2 >= all - others,
        "{left} of {all} left, {others} for all"
    );
    // Root may use those blocks.
    let size = others + 4;
    let fill = format!("head -c {size}m /dev/zero > session");
    assert!(run_as(Root, &session.on_mount, &fill).status.success());
}

/// A checkpoint of this many MiB, with data at its begin and in its middle.
fn sparse(session: &Session, mib: u64) {
    let file = fs::File::create(session.checkpoint()).unwrap();
    file.set_len(mib << 20).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", mib << 19).unwrap();
    file.sync_all().unwrap();
}

fn section_3_a_change_of_a_sparse_checkpoint_copies_what_is_data(backing: Backing) {
    // The disks have 2 GiB.
    let (mount, session) = mounted(backing);
    let mib = 16 << 10;
    sparse(&session, mib);
    for change in [
        "printf X | dd of=session bs=1 seek=5 conv=notrunc status=none",
        "printf X >> session",
        "truncate -s +1 session",
        "fallocate -p -o 1m -l 1m session",
    ] {
        output_of(&session.on_mount, "sh", &["-c", change]);
        let stat = fs::metadata(session.checkpoint()).unwrap();
        assert!(stat.len() >= mib << 20, "{change}");
        assert!(stat.blocks() < 1000, "{change}: {} blocks", stat.blocks());
        let file = fs::File::open(session.checkpoint()).unwrap();
        let mut content = [0; 7];
        for (at, expected) in [
            (0, b"beginX\0"),
            (mib << 19, b"middle\0"),
            (1 << 20, &[0; 7]),
        ] {
            file.read_exact_at(&mut content, at).unwrap();
            assert_eq!(&content, expected, "{change}: at {at}");
        }
        assert_eq!(session.names(), ["session"]);
    }
    drop(mount);
}

fn section_3_a_truncation_copies_only_the_rest(backing: Backing) {
    let (mount, session) = mounted(backing);
    // More than twice fits.
    let big = 1200 << 20;
    let file = fs::File::create(session.checkpoint()).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, big).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    drop(file);
    for cut in [
        "truncate -s 3 session",
        "python3 -c 'import os; os.truncate(\"session\", 3)'",
    ] {
        let inode = session.inode();
        output_of(&session.on_mount, "sh", &["-c", cut]);
        assert_checkpoint(&session, "beg");
        assert_ne!(session.inode(), inode, "{cut} was no save");
    }
    let file = open_rw(session.file()).unwrap();
    file.set_len(2).unwrap();
    file.write_all_at(b"X", 3).unwrap();
    close(file).unwrap();
    assert_checkpoint(&session, "be\0X");
    drop(mount);
}

/// A copy that takes long ends with the caller that waits for it.
#[test]
fn section_7_a_killed_program_does_not_wait_for_a_long_copy() {
    let (mount, session) = mounted(Backing::Tmpfs);
    const PIECES: usize = 10;
    let content = vec![b'x'; PIECES << 26];
    fs::write(session.checkpoint(), content).unwrap();
    let log = mount.disk.beside("strace");
    // A second for each piece.
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-e", "trace=copy_file_range", "-o"])
        .arg(&log)
        .args(["-e", "inject=copy_file_range:delay_exit=1000000", "-p"])
        .arg(mount.pid().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("strace follows", || {
        let threads = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
        threads.flatten().all(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0")
        })
    });
    let pieces = || {
        fs::read_to_string(&log)
            .unwrap()
            .matches("copy_file_range(")
            .count()
    };
    let writer = Running::start("sh", &session.on_mount, "exec printf y >> session", &[]);
    wait_until("the copy has begun", || pieces() > 0);
    kill("KILL", &writer.pid.to_string());
    let output = writer.finish();
    assert!(!output.status.success());
    let copied = pieces();
    end(&mut strace);
    assert!(copied < PIECES - 2, "{copied} pieces were copied");
    assert_eq!(fs::metadata(session.checkpoint()).unwrap().len(), 10 << 26);
    // And it keeps no other process from saving.
    fs::write(session.file(), "the next").unwrap();
    assert_checkpoint(&session, "the next");
}
