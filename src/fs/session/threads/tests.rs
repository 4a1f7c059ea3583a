//! What is known of threads, and when it is forgotten.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Weak;
use std::thread;
use std::time::Duration;

use fuser::BackingId;

use super::*;
use crate::fs::errno::Fail;
use crate::fs::lasting::node::ROOT;
use crate::fs::request::Patience;
use crate::fs::{Fs, Options};
use crate::repo::{Base, CHECKPOINT, Repository, Session};
use crate::sys::Errno;

/// A thread of root.
fn by(tid: u32) -> Caller {
    Caller {
        tid,
        uid: 0,
        gid: 0,
    }
}

/// A directory that is looked up, and whether it is held.
fn held() -> (LookedUp, Weak<Held>) {
    let file = OwnedFd::from(File::open("/").unwrap());
    let held = Arc::new(Held::new(file));
    let weak = Arc::downgrade(&held);
    let looked_up = LookedUp {
        held: Some(held),
        ..LookedUp::default()
    };
    (looked_up, weak)
}

/// A file that is looked up, but not held.
fn found() -> LookedUp {
    LookedUp {
        found: Some(Found::now()),
        ..LookedUp::default()
    }
}

fn no_backing(_: BorrowedFd<'_>) -> io::Result<BackingId> {
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

/// A repository with one session.
struct Sandbox {
    _directory: tempfile::TempDir,
    session: Session,
    fs: Fs,
    /// The node of the session.
    dir: u64,
}

impl Sandbox {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::new(directory.path());
        let session = repository.create("a").unwrap();
        let fs = Fs::new(repository, Options::default());
        let name = session.name().as_os_str();
        let dir = fs.lookup(ROOT, name, by(0).with(Patience::Wait)).unwrap();
        let dir = dir.attr.ino.0;
        Self {
            _directory: directory,
            session,
            fs,
            dir,
        }
    }

    fn save(&self, content: &str) {
        let staged = self.session.stage().unwrap();
        staged.write_at(content.as_bytes(), 0).unwrap();
        staged.commit(Base::Any).unwrap();
    }

    /// What the thread finds by the name `session`.
    fn lookup(&self, tid: u32) -> u64 {
        let name = OsStr::new(CHECKPOINT);
        let request = by(tid).with(Patience::Wait);
        self.fs.lookup(self.dir, name, request).unwrap().attr.ino.0
    }

    /// The thread comes with the first of its two walks; answers the checkpoint.
    fn open_once(&self, tid: u32) -> u64 {
        let checkpoint = self.lookup(tid);
        let request = by(tid).with(Patience::Wait);
        let opened = self
            .fs
            .open(checkpoint, libc::O_WRONLY, request, &no_backing);
        assert_eq!(opened.err(), Some(Fail::from(Errno::STALE)));
        checkpoint
    }

    fn walks(&self) -> usize {
        self.fs.threads.lock().walks.len()
    }
}

fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

fn assert_empty(threads: &Threads) {
    let inner = threads.lock();
    let len = inner.by_key.len() + inner.lookups.len() + inner.walks.len();
    assert_eq!(len, 0, "{inner:?}");
}

#[test]
fn a_thread_holds_what_it_has_looked_up_last_until_it_opens_it() {
    let threads = Threads::default();
    let (first, first_held) = held();
    let (second, second_held) = held();
    let (other, other_held) = held();
    threads.looked_up(by(1), first);
    threads.looked_up(by(2), other);
    assert_eq!(first_held.strong_count(), 1);
    threads.looked_up(by(1), second);
    assert_eq!(first_held.strong_count(), 0);
    assert_eq!(second_held.strong_count(), 1);
    threads.opened(1);
    assert_eq!(second_held.strong_count(), 0);
    assert_eq!(other_held.strong_count(), 1);
    threads.opened(2);
    assert_empty(&threads);
}

#[test]
fn what_nobody_opens_is_let_go_of() {
    let threads = Threads::default();
    // Threads that cannot be told apart end each other's holds by age only.
    for tid in [0, 0, 7] {
        let (looked_up, held) = held();
        threads.looked_up(by(tid), looked_up);
        threads.opened(0);
        for _ in 1..LOOKUP_ROUNDS {
            assert!(threads.age());
        }
        assert_eq!(held.strong_count(), 1);
        assert!(!threads.age());
        assert_eq!(held.strong_count(), 0);
    }
    assert_empty(&threads);
}

