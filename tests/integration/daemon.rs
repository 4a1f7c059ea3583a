//! The daemon as a process: what it keeps of what it has served, and what it leaves
//! behind, however it ends (DESIGN 3 I4, 5, 7).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::observe::{Strace, descriptors, is_in_call, named_threads, status, threads};
use crate::common::slow::{save, slow_disk, wait_for_fsync};
use crate::common::tools::{close, copy_sessionfs, errno, open_rw};
use crate::common::{
    Backing, Mount, SESSIONFS, Session, assert_checkpoint, is_mounted, mounted, times, wait_until,
};

on_each_filesystem!(
    i4_kill_9_in_the_middle_of_writes_leaves_nothing,
    i4_kill_9_before_the_rename_leaves_a_lock_that_the_next_save_removes,
    i4_kill_9_before_the_rename_leaves_a_lock_that_the_save_command_removes,
);

#[test]
fn thousands_of_saves_leave_no_descriptor_no_thread_and_no_memory() {
    let (mount, session) = mounted(Backing::Ext4);
    let round = |number: usize| {
        let content = format!("{number}\n");
        fs::write(session.file(), &content).unwrap();
        let mut appending = File::options().append(true).open(session.file()).unwrap();
        appending.write_all(b"more").unwrap();
        if number.is_multiple_of(10) {
            appending.sync_all().unwrap();
        }
        // One that is refused, and one that changes nothing.
        let refused = File::create(session.file());
        assert_eq!(errno(refused), libc::EBUSY);
        drop(open_rw(session.file()).unwrap());
        close(appending).unwrap();
        assert_eq!(
            fs::read_to_string(session.file()).unwrap(),
            content + "more"
        );
    };
    // One worker may stay: any user's `sessionfs status` asks every daemon, and gives a
    // worker something to do.
    let others = || {
        let threads = named_threads(mount.pid());
        let is_worker = |(_, name): &&(u32, String)| name == "worker";
        let workers = threads.iter().filter(is_worker).count();
        (workers <= 1).then_some(threads.len() - workers)
    };
    let counts = || (descriptors(mount.pid()).len(), others());
    let mut before = counts();
    wait_until("nothing is held of the first save", || {
        before = counts();
        before.1.is_some()
            && !descriptors(mount.pid())
                .iter()
                .any(|path| path.starts_with(&session.in_repository))
    });
    let inodes = || {
        let fs = rustix::fs::statvfs(mount.disk.path()).unwrap();
        fs.f_files - fs.f_ffree
    };
    let used = inodes();
    // The memory of the first thousand is what later ones use again.
    (0..times(1000)).for_each(round);
    let memory = status(mount.pid(), "VmRSS");
    (0..times(5_000)).for_each(round);
    let grown = status(mount.pid(), "VmRSS").saturating_sub(memory);
    // Half a KiB of each save would be more, in a full run.
    assert!(
        grown < 2048,
        "{grown} KiB more after {} saves",
        times(5_000)
    );
    wait_until("descriptors and threads are as many as before", || {
        counts() == before
    });
    wait_until("inodes are as many as before", || inodes() == used);
    mount.assert_nothing_leaked(before.0);
}

#[test]
fn a_save_keeps_no_descriptor_of_its_session() {
    let mount = Mount::new(Backing::Here);
    let before = descriptors(mount.pid()).len();
    for number in 0..50 {
        let session = mount.session(number.to_string());
        // The kernel remembers the writers of both until it looks again.
        fs::write(session.file(), "first").unwrap();
        fs::write(session.file(), "second").unwrap();
    }
    // The repository's own was opened with the first use.
    mount.assert_nothing_leaked(before + 1);
}

