//! DESIGN 5: which close is the last one, and what it answers.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Output;

use crate::common::saves::{PAUSE, PYTHON_PAUSE, Running, Saves};
use crate::common::tools::{close, errno};
use crate::common::{Backing, Mount, Session, times};

const OLD: &str = "old\n";

/// What must be true at a pause of a program: the content, and the number of saves so
/// far.
type Step<'a> = (&'a str, usize);

/// Runs a program on a session, and looks at the session at each of its pauses and at the
/// end.
fn run_in_steps(session: &Session, program: &str, script: &str, steps: &[Step<'_>]) -> Output {
    fs::write(session.file(), OLD).unwrap();
    let mut saves = Saves::of(session);
    let script = match program {
        "python3" => format!("{PYTHON_PAUSE}{script}"),
        _ => script.replace("PAUSE", PAUSE),
    };
    let mut look = |(content, count): Step<'_>, number: usize| {
        let what = format!("step {number} of {script}");
        for file in [session.file(), session.checkpoint()] {
            assert_eq!(fs::read_to_string(file).unwrap(), content, "{what}");
        }
        assert_eq!(saves.count(), count, "{what}");
        assert_eq!(session.names(), ["session"], "{what}");
    };
    let mut running = Running::start(program, &session.on_mount, &script, &[]);
    let (&last, pauses) = steps.split_last().unwrap();
    for (number, &step) in pauses.iter().enumerate() {
        running.told();
        look(step, number);
        running.go_on();
    }
    let output = running.finish();
    assert!(output.status.success(), "{script}: {output:?}");
    look(last, pauses.len());
    output
}

/// The same on a mount of its own, for a script that succeeds in silence.
fn in_steps(program: &str, script: &str, steps: &[Step<'_>]) {
    let mount = Mount::new(Backing::Tmpfs);
    let output = run_in_steps(&mount.session("a"), program, script, steps);
    assert_eq!(output.stderr, b"", "{output:?}");
}

/// Children start with a copy of the descriptor now and then, whether it is close-on-exec
/// or not; none of them delays the save.
#[test]
fn rule_2_3_a_close_saves_while_other_threads_start_programs() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), OLD).unwrap();
    let rounds = times(4000);
    let script = r"
import os, subprocess, sys, threading
over = False
def spawn():
    while not over: subprocess.call(['/bin/true'])
def fork():
    while not over:
        pid = os.fork()
        if pid == 0: os.execv('/bin/true', ['true'])
        os.waitpid(pid, 0)
threads = [threading.Thread(target=f) for f in (spawn, fork, fork)]
for t in threads: t.start()
bad = 0
for i in range(ROUNDS):
    # Every fourth writes nothing: an empty checkpoint is one, too.
    content = b'' if i % 4 == 3 else b'save %d' % i
    fd = os.open('session', os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    if content: os.write(fd, content)
    os.close(fd)
    for file in (os.environ['CHECKPOINT'], 'session'):
        with open(file, 'rb') as f: found = f.read()
        if found != content: bad += 1; print(i, file, found)
over = True
for t in threads: t.join()
sys.exit(bad != 0)
"
    .replace("ROUNDS", &rounds.to_string());
    let mut saves = Saves::of(&session);
    let environment = [("CHECKPOINT", session.checkpoint())];
    let running = Running::start("python3", &session.on_mount, &script, &environment);
    let output = running.finish();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(saves.count(), rounds);
}

/// For a program that has made a save point, the new checkpoint is the file it has open,
/// with the same number: a descriptor that reads it does not count as the writer.
#[test]
fn rule_5_1_a_reader_of_the_save_point_is_not_taken_for_the_writer() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    // Where there was no checkpoint the writer shows its own number.
    let mut writer = fs::File::create_new(session.file()).unwrap();
    writer.write_all(b"one").unwrap();
    writer.sync_all().unwrap();
    let mut reader = fs::File::open(session.file()).unwrap();
    let number = |file: &fs::File| file.metadata().unwrap().ino();
    assert_eq!(number(&reader), number(&writer));
    writer.write_all(b" two").unwrap();
    fs::write(session.in_repository.join("session.next"), "foreign").unwrap();
    assert_eq!(errno(close(writer)), libc::EBUSY);
    fs::remove_file(session.in_repository.join("session.next")).unwrap();
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "one");
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), "one");
}

