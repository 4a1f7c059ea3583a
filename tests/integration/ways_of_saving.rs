//! The ways in which ordinary programs write a file: each leaves what it leaves in an
//! ordinary directory, and makes one save.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::saves::{PAUSE, PYTHON_PAUSE, Running, Saves, Watcher};
use crate::common::{Backing, Mount, Session, is_full};

on_each_filesystem!(
    bash_saves_as_in_an_ordinary_directory,
    dash_saves_as_in_an_ordinary_directory,
    tools_save_as_in_an_ordinary_directory,
    tools_save_from_bash_as_in_an_ordinary_directory,
    python_saves_as_in_an_ordinary_directory,
);

/// The content before.
const OLD: &str = "pear\napple\nplum\n";

/// A way to save, and how many saves it makes.
struct Way {
    line: String,
    saves: usize,
    /// Also tried on a session that has no checkpoint yet.
    creates: bool,
    /// How often it pauses, so that a reader can look in the middle.
    pauses: usize,
}

/// A line that replaces or extends the file. `PAUSE` in it is a pause.
fn way(line: &str) -> Way {
    Way {
        line: line.replace("PAUSE", PAUSE),
        saves: 1,
        creates: true,
        pauses: line.matches("PAUSE").count(),
    }
}

/// A line that needs a checkpoint to work on.
fn change(line: &str) -> Way {
    Way {
        creates: false,
        ..way(line)
    }
}

/// A line that does not save.
fn no_save(line: &str) -> Way {
    Way {
        saves: 0,
        ..change(line)
    }
}

fn python(script: &str) -> Way {
    Way {
        line: format!("{PYTHON_PAUSE}{script}"),
        saves: 1,
        creates: !script.contains("r+") && !script.contains("truncate("),
        pauses: script.matches("pause()").count() + script.matches("tell()").count(),
    }
}

fn shell_ways() -> Vec<Way> {
    vec![
        way("echo a > session"),
        way("echo a >> session"),
        way(": > session"),
        way("> session"),
        way("printf 'no end of line' > session"),
        way("/bin/echo a > session"),
        way("/bin/echo a >> session"),
        way("{ echo a; echo b; } > session"),
        way("{ /bin/echo a; /bin/echo b; } > session"),
        way("{ /bin/echo a; PAUSE; /bin/echo b; } > session"),
        way("{ PAUSE; echo a; PAUSE; /bin/echo b; PAUSE; } >> session"),
        way("( /bin/echo a; /bin/echo b ) > session"),
        way("( /bin/echo a; PAUSE; /bin/echo b ) > session"),
        way("( /bin/echo a; PAUSE; echo b ) >> session"),
        way("exec 3> session; echo a >&3; /bin/echo b >&3; exec 3>&-"),
        way("exec 3> session; echo a >&3; PAUSE; /bin/echo b >&3; PAUSE; exec 3>&-"),
        way("exec 3>> session; echo a >&3; PAUSE; /bin/echo b >&3; exec 3>&-"),
        way("exec 3<> session; read line <&3; echo $line; echo a >&3; exec 3>&-"),
        way("exec 3> session; echo a >&3; exec 4>&3 3>&-; PAUSE; echo b >&4; exec 4>&-"),
        way("exec > session; echo a; /bin/echo b"),
        way("exec >> session; echo a; exec /bin/echo b"),
        way("echo a > session; exit 3"),
        way("cat <<END > session\nhere\nEND"),
        way("for i in 1 2 3; do echo $i; done > session"),
        way("f() { echo a; PAUSE; cat \"$X\"; }; f > session"),
        way("echo a | cat > session"),
        way("echo a | while read x; do echo $x; PAUSE; /bin/echo b; done > session"),
        way("echo \"$(echo a; /bin/echo b)\" > session"),
        way("{ echo a; echo b >&2; } > session 2>&1"),
        way("echo a > session & wait"),
        way("{ echo a; PAUSE; } > session & wait"),
        // The parent has ended when the child writes.
        way("( echo a; { PAUSE; echo b; } & ) > session"),
        way("( echo a; { PAUSE; /bin/echo b; } & ) >> session"),
        way("exec >> session; echo a; { PAUSE; echo b; } & exit 0"),
        way("exec 3> session; ( ( PAUSE; echo late >&3 ) & ); exit 0"),
        // These fail, as they do elsewhere.
        no_save("set -C; echo a > session"),
        no_save("echo a > session/x"),
        no_save("cd session"),
        no_save("cat < session > /dev/null; : <> session; : >> session"),
        way("{ echo a; no-such-program; } > session"),
        way("no-such-program > session"),
    ]
}

