//! DESIGN 5 and 2.6: programs that open `session` for others, and close it before, while
//! or after those write.

use std::fs;
use std::process::{Command, Output};

use crate::common::saves::{PYTHON_PAUSE, Running, Saves};
use crate::common::{Backing, Mount, Session, shell, wait_until};

const OLD: &str = "old\n";

/// Python, for a child: it waits until it is told to go on, and writes.
const LATE: &str = r#"read go <"$GO"; echo late"#;

fn old_session(mount: &Mount) -> Session {
    let session = mount.session("a");
    fs::write(session.file(), OLD).unwrap();
    session
}

fn assert_is(session: &Session, content: &str, what: &str) {
    for file in [session.file(), session.checkpoint()] {
        assert_eq!(fs::read_to_string(file).unwrap(), content, "{what}");
    }
    assert_eq!(session.names(), ["session"], "{what}");
}

/// Runs a program; returns its output, the content and the number of saves at its end.
fn run(program: &str, script: &str) -> (Output, String, usize) {
    let mount = Mount::new(Backing::Tmpfs);
    let session = old_session(&mount);
    let mut saves = Saves::of(&session);
    let elsewhere = tempfile::tempdir().unwrap();
    let environment = [("GO_FILE", elsewhere.path().join("go"))];
    let output = Running::start(program, &session.on_mount, script, &environment).finish();
    let content = fs::read_to_string(session.checkpoint()).unwrap();
    assert_is(&session, &content, script);
    (output, content, saves.count())
}

/// Runs a program that leaves a process in the background and then prints that it is
/// done: nothing is saved then, and what that process writes is saved once.
fn background(program: &str, script: &str, expected: &str) {
    let mount = Mount::new(Backing::Tmpfs);
    let session = old_session(&mount);
    let mut saves = Saves::of(&session);
    let mut running = Running::start(program, &session.on_mount, script, &[]);
    running.told();
    assert_is(&session, OLD, script);
    assert_eq!(saves.count(), 0, "{script}");
    running.go_on();
    let output = running.finish();
    assert!(output.status.success(), "{script}: {output:?}");
    wait_until(script, || {
        fs::read_to_string(session.checkpoint()).unwrap() == expected
    });
    assert_is(&session, expected, script);
    assert_eq!(saves.count(), 1, "{script}");
}

/// Parents that close their copy before, after and while their child writes; the child
/// ends as `END` says.
const PARENTS: [(&str, &str); 5] = [
    (
        "python3",
        "
f = open('session', 'w')
p = subprocess.Popen(['sh', '-c', '''UNTIL_GO; echo half; END'''], stdout=f)
f.close(); go(); p.wait()",
    ),
    (
        "python3",
        "
f = open('session', 'w')
p = subprocess.Popen(['sh', '-c', '''echo half; UNTIL_GO; END'''], stdout=f)
while os.fstat(f.fileno()).st_size == 0: time.sleep(.001)
f.close(); go(); p.wait()",
    ),
    (
        "python3",
        "
f = open('session', 'w')
p = subprocess.Popen(['sh', '-c', '''until test -e \"$GO_FILE\"; do echo half; done; END'''], stdout=f)
while os.fstat(f.fileno()).st_size < 500: time.sleep(.001)
f.close(); go(); p.wait()",
    ),
    (
        "sh",
        "node -e \"
const fs = require('fs'), fd = fs.openSync('session', 'w');
require('child_process').spawn('sh', ['-c', 'UNTIL_GO; echo half; END'], {stdio: ['ignore', fd, 'ignore']});
fs.closeSync(fd); fs.writeFileSync(process.env.GO_FILE, '')\"",
    ),
    ("fish", "sh -c 'echo half; END' > session"),
];

/// Runs all of them with this end of the child.
fn with_each_parent(end: &str, check: impl Fn(&str, &str, usize)) {
    for (program, script) in PARENTS {
        let python = "
import os, subprocess, time
def go(): open(os.environ['GO_FILE'], 'w').close()
";
        let script = script
            .replace("UNTIL_GO", "until test -e $GO_FILE; do sleep .01; done")
            .replace("END", end);
        let script = match program {
            "python3" => format!("{python}{script}"),
            // Within double quotes.
            "sh" => script.replace('$', "\\$"),
            _ => script,
        };
        let (_, content, saves) = run(program, &script);
        check(&script, &content, saves);
    }
}

#[test]
fn rule_2_6_a_child_that_is_killed_saves_nothing_whenever_its_parent_closes() {
    with_each_parent("kill -9 $$", |script, content, saves| {
        assert_eq!((content, saves), (OLD, 0), "{script}");
    });
}

#[test]
fn rule_5_what_was_opened_for_a_child_is_saved_once_when_the_child_is_done() {
    with_each_parent("exit 0", |script, content, saves| {
        assert_eq!(saves, 1, "{script}");
        assert!(content.starts_with("half\n"), "{script}: {content}");
        assert!(content.replace("half\n", "").is_empty(), "{script}");
    });
}