#[test]
fn threads_without_a_number_hold_what_each_has_looked_up() {
    let threads = Threads::default();
    let (first, first_held) = held();
    let (second, second_held) = held();
    threads.looked_up(by(0), first);
    threads.looked_up(by(0), second);
    assert_eq!(first_held.strong_count(), 1);
    assert_eq!(second_held.strong_count(), 1);
}

#[test]
fn beyond_the_capacity_the_oldest_go() {
    let threads = Threads::default();
    let capacity = threads.lock().lookups.capacity();
    let (oldest, oldest_held) = held();
    threads.looked_up(by(1), oldest);
    let (second, second_held) = held();
    for tid in 2.. {
        let held = second.held.clone();
        let again = LookedUp { held, ..found() };
        threads.looked_up(by(tid), again);
        if tid as usize == capacity {
            assert_eq!(oldest_held.strong_count(), 1);
        } else if tid as usize > capacity {
            break;
        }
    }
    assert_eq!(oldest_held.strong_count(), 0);
    assert_eq!(second_held.strong_count(), 1 + capacity);
    let inner = threads.lock();
    assert_eq!(inner.lookups.len(), inner.by_key.len());
}

#[test]
fn rule_13_3_what_one_user_looks_up_ends_no_hold_of_another() {
    let threads = Threads::default();
    let capacity = threads.lock().lookups.capacity();
    let caller = |tid, uid| Caller { tid, uid, gid: 0 };
    let (of_ann, of_ann_held) = held();
    threads.looked_up(caller(1, 61001), of_ann);
    for tid in 2..3 * u32::try_from(capacity).unwrap() {
        threads.looked_up(caller(tid, 61002), held().0);
    }
    assert_eq!(of_ann_held.strong_count(), 1);
    assert_eq!(threads.lock().lookups.len(), capacity);
    threads.opened(1);
    assert_eq!(of_ann_held.strong_count(), 0);
    for _ in 0..LOOKUP_ROUNDS {
        threads.age();
    }
    assert_empty(&threads);
}

#[test]
fn what_a_thread_has_found_is_known_until_it_opens_something() {
    let threads = Threads::default();
    let is_known = |tid| {
        let found = threads.come_to_name(tid, 1).found;
        found.is_some_and(Found::is_recent)
    };
    threads.looked_up(by(5), found());
    threads.looked_up(by(0), found());
    assert!(is_known(5) && !is_known(6) && !is_known(0));
    // Nor does it let go of a directory that the thread holds, or forgets by one.
    let (directory, held) = held();
    threads.looked_up(by(5), directory);
    assert!(is_known(5));
    threads.looked_up(by(5), found());
    assert_eq!(held.strong_count(), 1);
    threads.forget_found(5);
    assert!(!is_known(5));
    assert_eq!(held.strong_count(), 1);
    threads.looked_up(by(5), found());
    threads.opened(5);
    assert!(!is_known(5));
}

#[test]
fn the_second_walk_ends_with_the_open_of_the_writer() {
    let sandbox = Sandbox::new();
    sandbox.save("old");
    let tid = own_tid();
    let checkpoint = sandbox.open_once(tid);
    // However often it asks, and however much is forgotten meanwhile.
    let writer = sandbox.lookup(tid);
    for _ in 0..2 * LOOKUP_ROUNDS {
        assert!(sandbox.fs.housekeep());
    }
    assert_ne!(writer, checkpoint);
    assert_eq!(sandbox.lookup(tid), writer);
    let another = thread::scope(|scope| {
        let another = scope.spawn(|| sandbox.lookup(own_tid()));
        another.join().unwrap()
    });
    assert_eq!(another, checkpoint);
    let request = by(tid).with(Patience::Wait);
    let opened = sandbox
        .fs
        .open(writer, libc::O_WRONLY, request, &no_backing);
    assert_eq!(sandbox.walks(), 0);
    let handle = opened.unwrap().handle;
    sandbox.fs.release(handle, Patience::Wait).unwrap();
}

#[test]
fn the_second_walk_leads_to_the_same_session() {
    let sandbox = Sandbox::new();
    sandbox.save("old");
    let tid = own_tid();
    let checkpoint = sandbox.open_once(tid);
    let threads = &sandbox.fs.threads;
    assert!(threads.come_to_name(tid, sandbox.dir + 1).writer.is_none());
    assert_eq!(sandbox.walks(), 0);
    assert_eq!(sandbox.lookup(tid), checkpoint);
}