/// A process that has opened the file for reading, and truncated it, holds it, too: the
/// close of a copy by its child is not the last.
#[test]
fn rule_5_2_a_child_does_not_close_what_was_truncated_for_reading() {
    for open in [
        "os.open('session', os.O_RDONLY | os.O_TRUNC)",
        "(os.unlink('session'), os.open('session', os.O_RDONLY | os.O_CREAT))[1]",
    ] {
        let script = format!(
            "
fd = {open}
os.fstat(fd)
for _ in range(3):
    pid = os.fork()
    if pid == 0: os.execv('/bin/true', ['true'])
    os.waitpid(pid, 0)
pause()
os.close(fd)"
        );
        in_steps("python3", &script, &[(OLD, 0), ("", 1)]);
    }
}

#[test]
fn rule_5_1_a_duplicate_that_is_closed_saves_nothing_and_the_last_one_does() {
    in_steps(
        "python3",
        "
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
other = os.dup(fd)
os.write(fd, b'one\\n'); os.close(fd); pause()
os.write(other, b'two\\n'); pause()
os.close(other); pause()
",
        &[(OLD, 0), (OLD, 0), ("one\ntwo\n", 1), ("one\ntwo\n", 1)],
    );
}

#[test]
fn rule_5_2_others_close_without_a_save_while_the_opener_holds_the_file() {
    in_steps(
        "bash",
        "exec 3>> session; /bin/echo a >&3; PAUSE; ( echo b >&3 ); PAUSE; exec 3>&-; PAUSE",
        &[(OLD, 0), (OLD, 0), ("old\na\nb\n", 1), ("old\na\nb\n", 1)],
    );
}

#[test]
fn rule_5_2_the_opener_closes_later_than_a_process_that_got_the_file_sent() {
    in_steps(
        "python3",
        "
import socket
here, there = socket.socketpair()
pid = os.fork()
if pid == 0:
    fd = socket.recv_fds(there, 1, 1)[1][0]
    os.write(fd, b'receiver\\n'); os.close(fd); os._exit(0)
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
socket.send_fds(here, [b'x'], [fd])
os.waitpid(pid, 0); pause()
os.write(fd, b'opener\\n'); os.close(fd); pause()
",
        &[
            (OLD, 0),
            ("receiver\nopener\n", 1),
            ("receiver\nopener\n", 1),
        ],
    );
}

#[test]
fn rule_5_a_descriptor_that_shows_up_after_the_save_begins_another_one() {
    in_steps(
        "python3",
        "
import socket
here, there = socket.socketpair()
pid = os.fork()
if pid == 0:
    here.close()
    fd = socket.recv_fds(there, 1, 1)[1][0]
    there.recv(1); os.write(fd, b'receiver\\n'); there.send(b'x')
    there.recv(1); os.close(fd); os._exit(0)
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'opener\\n')
socket.send_fds(here, [b'x'], [fd])
os.close(fd); pause()
here.send(b'x'); here.recv(1); pause()
here.send(b'x'); os.waitpid(pid, 0)
",
        &[("opener\n", 1), ("opener\n", 1), ("opener\nreceiver\n", 2)],
    );
}

#[test]
fn rule_2_3_a_close_by_the_opener_saves_its_data_although_children_inherited_the_file() {
    for shell in ["bash", "dash"] {
        in_steps(
            shell,
            "exec 3> session; sleep 1000 & echo a >&3; exec 3>&-; PAUSE; kill $!; \
             wait $! 2> /dev/null; PAUSE",
            &[("a\n", 1), ("a\n", 1), ("a\n", 1)],
        );
    }
}