#[test]
fn rule_5_a_shell_that_leaves_a_daemon_behind_saves_when_that_is_done() {
    let tell = r#"echo >"$TOLD""#;
    for shell in ["bash", "dash"] {
        for start in [
            format!("( ({LATE}) & ) > session"),
            format!("sh -c '({LATE}) &' > session"),
            format!("sh -c '( ({LATE}) & ) & wait' > session"),
            format!("setsid sh -c '({LATE}) &' > session"),
            format!("{{ ({LATE}) & }} > session"),
        ] {
            background(shell, &format!("{start}; {tell}"), "late\n");
        }
    }
}

#[test]
fn rule_5_two_daemons_of_one_subshell_make_one_save() {
    for shell in ["bash", "dash"] {
        let script = format!(
            "( setsid --wait sh -c 'echo one' & first=$!
setsid sh -c '{LATE}' & wait $first ) > session; echo >\"$TOLD\""
        );
        background(shell, &script, "one\nlate\n");
    }
}

#[test]
fn rule_5_a_forked_writer_without_exec_holds_the_file() {
    let fork = format!(
        "{PYTHON_PAUSE}
def late(f):
    with open(os.environ['GO']) as go: go.readline()
    f.write('late\\n'); f.close(); os._exit(0)
f = open('session', 'w')
"
    );
    for script in [
        // The parent closes its copy.
        "
pid = os.fork()
if pid == 0: late(f)
f.close(); tell(); os.waitpid(pid, 0)",
        // It ends without having closed it.
        "
if os.fork() == 0: tell(); late(f)
os._exit(0)",
        // A double fork whose middle process ends first.
        "
pid = os.fork()
if pid == 0:
    os.setsid()
    if os.fork() == 0: late(f)
    os._exit(0)
os.waitpid(pid, 0); f.close(); tell()",
        // The middle process ends last.
        "
pid = os.fork()
if pid == 0:
    os.setsid(); child = os.fork()
    if child == 0: late(f)
    f.close(); tell(); os.waitpid(child, 0); os._exit(0)
f.close(); os.waitpid(pid, 0)",
    ] {
        background("python3", &format!("{fork}{script}"), "late\n");
    }
}

/// A receiver that started before the open cannot be found among the opener's
/// descendants.
#[test]
fn rule_2_6_a_descriptor_passed_on_by_a_killed_opener_does_not_continue_its_save() {
    let script = r"
import errno, os, signal, socket, sys
here, there = socket.socketpair()
pid = os.fork()
if pid == 0:
    fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
    socket.send_fds(there, [b'x'], [fd])
    os.write(fd, b'0123456789'); os.kill(os.getpid(), signal.SIGKILL)
fd = socket.recv_fds(here, 1, 1)[1][0]
os.waitpid(pid, 0)
for call in (lambda: os.write(fd, b'more'), lambda: os.ftruncate(fd, 3), lambda: os.fsync(fd)):
    try: call(); sys.exit('it says 0')
    except OSError as e: assert e.errno == errno.ECANCELED, e
if sys.argv[1:] == ['anew']:
    os.ftruncate(fd, 0); os.pwrite(fd, b'new\n', 0); os.close(fd)
";
    let (output, content, saves) = run("python3", script);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((content.as_str(), saves), (OLD, 0));
    let anew = script.replace("sys.argv[1:] == ['anew']", "True");
    let (output, content, saves) = run("python3", &anew);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((content.as_str(), saves), ("new\n", 1));
}