#[test]
fn a_slow_fsync_delays_only_its_own_save() {
    let (mount, slow) = mounted(Backing::Here);
    let quick = mount.session("b");
    // Only one thread is held up, and it would be the one to get the next save.
    let workers = || threads(mount.pid(), Some("worker"));
    let delay = "inject=fsync:delay_enter=3000000";
    let (worker, _strace) = loop {
        wait_until("one thread waits for work", || {
            // More than one, and they end when there is no work for a while.
            if workers().len() > 1 {
                return false;
            }
            fs::write(quick.file(), "old").unwrap();
            workers().len() == 1
        });
        let worker = workers()[0];
        let strace = Strace::attach(worker, ["-e", "trace=fsync", "-e", delay]);
        if workers() == [worker] {
            break (worker, strace);
        }
    };
    let inode = slow.inode();
    let saving = save(&slow, "new");

    // First the staged file is synced, and then, renamed, its directory.
    for (step, old) in [("first", "old"), ("second", "new")] {
        wait_until("the slow save waits for the disk", || {
            is_in_call(worker, libc::SYS_fsync) && (slow.inode() != inode) == (old == "new")
        });
        save(&quick, step).join().unwrap().unwrap();
        assert_eq!(fs::read_to_string(quick.file()).unwrap(), step);
        assert_eq!(fs::read_to_string(slow.file()).unwrap(), old);
        assert_eq!(fs::metadata(slow.file()).unwrap().len(), 3);
        assert_eq!(errno(File::create(slow.file())), libc::EBUSY);
        fs::write(slow.on_mount.join("other"), "at once").unwrap();
        fs::remove_file(slow.on_mount.join("other")).unwrap();
        assert_eq!(fs::read_dir(&mount.mountpoint).unwrap().count(), 2);
        assert!(is_in_call(worker, libc::SYS_fsync), "it was not slow");
        assert!(!saving.is_finished());
    }
    saving.join().unwrap().unwrap();
    assert_checkpoint(&slow, "new");
}

/// Twelve processes with a writer, more than the threads that take requests. One makes a
/// save point, which takes long, and the others are killed meanwhile.
const KILLED_DURING_A_SAVE_POINT: &str = r"
import os, signal, sys, time
writer = os.open('session', os.O_WRONLY | os.O_TRUNC)
os.write(writer, b'new')
waiting = []
for _ in range(12):
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(1)
    waiting.append(pid)
if os.fork() == 0:
    os.fsync(writer)
    os._exit(0)
print('go', flush=True)
sys.stdin.readline()
for pid in waiting: os.kill(pid, signal.SIGKILL)
print('killed', flush=True)
sys.stdin.readline()
for _ in range(13): os.wait()
os.close(writer)
";

#[test]
fn closes_that_wait_for_a_save_delay_no_other_request() {
    use std::io::BufRead;
    let (mount, slow) = mounted(Backing::Here);
    let quick = mount.session("b");
    fs::write(quick.file(), "old").unwrap();
    let held_up = slow_disk(mount.pid());
    let mut python = Command::new("python3")
        .args(["-c", KILLED_DURING_A_SAVE_POINT])
        .current_dir(&slow.on_mount)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(python.stdout.take().unwrap()).lines();
    let mut stdin = python.stdin.take().unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "go");
    wait_for_fsync(mount.pid());
    stdin.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "killed");
    for _ in 0..20 {
        assert_eq!(fs::read_to_string(quick.file()).unwrap(), "old");
        thread::sleep(std::time::Duration::from_millis(10));
    }
    let threads = threads(mount.pid(), None);
    assert!(
        threads.iter().any(|&tid| is_in_call(tid, libc::SYS_fsync)),
        "it was not slow, or the reads were"
    );
    drop(held_up);
    stdin.write_all(b"\n").unwrap();
    assert!(python.wait().unwrap().success());
    assert_checkpoint(&slow, "new");
}

#[test]
fn removing_an_absent_checkpoint_leaves_no_descriptor() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    let remove = || {
        let done = Command::new("rm").arg("-f").arg(session.file()).status();
        assert!(done.unwrap().success());
    };
    remove();
    let before = descriptors(mount.pid()).len();
    (0..50).for_each(|_| remove());
    mount.assert_nothing_leaked(before + 1);
}

