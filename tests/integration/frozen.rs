//! Requests that wait for a disk, and others that need none meanwhile (DESIGN 13.4): the
//! repository's filesystem is frozen (fsfreeze(8)), so that it can be read but not
//! changed.

use std::fs;
use std::io::Seek;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::observe::{is_in_call, status, threads};
use crate::common::tools::{assert_next_save_works, assert_saved};
use crate::common::users::{Program, User, run_as, shared_mount_by, told};
use crate::common::{Backing, Mount, Session, run, wait_until};

// Filesystems that can be frozen.
mod ext4 {
    use super::Backing::Ext4;

    #[test]
    fn rule_13_4_requests_that_need_no_disk_do_not_wait_for_it() {
        super::rule_13_4_requests_that_need_no_disk_do_not_wait_for_it(Ext4);
    }

    #[test]
    fn rule_13_4_every_kind_of_change_leaves_a_thread_free() {
        super::rule_13_4_every_kind_of_change_leaves_a_thread_free(Ext4);
    }

    #[test]
    fn rule_13_2_what_waits_of_one_user_leaves_threads_to_others() {
        super::rule_13_2_what_waits_of_one_user_leaves_threads_to_others(Ext4);
    }

    #[test]
    fn rule_13_3_waiting_writes_are_bounded() {
        super::rule_13_3_waiting_writes_are_bounded(Ext4);
    }
}
on_each_filesystem!(in_full xfs Xfs
    rule_13_4_requests_that_need_no_disk_do_not_wait_for_it
    rule_13_4_every_kind_of_change_leaves_a_thread_free
    rule_13_2_what_waits_of_one_user_leaves_threads_to_others
    rule_13_3_waiting_writes_are_bounded
);

/// A filesystem that is frozen until this value is dropped.
struct Frozen(PathBuf);

