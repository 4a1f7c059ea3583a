//! Commands that save, and what others see of it: counts every save, and reads every
//! content that appears.

use std::ffi::CString;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::{Session, wait_until};

/// Shell: tells the test that this point is reached, and waits for its answer.
pub const PAUSE: &str = r#"{ echo >"$TOLD"; read go <"$GO"; }"#;

/// Python: `tell(text)` and `pause()`, for the same.
pub const PYTHON_PAUSE: &str = "
import os
def tell(text=''):
    with open(os.environ['TOLD'], 'w') as f: f.write(str(text) + '\\n')
def pause():
    tell()
    with open(os.environ['GO']) as f: f.readline()
";

/// Counts the saves of a session, by events in its directory of the repository. The
/// kernel queues every rename, so none is missed.
pub struct Saves {
    inotify: OwnedFd,
    count: usize,
    /// The names that have appeared in the directory, each once.
    pub names: Vec<String>,
}

impl Saves {
    pub fn of(session: &Session) -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, &session.in_repository, flags).unwrap();
        Self {
            inotify,
            count: 0,
            names: Vec::new(),
        }
    }

    /// The number of saves so far: how often a file was renamed to `session`.
    pub fn count(&mut self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Err(rustix::io::Errno::AGAIN) => return self.count,
                event => event.unwrap(),
            };
            assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
            let name = event.file_name().map(CString::from).unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            self.count += usize::from(name == "session");
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }
}

/// Reads `session` on the mount and in the repository, over and over.
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    looks: AtomicUsize,
    /// Every content that was seen, each once.
    seen: Mutex<Vec<Vec<u8>>>,
}

impl Watcher {
    /// Begins to watch; it has looked at least once when this returns.
    pub fn of(session: &Session) -> Self {
        let shared = Arc::new(Shared::default());
        let (files, watching) = ([session.file(), session.checkpoint()], shared.clone());
        let thread = std::thread::spawn(move || {
            let mut last = [None, None];
            while !watching.stop.load(Ordering::Relaxed) {
                for (file, last) in files.iter().zip(&mut last) {
                    let content = match fs::read(file) {
                        // A session without a checkpoint reads as empty.
                        Err(e) if e.kind() == ErrorKind::NotFound && *file == files[1] => vec![],
                        content => content.unwrap_or_else(|e| panic!("{}: {e}", file.display())),
                    };
                    if last.as_ref() != Some(&content) {
                        watching.saw(&content);
                        *last = Some(content);
                    }
                }
                watching.looks.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let watcher = Self {
            shared,
            thread: Some(thread),
        };
        watcher.look();
        watcher
    }

    /// Waits until it has looked again, wholly after this call.
    pub fn look(&self) {
        let before = self.shared.looks.load(Ordering::Relaxed);
        // Called often: the intervals of `wait_until` are too long.
        while self.shared.looks.load(Ordering::Relaxed) <= before + 1 {
            let over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!over, "reading failed");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Ends it; returns everything it has seen.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.look();
        self.stop();
        self.seen()
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn saw(&self, content: &[u8]) {
        let mut seen = self.seen.lock().unwrap();
        if !seen.iter().any(|known| known == content) {
            seen.push(content.to_vec());
        }
    }
}

/// A command in a process group of its own, with which the test can communicate.
pub struct Running {
    /// Its first process, and the number of its group.
    pub pid: u32,
    output: Option<JoinHandle<Output>>,
    told: fs::File,
    go: fs::File,
    _pipes: tempfile::TempDir,
}

impl Running {
    /// Starts `program -c command` in a directory.
    pub fn start(
        program: &str,
        directory: &Path,
        command: &str,
        environment: &[(&str, PathBuf)],
    ) -> Self {
        let pipes = tempfile::tempdir().unwrap();
        let (told, go) = (pipes.path().join("told"), pipes.path().join("go"));
        // If the tests were started in the background, the shell has made them ignore
        // SIGINT, and their children would ignore it, too.
        let mut child = Command::new("env");
        child
            .arg("--default-signal=INT,QUIT")
            .arg(program)
            .arg("-c")
            .arg(command)
            .current_dir(directory)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("TOLD", pipe(&told))
            .env("GO", pipe(&go))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // Open at both ends, so that neither side waits for the other.
        let open = |path| {
            let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            let mut options = fs::File::options();
            (options.read(true).write(true).custom_flags(nonblock))
                .open(path)
                .unwrap()
        };
        let (told, go) = (open(&told), open(&go));
        let child = child
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e} (scripts/packages lists what is needed)"));
        Self {
            pid: child.id(),
            output: Some(std::thread::spawn(|| child.wait_with_output().unwrap())),
            told,
            go,
            _pipes: pipes,
        }
    }

    /// Waits until the command sends a line.
    pub fn told(&mut self) -> String {
        self.told_before_its_end().unwrap_or_else(|| {
            let output = self.output.take().unwrap().join();
            panic!("it ended and told nothing: {output:?}")
        })
    }

    /// As [`told`](Self::told); `None` if it ends without.
    pub fn told_before_its_end(&mut self) -> Option<String> {
        let mut line = None;
        wait_until("the command tells something", || {
            let is_over = self.output.as_ref().is_none_or(JoinHandle::is_finished);
            line = self.line();
            is_over || line.is_some()
        });
        line
    }

    /// A line that it has sent. Lines are written as a whole.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let mut byte = [0];
        loop {
            match self.told.read(&mut byte) {
                Ok(1) if byte == *b"\n" => return Some(line),
                Ok(1) => line.push(byte[0].into()),
                Err(e) if e.kind() == ErrorKind::WouldBlock && line.is_empty() => return None,
                other => panic!("{other:?} after {line:?}"),
            }
        }
    }

    /// Continues a command that has paused.
    pub fn go_on(&mut self) {
        self.go.write_all(b"\n").unwrap();
    }

    /// Waits until the command and everything it has started have ended: its standard
    /// error and output are closed everywhere, and its process group is empty. The kernel
    /// closes the files of a process in the order of their numbers: those after these two
    /// are closed, and saved, later.
    pub fn finish(mut self) -> Output {
        let output = self.output.take().unwrap();
        let (pid, start) = (self.pid, Instant::now());
        while !output.is_finished() || has_members(pid) {
            if start.elapsed() > super::PATIENCE {
                kill("KILL", &format!("-{pid}"));
                panic!("the command did not end: {:?}", output.join().unwrap());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        output.join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.output.take().is_some() {
            kill("KILL", &format!("-{}", self.pid));
        }
    }
}

/// Whether a process of this group still has open files. One without is a zombie, for
/// which its parent may never wait (do_exit, kernel/exit.c).
fn has_members(group: u32) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut stats =
        processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.any(|stat| {
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<_> = fields.split_ascii_whitespace().take(3).collect();
        matches!(fields[..], [state, _, its] if !matches!(state, "Z" | "X") && its == group.to_string())
    })
}

fn pipe(path: &Path) -> &Path {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    path
}

/// Sends a signal by name to a process, or to a group (`-PID`).
pub fn kill(signal: &str, target: &str) {
    let _ = Command::new("kill")
        .args(["-s", signal, "--", target])
        .stderr(Stdio::null())
        .status();
}