fn tool_ways() -> Vec<Way> {
    vec![
        way("cat \"$X\" > session"),
        way("cat \"$BIG\" > session"),
        way("cat \"$X\" - >> session < \"$BIG\""),
        way("cp \"$X\" session"),
        way("cp \"$BIG\" session"),
        way("dd if=\"$X\" of=session status=noxfer"),
        way("dd if=\"$BIG\" of=session bs=1M status=noxfer"),
        way("dd if=\"$X\" of=session conv=fsync status=noxfer"),
        way("dd if=\"$BIG\" of=session bs=64K conv=fsync status=noxfer"),
        way("dd if=\"$BIG\" of=session bs=64K conv=fdatasync status=noxfer"),
        way("dd if=\"$X\" of=session conv=notrunc status=noxfer"),
        way("dd if=\"$X\" of=session conv=notrunc,fsync status=noxfer"),
        way("dd if=\"$X\" of=session bs=1 count=3 seek=2 conv=notrunc status=noxfer"),
        way("dd if=\"$X\" of=session bs=1 seek=2 status=noxfer"),
        way("dd if=\"$X\" of=session bs=1000 seek=3 status=noxfer"),
        way("dd if=\"$X\" of=session oflag=append conv=notrunc status=noxfer"),
        way("dd if=\"$X\" of=session bs=100 oflag=dsync status=noxfer"),
        way("dd if=/dev/zero of=session bs=1M count=3 conv=sparse status=noxfer"),
        way("echo a | tee session"),
        way("echo a | tee -a session"),
        way("tee session > /dev/null < \"$BIG\""),
        way("{ echo a; PAUSE; echo b; } | tee session"),
        way("{ echo a; PAUSE; echo b; } | tee -a session"),
        way("truncate -s 0 session"),
        way("truncate -s 5 session"),
        way("truncate -s +5 session"),
        change("truncate -s -5 session"),
        way("truncate -s 2M session"),
        no_save("touch session"),
        no_save("touch -d 2001-02-03T04:05:06Z session"),
        no_save("chmod 640 session"),
        change("sort -o session session"),
        change("sort -u session -o session"),
        way("ls > session"),
        change("head -c 3 session > /dev/null; tail -n 1 session >> session"),
        // Under another name first.
        change("sed -i s/p/P/ session"),
        change("perl -pi -e s/p/P/ session"),
        way("cp \"$X\" new; mv new session"),
        way("cp \"$BIG\" .new && mv -f .new session"),
    ]
}

