//! Shares of what all users share (DESIGN 13.3): a user whose share is used up is
//! refused, and the others go on.

use std::ffi::OsStr;
use std::fs;

use crate::common::observe::{Strace, descriptors, threads};
use crate::common::tools::output_of;
use crate::common::users::{Program, User, run_as, shared_mount, shared_mount_by, told};
use crate::common::{Backing, Mount, times, wait_until};

/// How many descriptors the daemon may have.
const LIMIT: usize = 960;

/// The share of one user: half, less what the daemon keeps for itself.
const SHARE: usize = LIMIT / 2 - LIMIT / 4;

/// A mount for all users, where Ann and Bob have a session each, and Bob this many more.
fn shared(sessions: usize) -> Mount {
    let limit = format!("--nofile={LIMIT}:{LIMIT}");
    let mut mount = shared_mount_by(&["prlimit", &limit], Backing::Here, &[]);
    mount.may_complain = true;
    for (user, id) in [(User::Ann, "ann"), (User::Bob, "bob")] {
        let make = format!("mkdir {id}.session && echo old > {id}.session/session");
        assert_eq!(told(&run_as(user, &mount.mountpoint, &make)), "Some(0): ");
    }
    let make = format!("for n in $(seq {sessions}); do mkdir $n.session || exit; done");
    let made = run_as(User::Bob, &mount.mountpoint, &make);
    assert_eq!(told(&made), "Some(0): ");
    mount
}

/// A program of a user that calls `take` with rising numbers until it fails, keeps what
/// it gets, and prints how much that is, and the error.
fn taker(mount: &Mount, user: User, take: &str) -> Program {
    let program = format!(
        "
import errno, os, resource, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
try:
    for n in range(3000): held.append({take})
    print(len(held), 'all', flush=True)
except OSError as e:
    print(len(held), errno.errorcode[e.errno], flush=True)
sys.stdin.readline()"
    );
    Program::start(user, &mount.mountpoint, &program)
}

fn got(program: &Program) -> (usize, &str) {
    let (count, why) = program.line.split_once(' ').unwrap();
    (count.parse().unwrap(), why)
}

fn assert_ann_reads_and_saves(mount: &Mount) {
    let work = "cat ann.session/session && echo new > ann.session/session && \
                echo old > ann.session/session && ls ann.session && find . -type d > /dev/null";
    let done = run_as(User::Ann, &mount.mountpoint, work);
    assert_eq!(told(&done), "Some(0): old\nsession\n");
}

/// Each kind of open file, and how many descriptors one of it takes.
const KINDS: [(&str, usize); 5] = [
    ("os.open('bob.session/session', os.O_RDONLY)", 1),
    ("os.open('bob.session', os.O_RDONLY)", 1),
    ("os.open(f'bob.session/{n}', os.O_WRONLY | os.O_CREAT)", 1),
    (
        "os.open(f'{n + 1}.session/session', os.O_WRONLY | os.O_CREAT)",
        8,
    ),
    (
        "os.open(f'{n + 1}.session/session', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)",
        8,
    ),
];

#[test]
fn rule_13_3_a_user_who_opens_all_they_can_keeps_no_other_user_out() {
    let mount = shared(SHARE);
    assert_ann_reads_and_saves(&mount);
    let before = descriptors(mount.pid()).len();
    for (take, cost) in KINDS {
        let bob = taker(&mount, User::Bob, take);
        assert_eq!(got(&bob), (SHARE / cost, "EMFILE"), "{take}");
        // Beside the descriptors of files that have just been looked up.
        let taken = descriptors(mount.pid()).len();
        assert!(taken <= SHARE + LIMIT / 4, "{take}: {taken} descriptors");
        // All of Bob's calls get the error, and no other user's do.
        for open in ["cat bob.session/session", "ls bob.session", "ls ."] {
            let refused = told(&run_as(User::Bob, &mount.mountpoint, open));
            assert!(refused.contains("Too many open files"), "{open}: {refused}");
        }
        assert_ann_reads_and_saves(&mount);
        let cid = taker(&mount, User::Cid, "os.open('.', os.O_RDONLY)");
        assert_eq!(got(&cid), (SHARE, "EMFILE"), "{take}");
        drop(cid);
        // The user of the daemon is limited only by what there is.
        let root = taker(&mount, User::Root, "os.open('.', os.O_RDONLY)");
        let (count, why) = got(&root);
        assert!(count > SHARE && why == "EMFILE", "{take}: {count} {why}");
        drop((root, bob));
        mount.assert_descriptors_closed(before + 10);
        let again = "cat bob.session/session";
        wait_until("all is given back", || {
            run_as(User::Bob, &mount.mountpoint, again).status.success()
        });
    }
}