fn i4_kill_9_in_the_middle_of_writes_leaves_nothing(backing: Backing) {
    let (mut mount, session) = mounted(backing);
    let mut writer = File::create(session.file()).unwrap();
    writer.write_all(&[b'n'; 1 << 20]).unwrap();
    mount.signal("KILL");
    mount.wait();
    assert_eq!(errno(writer.write(b"more")), libc::ENOTCONN);
    assert!(close(writer).is_err(), "it was told that it is saved");
    assert_checkpoint(&session, "old");

    mount.restart(&[]);
    let log = mount.log();
    assert!(log.contains("warning: removed the dead mount of"), "{log}");
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
    save(&session, "new").join().unwrap().unwrap();
    assert_checkpoint(&session, "new");
}

/// A daemon that was killed between linkat(2) and renameat(2).
fn killed_before_the_rename(backing: Backing) -> (Mount, Session) {
    let (mut mount, session) = mounted(backing);
    let kill = "inject=renameat,renameat2:signal=KILL";
    let strace = Strace::attach_to_all(mount.pid(), ["-e", "trace=renameat,renameat2", "-e", kill]);
    save(&session, "new").join().unwrap().unwrap_err();
    mount.wait();
    drop(strace);
    assert_eq!(session.names(), ["session", "session.next"]);
    let content = |name| fs::read_to_string(session.in_repository.join(name)).unwrap();
    assert_eq!(
        (&*content("session"), &*content("session.next")),
        ("old", "new")
    );
    (mount, session)
}

fn i4_kill_9_before_the_rename_leaves_a_lock_that_the_next_save_removes(backing: Backing) {
    let (mut mount, session) = killed_before_the_rename(backing);
    mount.restart(&[]);
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "old");
    save(&session, "newer").join().unwrap().unwrap();
    assert_checkpoint(&session, "newer");
    let log = mount.log();
    let warnings = log.lines().filter(|line| line.contains("session.next"));
    assert_eq!(warnings.count(), 1, "{log}");
}

fn i4_kill_9_before_the_rename_leaves_a_lock_that_the_save_command_removes(backing: Backing) {
    let (_mount, session) = killed_before_the_rename(backing);
    let mut command = Command::new(SESSIONFS)
        .arg("save")
        .arg(&session.in_repository)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    command.stdin.take().unwrap().write_all(b"newer").unwrap();
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_checkpoint(&session, "newer");
}

/// The daemon in a process id namespace of its own: clients have pid 0.
fn in_another_pid_namespace() -> (Mount, Session) {
    let disk = crate::common::Disk::new(Backing::Here);
    let repository = disk.path().join("repository");
    let starter = ["unshare", "--pid", "--fork", "--kill-child"];
    let mount = Mount::started_by(&starter, disk, repository, &[]);
    let session = mount.session("a");
    (mount, session)
}

