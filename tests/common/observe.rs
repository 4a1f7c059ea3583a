//! The daemon as seen from outside: its descriptors, threads and memory, and its system
//! calls, delayed or cut short by strace(1).

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::tools::end;
use super::{Mount, wait_until};

/// The most memory that the daemon may need, in KiB.
pub const MOST_MEMORY: u64 = 32 << 10;

/// The open descriptors of a process: the targets of their links.
pub fn descriptors(pid: u32) -> Vec<PathBuf> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        // One that has been closed meanwhile does not count.
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect()
}

/// The threads of a process with this name, or all.
pub fn threads(pid: u32, name: Option<&str>) -> Vec<u32> {
    let mut threads = named_threads(pid);
    threads.retain(|(_, comm)| name.is_none_or(|name| comm == name));
    threads.into_iter().map(|(tid, _)| tid).collect()
}

/// The threads of a process, each with its name.
pub fn named_threads(pid: u32) -> Vec<(u32, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let task = task.unwrap();
            // One that has ended meanwhile does not count.
            let comm = fs::read_to_string(task.path().join("comm")).ok()?;
            let tid = task.file_name().to_str()?.parse().ok()?;
            Some((tid, comm.trim_end().to_owned()))
        })
        .collect()
}

/// A number in `/proc/PID/status`: `VmRSS`, `VmHWM`, `Threads`, `TracerPid`.
pub fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{field} is not in {status}"))
}

/// The state of a process, in the form of proc_pid_stat(5): `T` if it is stopped. `None`
/// if there is no such process.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process has ended, even if its parent has not waited for it yet.
pub fn has_ended(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z'))
}

/// Whether a thread is in this system call, even if it is stopped there.
pub fn is_in_call(tid: u32, number: i64) -> bool {
    fs::read_to_string(format!("/proc/{tid}/syscall"))
        .is_ok_and(|call| call.split(' ').next() == Some(&number.to_string()))
}

impl Mount {
    /// Fails unless the daemon has, after a while, no more descriptors than `before`, and
    /// has never used more memory than it may.
    pub fn assert_nothing_leaked(&self, before: usize) {
        self.assert_descriptors_closed(before);
        let memory = status(self.pid(), "VmHWM");
        assert!(memory < MOST_MEMORY, "the daemon needed {memory} KiB");
    }

    /// Fails unless the daemon has, after a while, no more descriptors than
    /// `before`.
    pub fn assert_descriptors_closed(&self, before: usize) {
        let start = std::time::Instant::now();
        loop {
            let now = descriptors(self.pid());
            if now.len() <= before {
                break;
            }
            let waited = start.elapsed();
            assert!(waited.as_secs() < 30, "{before} descriptors became {now:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// A running strace(1), attached.
pub struct Strace(Child);

impl Strace {
    /// Attaches to a thread, or with `-f` among the options to all threads of
    /// its process.
    pub fn attach<S: AsRef<OsStr>>(tid: u32, options: impl IntoIterator<Item = S>) -> Self {
        let child = Command::new("strace")
            .args(["-q", "-o", "/dev/null", "-p", &tid.to_string()])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("strace: {e} (scripts/packages lists what is needed)"));
        let mut strace = Self(child);
        wait_until("strace is attached", || {
            let ended = strace.0.try_wait().unwrap();
            assert!(ended.is_none(), "strace ended: {ended:?}");
            status(tid, "TracerPid") == u64::from(strace.0.id())
        });
        strace
    }

    /// Attaches to all threads of a process.
    pub fn attach_to_all<S: AsRef<OsStr>>(pid: u32, options: impl IntoIterator<Item = S>) -> Self {
        let options: Vec<_> = options.into_iter().collect();
        let mut attached = None;
        wait_until("strace has all threads", || {
            // Before the next one: a thread has one tracer.
            drop(attached.take());
            let options = options.iter().map(AsRef::as_ref);
            let strace = Self::attach(pid, [OsStr::new("-f")].into_iter().chain(options));
            let has_all = || {
                let tracer = format!("\nTracerPid:\t{}\n", strace.0.id());
                // One that has ended meanwhile does not count.
                let traced = |tid: &u32| {
                    let status = fs::read_to_string(format!("/proc/{tid}/status"));
                    status.is_ok_and(|status| status.contains(&tracer)) || has_ended(*tid)
                };
                threads(pid, None).iter().all(traced)
            };
            // A thread that is made while it attaches may be missed, for ever: then it
            // attaches anew.
            let found = (0..100).any(|_| {
                let has_all = has_all();
                if !has_all {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                has_all
            });
            attached = Some(strace);
            found
        });
        attached.unwrap()
    }
}

impl Drop for Strace {
    /// When it ends by a signal, it detaches.
    fn drop(&mut self) {
        end(&mut self.0);
    }
}