/// Nodes have no share: a program that walks a large tree is not refused.
#[test]
fn rule_13_3_a_walk_is_not_bound() {
    let mount = shared(1);
    let session = mount.repository.join("bob.session");
    for dir in 0..20 {
        let dir = session.join(format!("dir{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..100 {
            fs::write(dir.join(format!("file{file}")), "").unwrap();
        }
    }
    let walk = "find . -type f -links 1 | wc -l && ls -lR . | wc -l";
    let said = told(&run_as(User::Bob, &mount.mountpoint, walk));
    assert!(said.starts_with("Some(0): 2003\n"), "{said}");
}

/// For checkpoints removed by a process that lives on, and for several processes that
/// have removed the same one.
#[test]
fn rule_13_3_removals_are_part_of_the_share() {
    let sessions = LIMIT - LIMIT / 8;
    let mount = shared(sessions);
    let before = descriptors(mount.pid()).len();
    for number in 1..=sessions {
        let file = mount.repository.join(format!("{number}.session/session"));
        fs::write(file, "old").unwrap();
    }
    let left = || {
        let is_left = |number: &usize| {
            let session = mount.repository.join(format!("{number}.session"));
            session.join("session").exists()
        };
        (1..=sessions).filter(is_left).count()
    };
    let remove = format!(
        "
import os, sys
for n in range({sessions}): os.unlink(f'{{n + 1}}.session/session')
print('removed', flush=True)
sys.stdin.readline()"
    );
    let bob = Program::start(User::Bob, &mount.mountpoint, &remove);
    assert_eq!(bob.line, "removed");
    // Those beyond the share have been removed at once.
    let promised = left();
    assert!(0 < promised && promised <= SHARE / 3, "{promised}");
    let taken = descriptors(mount.pid()).len();
    assert!(taken <= before + SHARE + LIMIT / 4, "{taken} descriptors");
    assert_ann_reads_and_saves(&mount);
    assert_eq!(bob.rest(), "");
    wait_until("all are removed", || left() == 0);
    mount.assert_descriptors_closed(before + 10);

    let remove = "
import os, signal, sys
children = []
for n in range(100):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.unlink('bob.session/session')
        os.write(w, b'.')
        signal.pause()
    os.close(w)
    assert os.read(r, 1) == b'.', n
    children.append(pid)
print('removed', flush=True)
sys.stdin.readline()
for pid in children: os.kill(pid, signal.SIGKILL)";
    let bob = Program::start(User::Bob, &mount.mountpoint, remove);
    assert_eq!(bob.line, "removed");
    mount.assert_descriptors_closed(before + 16 + 10);
    drop(bob);
    mount.assert_descriptors_closed(before + 10);
}

/// What one user has removed, and not, makes no promise to another one void.
#[test]
fn rule_13_3_removals_of_one_user_leave_those_of_others_promised() {
    const MANY: usize = 1100;
    let mut mount = shared_mount(Backing::Here);
    mount.may_complain = true;
    let remove = format!(
        "
import os, sys
for n in range({MANY}):
    os.mkdir(f'{{n}}.session')
    os.unlink(f'{{n}}.session/session')
found = [n for n in range({MANY}) if os.path.exists(f'{{n}}.session/session')]
# The oldest of them are forgotten.
print(len(found), found == list(range(len(found))), flush=True)
sys.stdin.readline()"
    );
    let bob = Program::start(User::Bob, &mount.mountpoint, &remove);
    assert_eq!(bob.line, format!("{} True", MANY - 1024));
    let make = "mkdir ann.session && echo old > ann.session/session";
    let made = told(&run_as(User::Ann, &mount.mountpoint, make));
    assert_eq!(made, "Some(0): ");
    // Killed while it makes the new one.
    let replace = "
import os, signal
os.unlink('ann.session/session')
new = os.open('ann.session/session', os.O_WRONLY | os.O_CREAT | os.O_EXCL)
os.write(new, b'half')
print('removed', flush=True)
signal.pause()";
    let half = Program::start(User::Ann, &mount.mountpoint, replace);
    assert_eq!(half.line, "removed");
    let checkpoint = mount.repository.join("ann.session/session");
    assert_eq!(fs::read_to_string(&checkpoint).unwrap(), "old\n");
    drop(half.killed());
    let read = told(&run_as(
        User::Ann,
        &mount.mountpoint,
        "cat ann.session/session",
    ));
    assert_eq!(read, "Some(0): old\n");
    assert_eq!(fs::read_to_string(&checkpoint).unwrap(), "old\n");
    assert_eq!(bob.rest(), "");
}

/// Removed sessions and checkpoints keep no descriptors once the process that removed
/// them has ended; and the disk is not waited for once for each.
#[test]
fn rule_13_3_removed_sessions_keep_no_descriptors() {
    let mount = Mount::new(Backing::Ext4);
    let before = descriptors(mount.pid()).len();
    let count = times(3000);
    for (remove, is_left) in [
        ("rm -r *.session", false),
        ("rm *.session/session", true),
        ("rm *.session/session", true),
    ] {
        for number in 0..count {
            let session = mount.repository.join(format!("{number}.session"));
            if !session.exists() {
                fs::create_dir(&session).unwrap();
                fs::write(session.join("session"), "old").unwrap();
            }
        }
        let no_sync = ["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"];
        let strace = Strace::attach_to_all(mount.pid(), no_sync);
        output_of(&mount.mountpoint, "sh", &["-c", remove]);
        mount.assert_descriptors_closed(before);
        drop(strace);
        let found = fs::read_dir(&mount.repository).unwrap().count();
        assert_eq!(found, if is_left { count } else { 0 }, "{remove}");
        for session in fs::read_dir(&mount.repository).unwrap() {
            let checkpoint = session.unwrap().path().join("session");
            assert!(!checkpoint.exists(), "{}", checkpoint.display());
        }
    }
}

/// So many of the directories of sessions `s0.session`, … are opened meanwhile.
fn looked_at(mount: &Mount, what: impl FnOnce()) -> usize {
    let trace = mount.disk.beside("trace");
    let to_file = ["-e", "trace=openat", "-s", "100", "-o"].map(OsStr::new);
    let options = to_file.into_iter().chain([trace.as_os_str()]);
    let strace = Strace::attach_to_all(mount.pid(), options);
    what();
    drop(strace);
    let traced = fs::read_to_string(&trace).unwrap();
    let is_session = |line: &&str| line.contains("\"s") && line.contains(".session\"");
    // What is only named in a listing is not opened as a directory.
    let looks = traced.lines().filter(is_session);
    looks.filter(|line| line.contains("O_DIRECTORY")).count()
}

/// A file with two names: whether one of them is a checkpoint is known once it has
/// been looked for, and is never known wrongly (I1).
#[test]
fn rule_13_2_a_file_with_two_names_is_sought_in_all_sessions_once() {
    const MANY: usize = 200;
    let mount = shared_mount(Backing::Here);
    for n in 0..MANY {
        fs::create_dir(mount.repository.join(format!("s{n}.session"))).unwrap();
    }
    let bob = |command: &str| told(&run_as(User::Bob, &mount.mountpoint, command));
    let make = "mkdir bob.session && echo x > bob.session/f && ln bob.session/f bob.session/g";
    assert_eq!(bob(make), "Some(0): ");
    let append = || assert_eq!(bob("echo x >> bob.session/f"), "Some(0): ");
    assert!(looked_at(&mount, append) >= MANY);
    let open = "
import os, threading
def run():
    for n in range(5): os.close(os.open('bob.session/f', os.O_WRONLY))
threads = [threading.Thread(target=run) for n in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()";
    let many = || {
        let done = Program::start(User::Bob, &mount.mountpoint, open).rest();
        assert_eq!(done, "");
    };
    // Without a change of the file that might not be seen in its time.
    wait_until("it is known", || looked_at(&mount, many) == 0);
    // Another user looks for itself.
    let ann = || {
        assert_eq!(
            told(&run_as(
                User::Root,
                &mount.mountpoint,
                "true >> bob.session/f"
            )),
            "Some(0): "
        )
    };
    assert!(looked_at(&mount, ann) >= MANY);

    // Where a checkpoint gets another name it is found in its own session at once.
    let refused = || {
        let output = bob("echo x >> bob.session/f");
        assert!(output.contains("busy"), "{output}");
    };
    let repository = mount.repository.join("bob.session");
    fs::hard_link(repository.join("f"), repository.join("session")).unwrap();
    assert_eq!(looked_at(&mount, refused), 0);
    fs::remove_file(repository.join("session")).unwrap();
    wait_until("it is known", || looked_at(&mount, many) == 0);
    // And in others, also where the file itself is not touched.
    let other = mount.repository.join("other");
    fs::create_dir(&other).unwrap();
    fs::hard_link(repository.join("f"), other.join("session")).unwrap();
    wait_until("it is known", || looked_at(&mount, many) == 0);
    fs::rename(&other, mount.repository.join("other.session")).unwrap();
    refused();
    assert_eq!(looked_at(&mount, refused), 0);
    fs::remove_file(mount.repository.join("other.session/session")).unwrap();
    append();
}

/// Those who wait for a writer take no thread that it needs, though they are more than
/// one user has; all are saved in the end.
#[test]
fn rule_2_8_more_writers_than_a_user_has_threads_wait_for_one() {
    const WAITING: usize = 100;
    let mount = shared_mount_by(&[], Backing::Here, &["--lock-wait=600"]);
    let make = "mkdir bob.session && echo old > bob.session/session";
    assert_eq!(
        told(&run_as(User::Bob, &mount.mountpoint, make)),
        "Some(0): "
    );
    let hold = "
import os, sys
f = os.open('bob.session/session', os.O_WRONLY | os.O_TRUNC)
print('holds', flush=True)
sys.stdin.readline()
for n in range(3):
    os.write(f, b'x' * 100000)
    os.fsync(f)
os.close(f)
print('saved')";
    let holder = Program::start(User::Bob, &mount.mountpoint, hold);
    assert_eq!(holder.line, "holds");
    let wait = format!(
        "
import subprocess, sys
one = ['dash', '-c', 'echo new > bob.session/session']
running = [subprocess.Popen(one) for n in range({WAITING})]
print('started', flush=True)
print([process.wait() for process in running] == [0] * {WAITING})"
    );
    let waiting = Program::start(User::Bob, &mount.mountpoint, &wait);
    wait_until("all wait", || {
        threads(mount.pid(), Some("worker")).len() >= WAITING
    });
    assert_eq!(holder.rest(), "saved\n");
    assert_eq!(waiting.rest(), "True\n");
    let content = fs::read_to_string(mount.repository.join("bob.session/session")).unwrap();
    assert_eq!(content, "new\n");
}

/// What `status` tells of a save that one user has lost stays, whatever others lose.
#[test]
fn rule_13_3_errors_of_one_user_leave_those_of_others_told() {
    let mut mount = shared_mount(Backing::Here);
    mount.may_complain = true;
    let lose = "mkdir ann.session && exec > ann.session/session && echo half && kill -9 $$";
    run_as(User::Ann, &mount.mountpoint, lose);
    let is_told = |session: &str| {
        let report = fs::read_to_string(mount.mountpoint.join(".sessionfs-status")).unwrap();
        report.contains(&format!("\"session\":\"{session}\""))
    };
    wait_until("it is told", || is_told("ann"));
    let fail = "
import os
for n in range(1001):
    os.mkdir(f'{n}.session')
    for name in ['session.next', 'file']: os.close(os.open(f'{n}.session/{name}', os.O_CREAT))
    try: os.rename(f'{n}.session/file', f'{n}.session/session')
    except OSError: pass
print('failed')";
    let bob = Program::start(User::Bob, &mount.mountpoint, fail);
    assert_eq!(bob.line, "failed");
    assert!(is_told("1000") && !is_told("0"));
    assert!(is_told("ann"));
}