#[test]
fn a_client_in_another_pid_namespace_saves_in_all_ways() {
    let (mut mount, session) = in_another_pid_namespace();
    let lines = [
        ("echo one > session", "one\n"),
        ("echo two >> session", "one\ntwo\n"),
        ("{ echo a; /bin/echo b; } > session", "a\nb\n"),
        (
            "printf x | dd of=session bs=1 seek=1 conv=notrunc status=none",
            "axb\n",
        ),
        ("cp /dev/null session", ""),
        ("printf ab | tee session > /dev/null", "ab"),
        ("truncate -s 1 session", "a"),
        (": > session", ""),
    ];
    for shell in ["bash", "dash"] {
        for (line, content) in lines {
            // The save of `:` is made at the release of its file, so the next one may
            // come before it has ended.
            wait_until(line, || {
                let output = crate::common::shell(shell, &session.on_mount, line);
                output.status.success()
            });
            // Without a write, the close of `:` cannot be judged, and reports nothing.
            wait_until("the last handle is gone", || {
                let saved = fs::read_to_string(session.checkpoint());
                saved.is_ok_and(|saved| saved == content)
            });
            let read = fs::read_to_string(session.file()).unwrap();
            assert_eq!(read, content, "{shell}: {line}");
            assert_eq!(session.names(), ["session"], "{shell}: {line}");
        }
    }
    let mut opened = None;
    wait_until("the last writer is released", || {
        opened = File::create(session.file()).ok();
        opened.is_some()
    });
    let mut writer = opened.unwrap();
    writer.write_all(b"new").unwrap();
    assert_eq!(errno(File::create(session.file())), libc::EBUSY);
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "");
    close(writer).unwrap();
    assert_checkpoint(&session, "new");
    // What that means is said: in the log once, and in the status.
    let log = mount.log();
    let warned = "warning: a program writes whose process cannot be seen";
    assert_eq!(log.matches(warned).count(), 1, "{log}");
    let status = |arguments: &[&str]| {
        let output = Command::new(SESSIONFS)
            .arg("status")
            .args(arguments)
            .arg(&mount.mountpoint)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let told = status(&[]);
    assert!(told.contains("what it has written is saved"), "{told}");
    let told: serde_json::Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert_eq!(told[0]["unseen_writers"], true, "{told}");
    let umount = Command::new(SESSIONFS)
        .arg("umount")
        .arg(&mount.mountpoint)
        .output();
    let umount = umount.unwrap();
    assert!(umount.status.success(), "{umount:?}");
    assert!(mount.wait().success(), "{}", mount.log());
}