/// A process that shares its table of descriptors closes nothing when it ends.
#[test]
fn rule_2_6_a_killed_process_that_shared_its_descriptors_saves_nothing() {
    for opens in ["child", "parent"] {
        let script = format!(
            r"
import ctypes, errno, os, platform, signal
CLONE_FILES = 0x400
clone = {{'x86_64': 56, 'aarch64': 220}}[platform.machine()]
fd = 9
def open_it():
    new = os.open('session', os.O_WRONLY | os.O_TRUNC)
    os.dup2(new, fd); os.close(new)
if '{opens}' == 'parent': open_it()
pid = ctypes.CDLL(None).syscall(clone, CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0:
    if '{opens}' == 'child': open_it()
    os.write(fd, b'half'); os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
try: os.close(fd); error = 0
except OSError as e: error = e.errno
assert error == errno.ECANCELED, error
"
        );
        let (output, content, saves) = run("python3", &script);
        assert!(output.status.success(), "{opens}: {output:?}");
        assert_eq!((content.as_str(), saves), (OLD, 0), "{opens}");
    }
}

/// Runs a program that shares its table of descriptors with children, of which each
/// writes: so many that live on, and then one that ends as this says.
fn share_descriptors(others: usize, end: &str) -> (Output, String, usize) {
    let script = format!(
        r"
import ctypes, errno, os, platform, signal, sys
CLONE_FILES = 0x400
clone = {{'x86_64': 56, 'aarch64': 220}}[platform.machine()]
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
here, there = os.pipe()
def child(what, end):
    pid = ctypes.CDLL(None).syscall(clone, CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0: os.write(fd, what); os.write(there, b'x'); end()
    os.read(here, 1)
    return pid
others = [child(b'%d,' % n, signal.pause) for n in range({others})]
pid = child(b'half', lambda: {end})
os.waitpid(pid, 0)
try: os.close(fd); error = 0
except OSError as e: error = e.errno
for pid in others: os.kill(pid, signal.SIGKILL)
sys.exit(error)
"
    );
    run("python3", &script)
}

#[test]
fn rule_2_6_the_end_of_each_child_that_shared_its_descriptors_counts() {
    for others in 0..5 {
        let killed = share_descriptors(others, "os.kill(os.getpid(), signal.SIGKILL)");
        let (output, content, saves) = killed;
        assert_eq!(output.status.code(), Some(libc::ECANCELED), "{output:?}");
        assert_eq!((content.as_str(), saves), (OLD, 0), "{others}");
    }
    // As many as are watched.
    for (others, expected) in [(0, "half"), (1, "0,half")] {
        let (output, content, saves) = share_descriptors(others, "os._exit(1)");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!((content.as_str(), saves), (expected, 1));
    }
}

/// Only who may choose numbers of processes can see to it: root.
#[test]
fn rule_2_6_a_child_that_has_the_number_of_a_thread_that_wrote_is_itself() {
    let script = r"
import ctypes, os, signal, struct, sys, threading
CLONE3 = 435
c = ctypes.CDLL(None, use_errno=True)
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
tids = []
def write(): os.write(fd, b'from a thread,'); tids.append(threading.get_native_id())
def clone(tid):
    number = ctypes.c_int(tid)
    words = [0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(number), 1]
    return c.syscall(CLONE3, struct.pack('10Q', *words), 80)
pid = -1
while pid < 0:
    thread = threading.Thread(target=write); thread.start(); thread.join()
    while os.path.exists(f'/proc/self/task/{tids[-1]}'): pass
    pid = clone(tids[-1])
    # EPERM
    if ctypes.get_errno() == 1: sys.exit(77)
if pid == 0: os.write(fd, b'half'); os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
assert pid == tids[-1]
try: os.close(fd)
except OSError as e: sys.exit(e.errno)
";
    let (output, content, saves) = run("python3", script);
    if output.status.code() == Some(77) {
        eprintln!("not tried: the number of a process cannot be chosen here");
        return;
    }
    assert_eq!(output.status.code(), Some(libc::ECANCELED), "{output:?}");
    assert_eq!((content.as_str(), saves), (OLD, 0));
}

/// DESIGN 13.2: processes that have nothing to do with a save do not slow it down.
#[test]
fn rule_13_2_a_save_does_not_look_at_the_processes_of_others() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = old_session(&mount);
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let looked_at = format!("/proc/{}/", stranger.id());
    let trace = mount.disk.path().join("trace");
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=file,name_to_handle_at,read"])
        .arg("-o")
        .arg(&trace)
        .args(["-p", &mount.pid().to_string()])
        .spawn();
    let mut strace = strace.unwrap();
    let is_attached = || {
        let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
        !status.contains("TracerPid:\t0")
    };
    wait_until("strace is attached", is_attached);
    let line = "
        for i in 1 2 3; do ( (echo a; sleep .01; echo b) & ) > session; done
        sh -c 'echo half; kill -9 $$' > session
        { /bin/echo x; /bin/echo y; } > session";
    shell("bash", &session.on_mount, line);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&strace),
        rustix::process::Signal::INT,
    )
    .unwrap();
    strace.wait().unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let calls = fs::read_to_string(&trace).unwrap();
    assert!(calls.contains("/fdinfo"), "nothing was looked at");
    assert!(!calls.contains(&looked_at), "it looks at a stranger");
}

#[test]
fn invariant_5_the_log_names_the_process_that_was_killed() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = old_session(&mount);
    let output = shell(
        "bash",
        &session.on_mount,
        "sh -c 'echo $$ > $PIDS; echo half; kill -9 $$' > session"
            .replace("$PIDS", &mount.disk.beside("pid").display().to_string())
            .as_str(),
    );
    assert!(!output.status.success());
    let pid = fs::read_to_string(mount.disk.beside("pid")).unwrap();
    let expected = format!("a.session: process {} (sh) was killed", pid.trim());
    let log = mount.log();
    assert!(log.contains(&expected), "{expected}: {log}");
    assert_is(&session, OLD, "killed");
}

#[test]
fn invariant_5_the_log_tells_of_a_lock_that_is_in_the_way() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = old_session(&mount);
    fs::write(session.in_repository.join("session.next"), "foreign").unwrap();
    assert!(fs::write(session.file(), "new").is_err());
    let log = mount.log();
    assert!(
        log.contains("a.session: EBUSY: session.next of another program"),
        "{log}"
    );
}