fn python_ways() -> Vec<Way> {
    let threads = "
import threading
def run(f, *a):
    t = threading.Thread(target=f, args=a); t.start(); t.join()
fd = []
";
    let ways = [
        "with open('session', 'w') as f: f.write('a\\n')",
        "with open('session', 'w') as f: f.write('a' * 3000000)",
        "with open('session', 'w') as f:\n f.write('a'); f.flush(); pause(); f.write('b')",
        "with open('session', 'w'): pass",
        "with open('session', 'a') as f: f.write('a\\n')",
        "with open('session', 'a') as f:\n f.write('a'); f.flush(); pause(); f.write('b')",
        "with open('session', 'w+') as f:\n f.write('a'); f.seek(0); print(f.read())",
        "with open('session', 'r+') as f: f.write('A')",
        "with open('session', 'r+') as f:\n t = f.read(); f.seek(0); f.write(t.upper()); pause(); \
         f.truncate()",
        "with open('session', 'r+') as f: f.truncate(3)",
        "f = open('session', 'w'); f.write('a'); f.flush(); os.fsync(f.fileno()); f.close()",
        "f = open('session', 'r+'); f.write('a'); f.flush(); os.fdatasync(f.fileno()); f.close()",
        "f = open('session', 'a'); f.write('a'); f.flush(); os.fsync(f.fileno()); os._exit(0)",
        "os.truncate('session', 3)",
        "os.truncate('session', 100)",
        "f = open('session', 'w'); f.write('no close'); f.flush(); os._exit(3)",
        "f = open('session', 'w'); f.write('not flushed')",
        "f = os.open('session', os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o644); os.close(f)",
        "f = os.open('session', os.O_RDWR | os.O_CREAT, 0o666); os.pwrite(f, b'x', 7); os.close(f)",
        "f = os.open('session', os.O_RDWR | os.O_CREAT, 0o666)\nos.posix_fallocate(f, 0, 100)",
        "f = os.open('session', os.O_WRONLY | os.O_CREAT | os.O_SYNC, 0o666); os.write(f, b'at once')",
        "import mmap\nf = open('session', 'r+b'); m = mmap.mmap(f.fileno(), 0)\nm[:3] = b'MAP'; \
         m.flush(); m.close(); f.close()",
        "import mmap\nf = open('session', 'r+b'); m = mmap.mmap(f.fileno(), 0)\nm[:3] = b'MAP'; \
         m.close(); f.close()",
        // One thread opens, another writes, another closes.
        "THREADS
def do_open(): fd.append(os.open('session', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
run(do_open); run(lambda: os.write(fd[0], b'one\\n')); pause(); run(lambda: os.close(fd[0]))",
        "THREADS
def do_open(): fd.append(open('session', 'a'))
run(do_open)
for i in range(5): run(lambda: (fd[0].write(f'{i}\\n'), fd[0].flush()))
pause()
fd[0].close()",
        "THREADS
f = open('session', 'w')
t = [threading.Thread(target=lambda: (f.write('x' * 10), f.flush())) for _ in range(8)]
for x in t: x.start()
for x in t: x.join()
run(f.close)",
        // A child that goes on writing after its parent has ended.
        "f = os.open('session', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
os.write(f, b'parent\\n')
parent, (r, w) = os.getpid(), os.pipe()
if os.fork() == 0:
    os.close(w); os.read(r, 1); pause(); os.write(f, b'child\\n'); os._exit(0)
os._exit(5)",
        "f = os.open('session', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
r, w = os.pipe()
if os.fork() == 0:
    os.close(w); os.read(r, 1)
    r, w = os.pipe()
    if os.fork() == 0:
        os.close(w); os.read(r, 1)
        pause(); os.write(f, b'grandchild\\n'); pause(); os.close(f)
    else: os.write(f, b'child\\n')
os._exit(0)",
        // Another program writes, and the parent does not wait for it.
        "import subprocess
with open('session', 'w') as f: p = subprocess.Popen(['sh', '-c', 'PAUSE; echo b'], stdout=f)
os._exit(0)",
        // A shell that redirects for a while keeps the old descriptor, close-on-exec.
        "import subprocess, time
inside = os.environ['TOLD'] + '-inside'
with open('session', 'w') as f:
    child = '{ : > \"$0\"; read go < \"$GO\"; } > /dev/null; echo b'
    p = subprocess.Popen(['dash', '-c', child, inside], stdout=f)
    while not os.path.exists(inside): time.sleep(0.001)
tell()
p.wait()
os.unlink(inside)",
        "import subprocess
with open('session', 'a') as f: subprocess.run(['cat', os.environ['X']], stdout=f, check=True)",
    ];
    (ways.iter())
        .map(|script| {
            let pauses = script.matches("PAUSE").count();
            let script = script.replace("THREADS", threads).replace("PAUSE", PAUSE);
            let way = python(&script);
            let pauses = way.pauses + pauses;
            Way { pauses, ..way }
        })
        .collect()
}

fn bash_saves_as_in_an_ordinary_directory(backing: Backing) {
    try_all(backing, "bash", &shell_ways());
}

fn dash_saves_as_in_an_ordinary_directory(backing: Backing) {
    try_all(backing, "dash", &shell_ways());
}

fn tools_save_as_in_an_ordinary_directory(backing: Backing) {
    try_all(backing, "dash", &tool_ways());
}

fn tools_save_from_bash_as_in_an_ordinary_directory(backing: Backing) {
    try_all(backing, "bash", &tool_ways());
}

fn python_saves_as_in_an_ordinary_directory(backing: Backing) {
    try_all(backing, "python3", &python_ways());
}

/// One way, on one session.
struct Trial<'a> {
    program: &'a str,
    way: &'a Way,
    old: Option<&'a str>,
    environment: &'a [(&'a str, PathBuf)],
}

