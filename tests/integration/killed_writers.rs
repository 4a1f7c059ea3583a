//! DESIGN 2.6: a writer that is killed saves nothing, and one that ends by
//! itself saves what it wrote, however it ends.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use crate::common::saves::{PYTHON_PAUSE, Running, Saves, kill};
use crate::common::tools::{close, open_rw};
use crate::common::{Backing, Mount, Session, times, wait_until};

on_each_filesystem!(
    rule_2_6_a_writer_killed_alone_saves_nothing,
    rule_2_6_a_writer_killed_by_timeout_saves_nothing,
    rule_2_6_a_writer_killed_in_a_pipeline_saves_nothing,
    rule_2_6_a_shell_group_killed_as_a_whole_saves_nothing,
    rule_2_6_a_writer_killed_in_a_shell_group_that_goes_on_spoils_the_save,
    rule_2_6_a_killed_process_that_did_not_write_spoils_nothing,
    rule_2_6_a_killed_process_with_a_mapping_saves_nothing,
    rule_2_3_what_is_mapped_and_closed_is_saved_once_when_it_is_unmapped,
);

const OLD: &str = "old checkpoint\n";
const SIGNALS: [&str; 4] = ["KILL", "TERM", "INT", "SEGV"];

/// Writes for ever, in pieces that take a while, to `session` or to its standard output;
/// prints its process id once it writes.
const WRITER: &str = "
import resource, signal, sys, threading
for s in (signal.SIGTERM, signal.SIGINT, signal.SIGSEGV): signal.signal(s, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
how = os.environ.get('HOW')
fd = os.open('session', int(how)) if how else 1
block = b'x' * (4 << 20)
os.write(fd, b'begun')
def write():
    while True: os.pwrite(fd, block, 5)
for _ in range(int(os.environ.get('THREADS', '0'))): threading.Thread(target=write).start()
tell(os.getpid())
write()
";

/// Runs `act` for every signal, each on a session of its own, all at once.
fn with_each_signal(backing: Backing, act: impl Fn(&Trial<'_>) + Sync) {
    let mount = Mount::new(backing);
    std::thread::scope(|scope| {
        for signal in SIGNALS {
            let (mount, act) = (&mount, &act);
            scope.spawn(move || {
                let session = mount.session(signal);
                fs::write(session.file(), OLD).unwrap();
                let writer = mount.disk.beside(&format!("writer-{signal}.py"));
                fs::write(&writer, format!("{PYTHON_PAUSE}{WRITER}")).unwrap();
                act(&Trial {
                    signal,
                    session: &session,
                    writer,
                });
            });
        }
    });
}

struct Trial<'a> {
    signal: &'a str,
    session: &'a Session,
    /// The program that writes.
    writer: PathBuf,
}

impl Trial<'_> {
    /// Runs a command that prints the process id of its writer, kills as asked, and waits
    /// until all have ended: nothing has been saved.
    fn killed(&self, shell: &str, command: &str, more: &[(&str, &str)], target: Target) {
        let mut saves = Saves::of(self.session);
        let inode = self.session.inode();
        let mut running = self.start(shell, command, more);
        let writer = running.told();
        match target {
            Target::Told => kill(self.signal, &writer),
            Target::Group => kill(self.signal, &format!("-{}", running.pid)),
        }
        let output = running.finish();
        let what = format!("{command}, {}: {output:?}", self.signal);
        self.nothing_is_saved(&what, &mut saves);
        assert_eq!(self.session.inode(), inode, "{what}");
        // At once, not at a second try.
        fs::write(self.session.file(), "next").expect(&what);
        assert_eq!(fs::read(self.session.checkpoint()).unwrap(), b"next");
        fs::write(self.session.file(), OLD).expect(&what);
    }

    fn nothing_is_saved(&self, what: &str, saves: &mut Saves) {
        for file in [self.session.file(), self.session.checkpoint()] {
            let content = fs::read(file).unwrap();
            let is_old = content == OLD.as_bytes();
            assert!(is_old, "saved {} bytes: {what}", content.len());
        }
        assert_eq!(self.session.names(), ["session"], "{what}");
        assert_eq!(saves.count(), 0, "{what}");
        assert_eq!(saves.names, [""; 0], "{what}");
    }

    fn start(&self, shell: &str, command: &str, more: &[(&str, &str)]) -> Running {
        let mut environment = vec![("WRITER", self.writer.clone())];
        environment.extend(
            more.iter()
                .map(|(name, value)| (*name, PathBuf::from(value))),
        );
        Running::start(shell, &self.session.on_mount, command, &environment)
    }
}