#[test]
fn a_client_in_another_pid_namespace_never_reads_a_mix() {
    let (_mount, session) = in_another_pid_namespace();
    fs::write(session.file(), "0").unwrap();
    let rounds = times(1000);
    let reading = {
        let file = session.file();
        thread::spawn(move || {
            let mut reads = 0;
            loop {
                let read = fs::read_to_string(&file).expect("read");
                let number: usize = read.split('\n').next().unwrap().parse().expect(&read);
                let whole = format!("{number}\n").repeat(number * 97 % 1000 + 1);
                assert!(read == "0" || read == whole, "a mix: {} bytes", read.len());
                reads += 1;
                if number == rounds {
                    return reads;
                }
            }
        })
    };
    // In a process of its own: this one starts programs for other tests, which close what
    // they inherit; for a client without a pid these closes look like its own (DESIGN
    // 5.6).
    let writing = format!(
        "
import os
for number in range(1, {rounds} + 1):
    content = b'%d\\n' % number * (number * 97 % 1000 + 1)
    half = len(content) // 2
    writer = os.open('session', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for part in content[:half], content[half:]:
        assert os.write(writer, part) == len(part)
    os.close(writer)
"
    );
    let written = Command::new("python3")
        .args(["-c", &writing])
        .current_dir(&session.on_mount)
        .output()
        .unwrap();
    assert!(written.status.success(), "{written:?}");
    assert!(reading.join().unwrap() > 10);
    assert_eq!(session.names(), ["session"]);
}

/// In a mount namespace of its own, with a `/dev/fuse` that all users may open, as a user
/// without privileges.
const AS_AN_ORDINARY_USER: &str = r#"
set -eu
mount -t tmpfs -o mode=0755 tmpfs "$1/dev"
mknod -m 0666 "$1/dev/fuse" c 10 229
mount --bind "$1/dev/fuse" /dev/fuse
exec setpriv --reuid=65534 --regid=65534 --clear-groups dash -eu -c '
    cd "$1"
    ./sessionfs create -r repository --name a
    ./sessionfs mount --log-file log repository mnt
    trap "./sessionfs umount --lazy mnt" EXIT
    echo one > mnt/a.session/session
    echo two >> mnt/a.session/session
    cat mnt/a.session/session
    mkdir mnt/b.session
    cp mnt/a.session/session mnt/b.session/session
    ./sessionfs list -r mnt
    ./sessionfs load -r mnt b
    stat -c "%u %a" repository/b.session/session
    if (exec 3> mnt/b.session/session; : > mnt/b.session/session) 2> /dev/null; then
        echo two writers
    fi
    trap - EXIT
    ./sessionfs umount mnt
    ls mnt
    file=repository/a.session/session
    setfattr -n user.x -v 1 $file
    chmod 444 $file
    echo kept | ./sessionfs save -r repository a
    getfattr --absolute-names -d $file
    stat -c %a $file
    if PATH=/nonexistent ./sessionfs mount repository mnt 2> said; then echo mounted; fi
    cat said
    grep -v " info: " log || true
' - "$1"
"#;

#[test]
fn an_ordinary_user_mounts_with_fusermount3() {
    let disk = crate::common::Disk::new(Backing::Here);
    let path = disk.path();
    let outer = path.parent().unwrap();
    crate::common::run("chmod", [OsStr::new("0711"), outer.as_os_str()]);
    copy_sessionfs(path.join("sessionfs"));
    for name in ["repository", "mnt", "dev"] {
        fs::create_dir(path.join(name)).unwrap();
    }
    let all = [path.to_owned(), path.join("repository"), path.join("mnt")];
    for path in all {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .args([AS_AN_ORDINARY_USER, "sh"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
    let said = said.replace(path.to_str().unwrap(), "");
    assert_eq!(
        said,
        "a\none\ntwo\nb\na\none\ntwo\n65534 644\n\
         # file: repository/a.session/session\nuser.x=\"1\"\n\n444\n\
         sessionfs: cannot mount on /mnt: fusermount3 is not installed (apt install fuse3)\n"
    );
}

/// Section 7: a daemon that is killed while it asks its own mount whether it answers must
/// not wait for itself. The answers are held up, so that it does ask.
#[test]
fn section_7_a_daemon_that_is_killed_while_it_asks_itself_is_gone() {
    let socket = crate::common::Disk::new(Backing::Here);
    let manager = std::os::unix::net::UnixDatagram::bind(socket.beside("notify")).unwrap();
    let starter = [
        "env",
        &format!("NOTIFY_SOCKET={}", socket.beside("notify").display()),
        "WATCHDOG_USEC=2000",
    ];
    let disk = crate::common::Disk::new(Backing::Here);
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    let mut mount = Mount::started_by(&starter, disk, repository, &[]);
    let mut asks = Vec::new();
    wait_until("it asks whether it answers", || {
        asks = threads(mount.pid(), Some("asks"));
        !asks.is_empty()
    });
    manager.set_nonblocking(true).unwrap();
    // One that reads a request, and does not answer it before it is killed.
    let delay = "inject=writev,write:delay_enter=60000000";
    let pid = mount.pid();
    let slow = Strace::attach_to_all(pid, ["-e", "trace=writev,write", "-e", delay]);
    wait_until("it waits for an answer", || {
        let waits = fs::read_to_string(format!("/proc/{pid}/task/{}/wchan", asks[0]));
        waits.is_ok_and(|waits| waits == "request_wait_answer")
    });
    mount.signal("KILL");
    drop(slow);
    assert!(!mount.wait().success());
}

/// Section 7: after its end, the device number of a mount may belong to another mount.
#[test]
fn section_7_the_end_of_a_daemon_unmounts_only_its_own_mount() {
    use std::os::unix::fs::MetadataExt;
    let device = |mount: &Mount| fs::metadata(&mount.mountpoint).unwrap().dev();
    let mut had_its_number = 0;
    for _ in 0..10 {
        let mut gone = Mount::new(Backing::Here);
        let number = device(&gone);
        gone.signal("STOP");
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(&gone.mountpoint);
        assert!(umount.status().unwrap().success());
        let other = Mount::new(Backing::Here);
        had_its_number += usize::from(device(&other) == number);
        gone.signal("TERM");
        gone.signal("CONT");
        assert!(gone.wait().success());
        assert!(is_mounted(&other.mountpoint), "{}", other.log());
        assert_checkpoint_works(&other);
    }
    println!("{had_its_number} of 10 mounts had the number of one that was gone");
}

fn assert_checkpoint_works(mount: &Mount) {
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    assert_checkpoint(&session, "saved");
}