fn try_all(backing: Backing, program: &str, ways: &[Way]) {
    let mut mount = Mount::new(backing);
    let environment = [
        ("X", mount.disk.path().join("x")),
        ("BIG", mount.disk.path().join("big")),
    ];
    fs::write(&environment[0].1, "what is in x\n").unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(&environment[1].1, big).unwrap();
    let (mut saved, mut failed) = (Vec::new(), Vec::new());
    for (number, way) in ways.iter().enumerate() {
        for old in [Some(OLD), None] {
            // A first checkpoint by every way in a full run, otherwise by every third.
            if old.is_none() && !(way.creates && (is_full() || number.is_multiple_of(3))) {
                continue;
            }
            let trial = Trial {
                program,
                way,
                old,
                environment: &environment,
            };
            let place = format!("{number}-{}", if old.is_some() { "old" } else { "new" });
            let native = mount.disk.path().join(&place);
            let session = mount.session(&place);
            let done = catch_unwind(AssertUnwindSafe(|| trial.run(&native, &session)));
            match done {
                Ok(()) => saved.push((way, session.inode(), session)),
                Err(_) => failed.push(&way.line),
            }
        }
    }
    assert_eq!(failed, [""; 0], "each as told above");
    // What is decided after the last close must not make another save.
    mount.signal("TERM");
    assert!(mount.wait().success());
    for (way, inode, session) in saved {
        assert_eq!(session.inode(), inode, "a late save: {}", way.line);
    }
}

impl Trial<'_> {
    fn run(&self, native: &Path, session: &Session) {
        let line = &self.way.line;
        fs::create_dir(native).unwrap();
        if let Some(old) = self.old {
            fs::write(native.join("session"), old).unwrap();
            fs::write(session.checkpoint(), old).unwrap();
        }
        let expected = self.output(native, || ());
        let new = fs::read(native.join("session")).unwrap();
        let old = self.old.unwrap_or_default().as_bytes();

        let mut saves = Saves::of(session);
        let watcher = Watcher::of(session);
        let inode = fs::metadata(session.checkpoint()).map(|m| m.ino()).ok();
        let output = self.output(&session.on_mount, || {
            watcher.look();
            assert_eq!(watcher.seen(), [old], "in the middle of {line}");
            assert_eq!(fs::read(session.file()).unwrap(), old, "{line}");
        });
        let left = fs::read(session.checkpoint()).unwrap();
        assert_eq!(output, expected, "{line}");
        assert!(left == new, "{line}: {}", String::from_utf8_lossy(&left));
        assert_eq!(saves.count(), self.way.saves, "saves of {line}");
        assert!(fs::read(session.file()).unwrap() == new, "{line}");
        assert_eq!(session.names(), ["session"], "{line}");
        let seen = watcher.finish();
        let others = seen.iter().find(|&seen| *seen != old && *seen != new);
        assert_eq!(others, None, "in the middle of {line}");
        assert_eq!(
            Some(session.inode()) == inode,
            self.way.saves == 0,
            "{line}"
        );
        let facts = |directory: &Path| {
            let stat = fs::metadata(directory.join("session")).unwrap();
            (stat.mode(), stat.uid(), stat.gid(), stat.len())
        };
        assert_eq!(facts(&session.on_mount), facts(native), "{line}");
        assert_eq!(facts(&session.in_repository), facts(native), "{line}");
    }

    /// Runs the line in a directory, and does something at each pause.
    fn output(&self, directory: &Path, pause: impl Fn()) -> Output {
        let line = &self.way.line;
        let mut running = Running::start(self.program, directory, line, self.environment);
        for _ in 0..self.way.pauses {
            running.told();
            pause();
            running.go_on();
        }
        running.finish()
    }
}