enum Target {
    /// The process whose id the command has printed.
    Told,
    /// All processes of the command.
    Group,
}

fn rule_2_6_a_writer_killed_alone_saves_nothing(backing: Backing) {
    let how = |flags: i32| flags.to_string();
    let truncating = how(libc::O_WRONLY | libc::O_TRUNC);
    let appending = how(libc::O_WRONLY | libc::O_APPEND);
    let changing = how(libc::O_RDWR);
    with_each_signal(backing, |trial| {
        for how in [&truncating, &appending, &changing] {
            let line = "exec python3 \"$WRITER\"";
            trial.killed("dash", line, &[("HOW", how)], Target::Told);
        }
        // Other threads of it are writing, too.
        let threads = [("HOW", truncating.as_str()), ("THREADS", "3")];
        trial.killed("dash", "exec python3 \"$WRITER\"", &threads, Target::Told);
        for shell in ["bash", "dash"] {
            let line = "python3 \"$WRITER\" > session";
            trial.killed(shell, line, &[], Target::Told);
        }
    });
}

fn rule_2_6_a_writer_killed_by_timeout_saves_nothing(backing: Backing) {
    with_each_signal(backing, |trial| {
        let mut saves = Saves::of(trial.session);
        for command in [
            "timeout -s SIGNAL SECONDS python3 \"$WRITER\" > session",
            "HOW=1 timeout -s SIGNAL SECONDS python3 \"$WRITER\"",
            "{ echo a; timeout -s SIGNAL SECONDS python3 \"$WRITER\"; } > session",
        ] {
            // If the time is up before it has begun to write: again.
            let tried = [1, 4, 16].into_iter().find(|seconds| {
                let command = command.replace("SIGNAL", trial.signal);
                let command = command.replace("SECONDS", &seconds.to_string());
                let mut running = trial.start("bash", &command, &[]);
                let has_begun = running.told_before_its_end().is_some();
                let output = running.finish();
                if !has_begun {
                    // A killed process that has not written does no harm: what `timeout`
                    // and the shell did to the file may be saved.
                    fs::write(trial.session.file(), OLD).unwrap();
                    saves = Saves::of(trial.session);
                    return false;
                }
                let what = format!("{command}: {output:?}");
                trial.nothing_is_saved(&what, &mut saves);
                has_begun
            });
            assert!(tried.is_some(), "too slow to be tested: {command}");
        }
        fs::write(trial.session.file(), "next").unwrap();
        assert_eq!(saves.count(), 1);
    });
}