impl Frozen {
    /// The filesystem of a mount's repository.
    fn disk_of(mount: &Mount) -> Self {
        let path = mount.disk.path();
        run("mountpoint", ["-q".as_ref(), path.as_os_str()]);
        run("fsfreeze", ["-f".as_ref(), path.as_os_str()]);
        Self(path.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").arg("-u").arg(&self.0).status();
        assert!(thawed.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// A running command. At its end the filesystem is thawed, so that it does not wait for
/// ever.
struct Running {
    child: Child,
    disk: PathBuf,
}

impl Running {
    fn start(mount: &Mount, directory: &Path, command: &str) -> Self {
        Self::reading(mount, directory, command, Stdio::null())
    }

    /// The command changes its directory itself, so that this process does not wait.
    fn reading(mount: &Mount, directory: &Path, command: &str, input: Stdio) -> Self {
        let child = Command::new("dash")
            .args(["-c", &format!("cd '{}' && {command}", directory.display())])
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn();
        Self {
            child: child.unwrap(),
            disk: mount.disk.path().to_owned(),
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its output, after it has ended well.
    fn output(mut self) -> String {
        wait_until("a command ends", || self.has_ended());
        assert!(self.child.wait().unwrap().success());
        std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = Command::new("fsfreeze").arg("-u").arg(&self.disk).status();
            let _ = self.child.wait();
        }
    }
}

/// The threads of the daemon that are in one of these system calls.
fn inside(mount: &Mount, calls: &[i64]) -> usize {
    let threads = threads(mount.pid(), None).into_iter();
    threads
        .filter(|&tid| calls.iter().any(|&call| is_in_call(tid, call)))
        .count()
}

/// What needs no disk is done.
fn assert_others_are_served(mount: &Mount, reader: &fs::File) {
    let input = reader.try_clone().unwrap().into();
    let read = Running::reading(mount, Path::new("/"), "cat", input).output();
    assert_eq!(read, "old");
    for (command, said) in [
        ("stat -c %F .", "directory\n"),
        ("cat other.session/session", "other"),
        ("ls other.session", "session\n"),
        ("stat -c %s other.session/session", "5\n"),
        ("ls -d other.session", "other.session\n"),
        ("head -c 2 other.session/session", "ot"),
        (
            "find other.session -name session",
            "other.session/session\n",
        ),
    ] {
        let done = Running::start(mount, &mount.mountpoint, command).output();
        assert_eq!(done, said, "{command}");
    }
}

/// A mount with this many sessions, another session, and a reader that has read the first
/// one.
fn prepared(
    backing: Backing,
    options: &[&str],
    count: usize,
) -> (Mount, Vec<Session>, Session, fs::File) {
    let mount = Mount::with(backing, options);
    let sessions: Vec<_> = (0..count).map(|n| mount.session(n.to_string())).collect();
    for session in &sessions {
        fs::write(session.file(), "old").unwrap();
    }
    let other = mount.session("other");
    fs::write(other.file(), "other").unwrap();
    let mut reader = fs::File::open(sessions[0].file()).unwrap();
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    reader.rewind().unwrap();
    (mount, sessions, other, reader)
}

fn rule_13_4_requests_that_need_no_disk_do_not_wait_for_it(backing: Backing) {
    for (options, count) in [(&["--threads=1"][..], 50), (&[][..], 8), (&[][..], 50)] {
        let (mount, sessions, other, reader) = prepared(backing, options, count);
        let mut savers = Vec::new();
        let frozen = Frozen::disk_of(&mount);
        for session in &sessions {
            savers.push(Running::start(
                &mount,
                &session.on_mount,
                "echo new > session",
            ));
        }
        wait_until("all savers wait for the disk", || {
            inside(&mount, &[libc::SYS_openat]) == count
        });
        assert_others_are_served(&mount, &reader);
        assert!(savers.iter_mut().all(|saver| !saver.has_ended()));
        drop(frozen);
        for (session, saver) in sessions.iter().zip(savers) {
            saver.output();
            assert_saved(session, "new\n");
        }
        assert_next_save_works(&other);
    }
}

/// Changes of every kind, each of which waits for the disk in its own system call.
const CHANGES: [&str; 16] = [
    "echo new > session",
    "echo more >> session",
    "mkdir dir",
    "ln -s target link",
    "ln file other-name",
    "mv file renamed",
    "mkfifo fifo",
    "rm file",
    "chmod 0600 file",
    "touch file",
    "touch new",
    "setfattr -n user.a -v b file",
    "truncate -s 10 file",
    "fallocate -l 10 file",
    "echo x > file",
    "echo x > temporary-file && mv temporary-file session",
];

fn rule_13_4_every_kind_of_change_leaves_a_thread_free(backing: Backing) {
    for options in [&["--threads=1"][..], &[][..]] {
        let (mount, sessions, other, reader) = prepared(backing, options, CHANGES.len());
        for session in &sessions {
            fs::write(session.on_mount.join("file"), "content").unwrap();
        }
        let mut changes = Vec::new();
        let frozen = Frozen::disk_of(&mount);
        for (session, change) in sessions.iter().zip(CHANGES) {
            changes.push(Running::start(&mount, &session.on_mount, change));
        }
        // With passthrough some of them wait in the kernel.
        wait_until("the changes wait for the disk", || {
            let calls = [
                libc::SYS_openat,
                libc::SYS_open,
                libc::SYS_mkdirat,
                libc::SYS_symlinkat,
                libc::SYS_linkat,
                libc::SYS_renameat,
                libc::SYS_renameat2,
                libc::SYS_mknodat,
                libc::SYS_unlinkat,
                libc::SYS_fchmodat,
                libc::SYS_chmod,
                libc::SYS_utimensat,
                libc::SYS_setxattr,
                libc::SYS_ftruncate,
                libc::SYS_fallocate,
            ];
            inside(&mount, &calls) >= CHANGES.len() - 2
        });
        assert_others_are_served(&mount, &reader);
        assert!(changes.iter_mut().all(|change| !change.has_ended()));
        drop(frozen);
        for change in changes {
            change.output();
        }
        assert_next_save_works(&other);
    }
}

/// The others of that user wait in its own queue, and all are done in the end.
fn rule_13_2_what_waits_of_one_user_leaves_threads_to_others(backing: Backing) {
    const SAVES: usize = 200;
    const SHARE: usize = 64;
    let mount = shared_mount_by(&[], backing, &["--threads=2"]);
    let make = |user, id: &str| {
        let make = format!("mkdir {id}.session && echo old > {id}.session/session");
        assert_eq!(told(&run_as(user, &mount.mountpoint, &make)), "Some(0): ");
    };
    make(User::Ann, "ann");
    for n in 0..SAVES {
        make(User::Bob, &n.to_string());
    }
    let save = |sessions: &str| {
        format!(
            "
import os, sys, threading
print('ready', flush=True)
sys.stdin.readline()
def save(session):
    with open(f'{{session}}.session/session', 'w') as f: f.write('new')
threads = [threading.Thread(target=save, args=[session]) for session in {sessions}]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('saved')"
        )
    };
    let start = |user, sessions: &str| Program::start(user, &mount.mountpoint, &save(sessions));
    let mut bob = start(User::Bob, &format!("range({SAVES})"));
    let mut ann = start(User::Ann, "['ann']");
    let before = threads(mount.pid(), None).len();
    let frozen = Frozen::disk_of(&mount);
    bob.go_on();
    wait_until("all of Bob's wait", || {
        bob.in_call(libc::SYS_openat) == SAVES && inside(&mount, &[libc::SYS_openat]) >= SHARE
    });
    ann.go_on();
    // One of those that take requests may be inside as well, before the share counts.
    wait_until("Ann's waits for the disk as well", || {
        ann.in_call(libc::SYS_openat) == 1 && inside(&mount, &[libc::SYS_openat]) > SHARE
    });
    // A thread may take another request before it is known to be done with one.
    let now = threads(mount.pid(), None).len();
    let most = before + SHARE + SHARE / 2;
    assert!(now <= most, "{before} threads became {now}");
    let read = run_as(User::Ann, &mount.mountpoint, "cat ann.session/session");
    assert_eq!(told(&read), "Some(0): old\n");
    drop(frozen);
    assert_eq!(ann.rest(), "saved\n");
    assert_eq!(bob.rest(), "saved\n");
    for id in (0..SAVES).map(|n| n.to_string()).chain(["ann".into()]) {
        let file = mount.repository.join(format!("{id}.session/session"));
        assert_eq!(fs::read_to_string(file).unwrap(), "new");
    }
}

/// Each write that waits is kept in memory. Beyond a limit the user gets an error, and a
/// save that lacks a piece is never published.
fn rule_13_3_waiting_writes_are_bounded(backing: Backing) {
    const WRITERS: usize = 200;
    let mut mount = shared_mount_by(&[], backing, &["--threads=2"]);
    mount.may_complain = true;
    let make = format!(
        "for n in $(seq {WRITERS}); do mkdir $n.session && echo old > $n.session/session || exit
         done"
    );
    let made = run_as(User::Bob, &mount.mountpoint, &make);
    assert_eq!(told(&made), "Some(0): ");
    let program = format!(
        "
import os, sys, threading
writers = [os.open(f'{{n + 1}}.session/session', os.O_WRONLY | os.O_TRUNC) for n in range({WRITERS})]
for writer in writers: os.write(writer, b'first')
print('open', flush=True)
sys.stdin.readline()
told = [0] * {WRITERS}
def write(n):
    try: os.pwrite(writers[n], b'x' * (1 << 20), 4096)
    except OSError as e: told[n] = e.errno
    try: os.close(writers[n])
    except OSError as e: told[n] += 1000 * e.errno
threads = [threading.Thread(target=write, args=[n]) for n in range({WRITERS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
for n in told: print(n, flush=True)"
    );
    let mut program = Program::start(User::Bob, &mount.mountpoint, &program);
    assert_eq!(program.line, "open");
    let before = status(mount.pid(), "RssAnon");
    let frozen = Frozen::disk_of(&mount);
    program.go_on();
    // Threads with refused writes end. Of the other writes some wait for a worker.
    wait_until("all writes wait, or are refused", || {
        let left = program.threads() - 1;
        let waiting = inside(&mount, &[libc::SYS_pwrite64]);
        waiting >= 60 && left < WRITERS && left == program.in_call(libc::SYS_pwrite64)
    });
    let now = status(mount.pid(), "RssAnon");
    println!("{before} KiB became {now} KiB");
    assert!(now < before + (80 << 10), "{before} KiB became {now} KiB");
    // Another user reads.
    let read = Running::start(&mount, &mount.mountpoint, "cat 1.session/session");
    assert_eq!(read.output(), "old\n");
    drop(frozen);
    let told: Vec<i32> = program.rest().lines().map(|n| n.parse().unwrap()).collect();
    assert_eq!(told.len(), WRITERS);
    let refused = told.iter().filter(|&&n| n != 0).count();
    assert!(refused > 0 && refused < WRITERS, "{refused}");
    for (n, told) in told.iter().enumerate() {
        let session = mount.repository.join(format!("{}.session/session", n + 1));
        let content = fs::read(session).unwrap();
        match *told {
            0 => assert_eq!(content.len(), 4096 + (1 << 20)),
            // From the write, and again from the close, as some programs look only there.
            errno => {
                assert_eq!(errno, libc::ENOMEM + 1000 * libc::ENOMEM);
                assert_eq!(content, b"old\n");
            }
        }
    }
}
