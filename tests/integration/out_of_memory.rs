//! The OOM killer ends the daemon, which is in a memory cgroup of its own (I1, I2, I4):
//! every acknowledged save is there, each session is whole, and a new mount works at once
//! without any repair.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::common::tools::{Helper, assert_next_save_works, close, save};
use crate::common::{Backing, Mount, Session, times, wait_until};

/// A memory cgroup, of version 1 or 2.
struct Group {
    path: PathBuf,
    /// The files that limit it, and tell of kills.
    limit: &'static str,
    events: &'static str,
}

impl Group {
    fn new() -> Self {
        let name = format!(
            "sessionfs-test-{}-{:?}",
            std::process::id(),
            thread::current().id()
        );
        let root = Path::new("/sys/fs/cgroup");
        let (parent, limit, events) = if root.join("memory/memory.limit_in_bytes").exists() {
            (
                root.join("memory"),
                "memory.limit_in_bytes",
                "memory.oom_control",
            )
        } else {
            // Controllers that are not handed down to its children yet.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            (root.to_owned(), "memory.max", "memory.events")
        };
        let path = parent.join(name);
        fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let has_limit = path.join(limit).exists();
        let group = Self {
            path,
            limit,
            events,
        };
        assert!(
            has_limit,
            "this test needs the memory controller of cgroups"
        );
        group
    }

    fn add(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.path.join(self.limit), bytes.to_string()).unwrap();
    }

    /// How often the OOM killer has come.
    fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.path.join(self.events)).unwrap();
        let mut lines = events.lines();
        let kills = lines.find_map(|line| line.strip_prefix("oom_kill "));
        kills.unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // If a test has failed, its daemon may still live.
        let members = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            let _ = fs::write(self.path.join("../cgroup.procs"), pid);
        }
        // A process that has just been killed stays in the group for a moment.
        let mut result = Ok(());
        for _ in 0..1000 {
            result = fs::remove_dir(&self.path);
            if result.is_ok() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        if !thread::panicking() {
            panic!("{}: {result:?}", self.path.display());
        }
    }
}

/// The daemon's end shows the OOM killer, and so does its own count.
fn assert_killed(mount: &mut Mount, group: &Group) {
    let status = mount.wait();
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{}", mount.log());
    assert!(group.kills() > 0, "it was not the OOM killer");
}

/// The content of the save `number`: more than a page.
fn content(session: usize, number: u64) -> String {
    format!("{session} {number} ").repeat(1000)
}

/// The number of the save with this content, which must be whole.
fn number_of(session: usize, found: &str) -> u64 {
    let number = found
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("torn: {found:?}"));
    let number = number.parse().unwrap();
    assert!(found == content(session, number), "torn: session {session}");
    number
}

/// Ends the savers, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// On tmpfs what is written is the daemon's memory, which a save alone uses up.
#[test]
fn invariant_4_the_daemon_is_out_of_memory_in_a_save() {
    let mut mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    save(session.file(), "old").unwrap();
    for round in 0..times(20) {
        let group = Group::new();
        group.add(mount.pid());
        group.limit(24 << 20);
        let mut writer = File::create(session.file()).unwrap();
        let piece = vec![b'x'; 256 << 10];
        let written = (0..400).try_for_each(|_| writer.write_all(&piece));
        let lost = [libc::ENOTCONN, libc::ECONNABORTED];
        let told = crate::common::tools::errno(written);
        assert!(lost.contains(&told), "round {round}: {told}");
        let told = crate::common::tools::errno(close(writer));
        assert!(lost.contains(&told), "round {round}: {told}");
        assert_killed(&mut mount, &group);
        assert_eq!(fs::read(session.checkpoint()).unwrap(), b"old");
        assert_eq!(session.names(), ["session"]);
        mount.restart(&[]);
        assert_eq!(fs::read(session.file()).unwrap(), b"old");
        assert_next_save_works(&session);
        save(session.file(), "old").unwrap();
    }
}

/// Under load: another process of the group takes all memory at a random moment during
/// saves, and the daemon is the one that is killed.
#[test]
fn invariant_2_nothing_acknowledged_is_lost_to_the_oom_killer() {
    for backing in [Backing::Ext4, Backing::Xfs, Backing::Tmpfs] {
        let mut mount = Mount::new(backing);
        let sessions: Vec<Session> = (0..4).map(|n| mount.session(n.to_string())).collect();
        let last: Vec<AtomicU64> = sessions.iter().map(|_| AtomicU64::new(0)).collect();
        for (number, session) in sessions.iter().enumerate() {
            save(session.file(), content(number, 0)).unwrap();
        }
        for round in 0..times(30) as u64 {
            let group = Group::new();
            let pid = mount.pid();
            group.add(pid);
            fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
            group.limit(64 << 20);
            let begin: u64 = last.iter().map(|last| last.load(Ordering::SeqCst)).sum();
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                let _stop = Stop(&over);
                let over = &over;
                for (number, session) in sessions.iter().enumerate() {
                    let last = &last[number];
                    scope.spawn(move || {
                        let mut next = last.load(Ordering::SeqCst) + 1;
                        while !over.load(Ordering::SeqCst)
                            && save(session.file(), content(number, next)).is_ok()
                        {
                            last.store(next, Ordering::SeqCst);
                            next += 1;
                        }
                    });
                }
                let saved = || last.iter().map(|l| l.load(Ordering::SeqCst)).sum::<u64>();
                wait_until("it saves", || saved() >= begin + 20 + 7 * round);
                // It joins the group before it takes any memory. The killer weighs what a
                // process has mapped against its score (Linux 6.18), and a file in memory
                // counts for the group only.
                let script = format!(
                    "import os
open('{}/cgroup.procs', 'w').write(str(os.getpid()))
taken = os.memfd_create('taken')
while os.path.exists('/proc/{pid}/fdinfo/0'): os.write(taken, b'x' * (1 << 20))
",
                    group.path.display()
                );
                let _eater = Helper::start(Command::new("python3").args(["-c", &script]));
                assert_killed(&mut mount, &group);
            });
            mount.restart(&[]);
            for (number, session) in sessions.iter().enumerate() {
                let acknowledged = last[number].load(Ordering::SeqCst);
                let found = fs::read_to_string(session.checkpoint()).unwrap();
                let there = number_of(number, &found);
                let expected = [acknowledged, acknowledged + 1];
                assert!(expected.contains(&there), "{there}, not {acknowledged}");
                // What the last one has left behind is no lock.
                save(session.file(), content(number, there + 1)).unwrap();
                assert_eq!(session.names(), ["session"]);
                last[number].store(there + 1, Ordering::SeqCst);
            }
        }
        let saves: u64 = last.iter().map(|last| last.load(Ordering::SeqCst)).sum();
        println!("{backing:?}: {} kills, {saves} saves", times(30));
    }
}