fn rule_2_6_a_writer_killed_in_a_pipeline_saves_nothing(backing: Backing) {
    with_each_signal(backing, |trial| {
        for (shell, line, target) in [
            (
                "bash",
                "cat /dev/zero | python3 \"$WRITER\" > session",
                Target::Told,
            ),
            (
                "dash",
                "cat /dev/zero | python3 \"$WRITER\" > session",
                Target::Group,
            ),
            (
                "dash",
                "echo a | HOW=1025 python3 \"$WRITER\" | cat",
                Target::Told,
            ),
        ] {
            trial.killed(shell, line, &[], target);
        }
        // The last program of the pipeline writes the file; it is not our writer.
        let mut saves = Saves::of(trial.session);
        let line = "{ head -c 300000 /dev/zero; exec sleep 1000; } | \
                    { cd ..; exec dash -c 'echo $$ > \"$TOLD\"; exec cat'; } > session";
        let mut running = trial.start("dash", line, &[]);
        let cat = running.told();
        wait_until("cat has written", || {
            fs::read_to_string(format!("/proc/{cat}/fdinfo/1"))
                .is_ok_and(|info| info.starts_with("pos:\t300000\n"))
        });
        kill(trial.signal, &cat);
        wait_until("cat is gone", || {
            let stat = fs::read_to_string(format!("/proc/{cat}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        });
        trial.nothing_is_saved(line, &mut saves);
        fs::write(trial.session.file(), "next").unwrap();
        kill("KILL", &format!("-{}", running.pid));
        running.finish();
        assert_eq!(saves.count(), 1);
    });
}

fn rule_2_6_a_shell_group_killed_as_a_whole_saves_nothing(backing: Backing) {
    with_each_signal(backing, |trial| {
        for shell in ["bash", "dash"] {
            for line in [
                "{ echo a; python3 \"$WRITER\"; echo b; } > session",
                "( echo a; python3 \"$WRITER\"; echo b ) >> session",
                "exec 3>> session; echo a >&3; python3 \"$WRITER\" >&3; echo b >&3",
            ] {
                trial.killed(shell, line, &[], Target::Group);
            }
        }
    });
}

fn rule_2_6_a_writer_killed_in_a_shell_group_that_goes_on_spoils_the_save(backing: Backing) {
    with_each_signal(backing, |trial| {
        for shell in ["bash", "dash"] {
            for line in [
                "{ echo a; python3 \"$WRITER\"; echo b; } > session; :",
                "( echo a; python3 \"$WRITER\"; echo b ) >> session; :",
                "exec 3> session; echo a >&3; python3 \"$WRITER\" >&3; /bin/echo b >&3; exec 3>&-",
                // It opened the file itself, and passed it on.
                "( HOW=513 python3 \"$WRITER\"; : ); :",
            ] {
                trial.killed(shell, line, &[], Target::Told);
            }
        }
    });
}

fn rule_2_6_a_killed_process_that_did_not_write_spoils_nothing(backing: Backing) {
    with_each_signal(backing, |trial| {
        let bystander = "{ exec dash -c 'echo $$ > \"$TOLD\"; exec sleep 1000'; }";
        for (shell, line, new) in [
            (
                "bash",
                "{ /bin/echo a; BYSTANDER; /bin/echo b; } > session",
                "a\nb\n",
            ),
            ("dash", "( echo a; BYSTANDER; echo b ) > session", "a\nb\n"),
            (
                "dash",
                "( echo a; BYSTANDER; : ) >> session",
                "old checkpoint\na\n",
            ),
            // It is even the last process that has the file open.
            ("bash", "( echo a; BYSTANDER & ) > session", "a\n"),
            (
                "dash",
                "exec >> session; echo a; BYSTANDER & exit 0",
                "old checkpoint\na\n",
            ),
        ] {
            if trial.signal == "INT" && line.contains('&') {
                // A shell's background jobs ignore it.
                continue;
            }
            let line = line.replace("BYSTANDER", &format!("( {bystander} )"));
            let mut saves = Saves::of(trial.session);
            let mut running = trial.start(shell, &line, &[]);
            let pid = running.told();
            kill(trial.signal, &pid);
            let output = running.finish();
            let what = format!("{line}, {}: {output:?}", trial.signal);
            assert_eq!(
                fs::read_to_string(trial.session.file()).unwrap(),
                new,
                "{what}"
            );
            assert_eq!(saves.count(), 1, "{what}");
            fs::write(trial.session.file(), OLD).unwrap();
        }
    });
}

/// exit_group(2) ends all threads but one by a signal.
#[test]
fn rule_2_6_an_end_by_exit_is_no_kill_whichever_thread_is_the_last() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    let script = format!(
        "{PYTHON_PAUSE}
import threading
# Copying from a file in memory, a thread does not notice that it is to end.
memory = os.memfd_create('m')
os.truncate(memory, 16 << 20)
buffers = [bytearray(16 << 20) for _ in range(4)]
for b in buffers: os.preadv(memory, [b], 0)
def busy(b, started):
    started.set()
    while True: os.preadv(memory, [b], 0)
for i in range(ROUNDS):
    pid = os.fork()
    if pid == 0:
        started = [threading.Event() for _ in buffers]
        for b, s in zip(buffers, started): threading.Thread(target=busy, args=(b, s)).start()
        for s in started: s.wait()
        fd = os.open('session', os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC * (i % 2))
        os.write(fd, b'save %d' % i)
        if i % 3 == 0: threading.Thread(target=lambda: os._exit(i % 5)).start(); busy(b, s)
        os._exit(i % 5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == i % 5
    with open('session') as f: content = f.read()
    assert content == 'save %d' % i, (i, content)
"
    );
    // A round takes 160 ms of copying, on any filesystem: no program may take longer than
    // the tests wait for.
    let rounds = 20;
    let script = script.replace("ROUNDS", &rounds.to_string());
    fs::write(session.file(), OLD).unwrap();
    let mut saves = Saves::of(&session);
    for program in 1..=times(10) {
        let output = Running::start("python3", &session.on_mount, &script, &[]).finish();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(saves.count(), program * rounds);
    }
    assert_eq!(session.names(), ["session"]);
}

#[test]
fn rule_2_6_an_end_without_close_saves() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    let mut saves = Saves::of(&session);
    let opened = "import os, sys, threading\nf = open('session', 'w'); f.write('x'); f.flush()\n";
    for (number, end) in [
        "os._exit(0)",
        "os._exit(1)",
        "sys.exit(255)",
        "raise Exception",
        // The first thread ends before the one that has written.
        "threading.Thread(target=lambda: os._exit(7)).start(); threading.Event().wait()",
        "os.execv('/bin/true', ['true'])",
        "os.set_inheritable(f.fileno(), True); os.execv('/bin/true', ['true'])",
        "d = os.dup(f.fileno()); f.close(); os._exit(0)",
    ]
    .iter()
    .enumerate()
    {
        fs::write(session.file(), OLD).unwrap();
        let script = format!("{opened}{end}");
        Running::start("python3", &session.on_mount, &script, &[]).finish();
        assert_eq!(fs::read(session.checkpoint()).unwrap(), b"x", "{end}");
        assert_eq!(saves.count(), 2 * (number + 1), "{end}");
    }
}

const MAPPED: usize = 300_000;

/// What programs that map `session` do.
const MAPPING: &str = "
import ctypes
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
fd = os.open('session', os.O_RDWR)
def map():
    global at
    at = c.mmap(None, LEN, 3, 1, fd, 0)
def unmap(): assert c.munmap(at, LEN) == 0
def write(half): ctypes.memset(at + half * (LEN // 2), ord('n'), LEN // 2)
def kill(signal): os.kill(os.getpid(), signal)
";

/// Runs a program that maps `session` and closes it. While it waits to be told to go
/// on nothing is saved, and of a program that is killed nothing ever is.
fn run_mapping(session: &Session, script: &str, expected: Option<&[u8]>) {
    fs::write(session.file(), vec![b'o'; MAPPED]).unwrap();
    let mut saves = Saves::of(session);
    let script = format!(
        "{PYTHON_PAUSE}{}",
        script.replace("LEN", &MAPPED.to_string())
    );
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    running.told();
    assert_eq!(saves.count(), 0, "{script}");
    assert!(fs::read(session.file()).unwrap() == vec![b'o'; MAPPED]);
    running.go_on();
    let output = running.finish();
    let what = format!("{script}: {output:?}");
    assert_eq!(output.status.success(), expected.is_some(), "{what}");
    if let Some(expected) = expected {
        wait_until(&what, || {
            fs::read(session.checkpoint()).unwrap() == expected
        });
    }
    // One that is not finished with it keeps others out.
    wait_until(&what, || fs::write(session.file(), "next").is_ok());
    assert_eq!(saves.count(), 1 + usize::from(expected.is_some()), "{what}");
    assert_eq!(fs::read(session.checkpoint()).unwrap(), b"next");
}

fn rule_2_6_a_killed_process_with_a_mapping_saves_nothing(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    for end in [
        "os.close(fd); write(0); pause(); kill(9)",
        "os.close(fd); write(0); pause(); write(1); kill(15)",
        // It has the file, and is not the one that opened it.
        "
pid = os.fork()
if pid == 0: write(0); pause(); kill(9)
os.waitpid(pid, 0)
try: os.close(fd)
except OSError: pass
os._exit(1)",
        // The other one is not the one that is killed.
        "
pid = os.fork()
if pid == 0: os.close(fd); write(0); pause(); os._exit(0)
os.close(fd); kill(9) if os.waitpid(pid, 0) else None",
    ] {
        run_mapping(&session, &format!("{MAPPING}map()\n{end}"), None);
    }
}

fn rule_2_3_what_is_mapped_and_closed_is_saved_once_when_it_is_unmapped(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let new = vec![b'n'; MAPPED];
    for end in [
        "os.close(fd); pause(); write(0); write(1); unmap()",
        "os.close(fd); pause(); write(0); write(1); os._exit(0)",
        "os.close(fd); write(0); pause(); write(1); os.execv('/bin/true', ['true'])",
        // In a child, which has nothing else of it.
        "
pid = os.fork()
if pid == 0: os.close(fd); pause(); write(0); write(1); os._exit(0)
os.close(fd); unmap(); os.waitpid(pid, 0)",
    ] {
        let script = format!("{MAPPING}map()\n{end}");
        run_mapping(&session, &script, Some(&new));
    }
}

/// A size is a content, and is saved by the close, whatever is mapped.
#[test]
fn rule_2_3_a_new_size_is_saved_by_the_close() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), OLD).unwrap();
    let mut saves = Saves::of(&session);
    for size in [100, 3, 0] {
        let file = open_rw(session.file()).unwrap();
        file.set_len(size).unwrap();
        close(file).unwrap();
        assert_eq!(fs::metadata(session.checkpoint()).unwrap().len(), size);
        assert_eq!(fs::metadata(session.file()).unwrap().len(), size);
    }
    assert_eq!(saves.count(), 3);
    // As fsx does: mappings of it are left.
    let script = format!(
        "{MAPPING}map(); os.close(fd)
for size in (3, 9, 0):
    fd = os.open('session', os.O_RDWR); map(); os.ftruncate(fd, size); os.close(fd)
    assert os.stat('session').st_size == size, size"
    );
    fs::write(session.file(), vec![b'o'; MAPPED]).unwrap();
    let script = format!("import os\n{}", script.replace("LEN", &MAPPED.to_string()));
    let output = Running::start("python3", &session.on_mount, &script, &[]).finish();
    assert!(output.status.success(), "{output:?}");
}

/// seccomp(2): the kernel ends what breaks a rule, without a signal.
#[test]
fn rule_2_6_a_writer_that_is_killed_without_a_signal_saves_nothing() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), OLD).unwrap();
    let mut saves = Saves::of(&session);
    let script = "
import ctypes, os
c = ctypes.CDLL(None)
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'half')
PR_SET_SECCOMP, SECCOMP_MODE_STRICT = 22, 1
c.prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)
os.getppid()
";
    let output = Running::start("python3", &session.on_mount, script, &[]).finish();
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), OLD);
    fs::write(session.file(), "next").unwrap();
    assert_eq!(saves.count(), 1);
}