#[test]
fn rule_5_2_a_file_opened_for_a_child_is_saved_when_the_child_has_closed_it() {
    for shell in ["bash", "dash"] {
        in_steps(
            shell,
            "exec 3> session; ( read go <\"$GO\"; echo late >&3 ) & exec 3>&-; echo >\"$TOLD\"; \
             wait",
            &[(OLD, 0), ("late\n", 1)],
        );
    }
}

#[test]
fn rule_2_3_a_descriptor_closed_on_exec_is_saved_before_the_program_starts() {
    for exec in [
        "os.execv('/bin/sh', sh)",
        // By another thread than the first, while the process has others.
        "import threading
for _ in range(3): threading.Thread(target=threading.Event().wait).start()
threading.Thread(target=lambda: os.execv('/bin/sh', sh)).start(); threading.Event().wait()",
        // With no other descriptor in its table.
        "os.closerange(0, fd); os.closerange(fd + 1, 1 << 16); os.execv('/bin/sh', sh)",
    ] {
        let script = format!(
            "
fd = os.open('session', os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
os.write(fd, b'new\\n')
sh = ['sh', '-c', r'''test \"$(cat session)\" = new && {PAUSE}''']
{exec}"
        );
        in_steps("python3", &script, &[("new\n", 1), ("new\n", 1)]);
    }
}

#[test]
fn rule_5_4_the_last_close_tells_that_a_writer_was_killed() {
    in_steps(
        "python3",
        "
import errno, signal
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
pid = os.fork()
if pid == 0: os.write(fd, b'child'); os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
os.write(fd, b'parent')
try: os.close(fd); error = 0
except OSError as e: error = e.errno
assert error == errno.ECANCELED, error
pause()
with open('session', 'w') as f: f.write('new\\n')
",
        &[(OLD, 0), ("new\n", 1)],
    );
}

#[test]
fn rule_5_4_a_stopped_writer_is_not_a_killed_one() {
    in_steps(
        "python3",
        "
import signal
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
pid = os.fork()
if pid == 0: os.write(fd, b'child\\n'); os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)
os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
os.write(fd, b'parent\\n'); os.close(fd); pause()
os.kill(pid, signal.SIGCONT); os.waitpid(pid, 0)
",
        &[("child\nparent\n", 1), ("child\nparent\n", 1)],
    );
}