#[test]
fn the_second_walk_ends_with_its_thread_or_after_a_time() {
    let sandbox = Sandbox::new();
    sandbox.save("old");
    let threads = &sandbox.fs.threads;
    sandbox.open_once(own_tid());
    let ended = thread::scope(|scope| {
        let walk = scope.spawn(|| {
            sandbox.open_once(own_tid());
            own_tid()
        });
        walk.join().unwrap()
    });
    let of_ended = || threads.lock().thread(ended).is_some();
    assert_eq!(sandbox.walks(), 2);
    // It has told that it is at its end a little before that.
    while Process::thread(ended).is_known() {
        thread::yield_now();
    }
    assert!(of_ended() && threads.age());
    assert!(!of_ended());
    assert_eq!(sandbox.walks(), 1);
    for _ in 2..WALK_ROUNDS {
        assert!(threads.age());
    }
    assert_eq!(sandbox.walks(), 1);
    assert!(!threads.age());
    assert_empty(threads);
}

#[test]
fn a_thread_that_tries_again_came_by_link_or_by_no_path() {
    let sandbox = Sandbox::new();
    sandbox.save("old");
    let threads = &sandbox.fs.threads;
    let tid = own_tid();
    let checkpoint = sandbox.open_once(tid);
    let again = || threads.again(tid, checkpoint);
    assert!(matches!(again(), Some(Again::ByNoPath(_))));
    assert!(threads.again(tid, checkpoint + 1).is_none());
    assert!(threads.again(tid + 1, checkpoint).is_none());
    let looked_up = |link_of| LookedUp {
        link_of: Some(link_of),
        ..found()
    };
    threads.looked_up(by(tid), looked_up(checkpoint + 1));
    assert!(matches!(again(), Some(Again::ByNoPath(_))));
    threads.looked_up(by(tid), looked_up(checkpoint));
    assert!(matches!(again(), Some(Again::ByLink)));
    assert!(threads.come_to_name(tid, sandbox.dir).writer.is_some());
    assert!(again().is_none());
    threads.end_walk(tid);
    assert!(again().is_none());
}

#[test]
fn rule_13_3_what_one_user_looks_up_ends_no_second_walk() {
    let sandbox = Sandbox::new();
    sandbox.save("old");
    let tid = own_tid();
    sandbox.open_once(tid);
    let threads = &sandbox.fs.threads;
    let capacity = u32::try_from(threads.lock().lookups.capacity()).unwrap();
    // Threads that no process has.
    let others = 1 << 30;
    for tid in others..others + 2 * capacity {
        threads.looked_up(by(tid), held().0);
    }
    assert!(threads.come_to_name(tid, sandbox.dir).writer.is_some());
}

#[test]
fn housekeeping_waits_until_anything_is_known() {
    let threads = Threads::default();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| threads.wait());
        while !threads.lock().is_awaited {
            thread::sleep(Duration::from_millis(1));
        }
        threads.opened(1);
        assert!(threads.lock().is_awaited);
        threads.looked_up(by(1), found());
        waiting.join().unwrap();
    });
    assert!(!threads.lock().is_awaited);
    threads.wait();
}

/// Rule 2.1: however many saves and lookups come between a reader's
/// lookup and its open, it reads the whole checkpoint that it has found,
/// and no other file has got its number meanwhile.
#[test]
fn rule_2_1_a_reader_that_is_kept_waiting_before_its_open() {
    let sandbox = Sandbox::new();
    let fs = &sandbox.fs;
    sandbox.save("old");
    // Threads that no process has: none of them writes.
    let (reader, others) = (1 << 29, 1 << 30);
    let old = sandbox.lookup(reader);
    for n in 0..2 * MOST_LOOKUPS as u32 {
        sandbox.save("newer, and longer");
        let tid = others + n % 11;
        let new = sandbox.lookup(tid);
        assert_ne!(new, old);
        let request = by(tid).with(Patience::Wait);
        let opened = fs.open(new, libc::O_RDONLY, request, &no_backing);
        fs.release(opened.unwrap().handle, Patience::Wait).unwrap();
    }
    let request = by(reader).with(Patience::Wait);
    let opened = fs.open(old, libc::O_RDONLY, request, &no_backing);
    let mut buffer = [0; 16];
    let read = fs.read(opened.unwrap().handle, 0, &mut buffer, Patience::Wait);
    assert_eq!(&buffer[..read.unwrap()], b"old");
}