/// Reopening a writer's file gives another handle on the same staged file.
#[test]
fn a_writer_reopened_by_proc_or_dev_is_the_same_file() {
    let mount = Mount::new(Backing::Ext4);
    let lines = [
        "{ echo x; echo y > /dev/stdout; } > session",
        "{ echo x; echo y > /dev/stdout; echo z; } > session",
        "{ echo x; /bin/echo y > /dev/stdout; /bin/echo z; } >> session",
        "{ echo x; echo y >> /dev/stdout; } > session",
        "{ echo x; echo y >> /dev/stdout; echo z; } >> session",
        "( echo x; /bin/echo y >> /dev/stdout; /bin/echo z ) >> session",
        "echo a | tee /dev/stdout > session",
        "echo a | tee -a /dev/stdout >> session",
        "exec 3> session; echo a >&3; echo b >> /proc/self/fd/3; exec 3>&-",
        "exec 3> session; echo a >&3; cat /proc/self/fd/3; exec 3>&-",
        "exec 3<> session; cat /dev/fd/3; echo b >> /dev/fd/3; cat /dev/fd/3; exec 3>&-",
        "exec 3> session; echo a >&3; cat x 2>&1 > /dev/fd/3; : < /dev/fd/3; exec 3>&-",
        "exec 3> session; exec 4>> /dev/fd/3 3>&-; echo a >&4; exec 4>&-",
        "exec 3> session; exec 4<> /dev/fd/3; echo a >&3; exec 3>&-; read x <&4; echo $x >&4",
        "{ echo abc; truncate -s 1 /dev/stdout; echo d; } > session",
        "{ dd if=/dev/zero bs=3 count=1 of=/dev/stdout status=none; echo d; } > session",
        "{ cp /etc/hostname /dev/stdout; } > session",
        "sh -c 'echo x > /dev/fd/9; echo y >> /dev/fd/9' 9> session",
        "python3 -c 'open(\"/dev/stdout\", \"a\").write(\"x\"); print(\"y\")' > session",
        "cat /dev/fd/3 3< session; echo a > session",
    ];
    for shell in ["bash", "dash"] {
        for (number, line) in lines.iter().enumerate() {
            let place = format!("{shell}-{number}");
            let native = mount.disk.path().join(&place);
            fs::create_dir(&native).unwrap();
            fs::write(native.join("session"), OLD).unwrap();
            let expected = Running::start(shell, &native, line, &[]).finish();
            let new = fs::read_to_string(native.join("session")).unwrap();

            let session = mount.session(&place);
            fs::write(session.file(), OLD).unwrap();
            let mut saves = Saves::of(&session);
            let output = Running::start(shell, &session.on_mount, line, &[]).finish();
            let content = fs::read_to_string(session.checkpoint()).unwrap();
            assert_eq!(content, new, "{shell}: {line}");
            assert_eq!(output, expected, "{shell}: {line}");
            assert_eq!(saves.count(), 1, "{shell}: {line}");
            assert_eq!(session.names(), ["session"], "{shell}: {line}");
        }
    }
}

#[test]
fn one_process_writes_on_two_mounts_at_once() {
    let mounts = [Mount::new(Backing::Tmpfs), Mount::new(Backing::Tmpfs)];
    let sessions = [
        mounts[0].session("a"),
        mounts[1].session("a"),
        mounts[0].session("b"),
        mounts[1].session("b"),
    ];
    // Checked by the program itself, at once: a save at RELEASE would be too late.
    let script = r"
import itertools, os
files = [os.environ[name] for name in 'ABCD']
def contents():
    found = []
    for file in files:
        with open(file.replace('/mnt/', '/disk/repository/'), 'rb') as f: found.append(f.read())
    return found
expected = [b''] * 4
for number, order in enumerate(itertools.permutations(range(4))):
    fds = [os.open(file, os.O_WRONLY | os.O_APPEND) for file in files]
    for fd in fds: os.write(fd, b'%d,' % number)
    for n in order:
        os.close(fds[n])
        expected[n] += b'%d,' % number
        assert contents() == expected, (order, n, contents())
";
    let environment: Vec<(&str, PathBuf)> = (["A", "B", "C", "D"].into_iter())
        .zip(sessions.iter().map(Session::file))
        .collect();
    for session in &sessions {
        fs::write(session.file(), "").unwrap();
    }
    let mut saves: Vec<_> = sessions.iter().map(Saves::of).collect();
    let directory = mounts[0].disk.path();
    let output = Running::start("python3", directory, script, &environment).finish();
    assert!(output.status.success(), "{output:?}");
    let counts: Vec<_> = saves.iter_mut().map(Saves::count).collect();
    assert_eq!(counts, [24; 4], "one for every permutation");
    // And a shell's way of it.
    let line =
        "{ echo 1; echo 2 >&4; /bin/echo 3; } > \"$A\" 4> \"$B\"; echo 4 | tee \"$C\" > \"$A\"";
    Running::start("dash", directory, line, &environment).finish();
    for (n, content, count) in [(0, "4\n", 26), (1, "2\n", 25), (2, "4\n", 25)] {
        let found = fs::read_to_string(sessions[n].checkpoint()).unwrap();
        assert_eq!((found.as_str(), saves[n].count()), (content, count));
    }
}
