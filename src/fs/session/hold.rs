//! Files between their lookup and their open.
//!
//! A save in between must not fail the open, and the inode number must not
//! become another file's: the kernel, told of the new one, answers `EIO` to
//! whoever comes to open the old one, or, told of the old one last, to whoever
//! has the new one open (fuse_make_bad, fs/fuse/inode.c, Linux 6.18; both seen
//! under load). So each thread holds the file that it has looked up last, until
//! it has opened it or looks up another one. What is held keeps its blocks
//! though it is replaced: so all let go when the kernel forgets the inode, which
//! it does when somebody finds a newer checkpoint and nobody is about to open
//! this one; and a thread that has asked for the attributes only lets go after a
//! while.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::fs::request::Caller;
use crate::fs::shares::limit_of_descriptors;

/// How many are held at the most; fewer where this process may not have many
/// descriptors. Beyond that the oldest go, of the user with most.
const CAPACITY: usize = 1024;

/// Of the descriptors that this process may have, holds take one of so many.
const PART: u64 = 8;

/// After how many calls of [`Holds::age`] a hold ends. Calls, and not time: a
/// machine that was suspended has not kept anybody waiting.
const ROUNDS: u64 = 5;

/// All that is held.
#[derive(Debug)]
pub(in crate::fs) struct Holds {
    capacity: usize,
    inner: Mutex<Inner>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// By order of their beginning.
    holds: BTreeMap<u64, Hold>,
    /// The one of each thread that we can tell from others.
    by_thread: HashMap<u32, u64>,
    /// Those of each user, by order of their beginning.
    by_user: HashMap<u32, BTreeSet<u64>>,
    last: u64,
    round: u64,
}

#[derive(Debug)]
struct Hold {
    tid: u32,
    user: u32,
    since: u64,
    _held: Arc<Held>,
}

/// A file (an `O_PATH` descriptor), for all threads that hold it.
#[derive(Debug)]
pub(in crate::fs) struct Held(Mutex<Option<Arc<OwnedFd>>>);

impl Held {
    pub(in crate::fs) fn new(file: OwnedFd) -> Self {
        Self(Mutex::new(Some(Arc::new(file))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its descriptor, unless it has been let go of.
    pub(in crate::fs) fn file(&self) -> Option<Arc<OwnedFd>> {
        self.lock().clone()
    }

    /// The kernel has forgotten it: nobody comes to open it.
    pub(in crate::fs) fn let_go(&self) {
        let file = self.lock().take();
        drop(file);
    }
}

impl Default for Holds {
    fn default() -> Self {
        let limit = limit_of_descriptors() / PART;
        Self {
            capacity: usize::try_from(limit).unwrap_or(CAPACITY).min(CAPACITY),
            inner: Mutex::default(),
            filled: Condvar::new(),
        }
    }
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller's thread has looked up this file.
    pub(in crate::fs) fn begin(&self, Caller { tid, uid, .. }: Caller, held: Arc<Held>) {
        let mut inner = self.lock();
        let earlier = inner.end(tid);
        inner.last += 1;
        let (number, since) = (inner.last, inner.round);
        let hold = Hold {
            tid,
            user: uid,
            since,
            _held: held,
        };
        inner.holds.insert(number, hold);
        inner.by_user.entry(uid).or_default().insert(number);
        if tid != 0 {
            inner.by_thread.insert(tid, number);
        }
        let beyond = (inner.holds.len() > self.capacity).then(|| inner.end_of_most());
        if inner.holds.len() == 1 {
            self.filled.notify_all();
        }
        drop(inner);
        // The last descriptor of a file that was replaced frees its blocks:
        // not under the lock.
        drop((earlier, beyond));
    }

    /// The thread has opened what it looked up.
    pub(in crate::fs) fn end(&self, tid: u32) {
        let ended = self.lock().end(tid);
        drop(ended);
    }

    /// Lets go of what nobody has come to open for long. Answers whether
    /// anything is held still.
    pub(in crate::fs) fn age(&self) -> bool {
        let mut inner = self.lock();
        inner.round += 1;
        let mut ended = Vec::new();
        while let Some((number, oldest)) = inner.holds.first_key_value()
            && inner.round - oldest.since >= ROUNDS
        {
            let number = *number;
            ended.push(inner.end_number(number));
        }
        let holds_any = !inner.holds.is_empty();
        drop(inner);
        drop(ended);
        holds_any
    }

    /// Waits until something is held.
    pub(in crate::fs) fn wait(&self) {
        let inner = self.lock();
        let _filled = self
            .filled
            .wait_while(inner, |inner| inner.holds.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl Inner {
    #[must_use]
    fn end(&mut self, tid: u32) -> Option<Hold> {
        let number = *self.by_thread.get(&tid)?;
        self.end_number(number)
    }

    /// Ends the oldest of the user with most, who keeps the others of theirs
    /// out.
    #[must_use]
    fn end_of_most(&mut self) -> Option<Hold> {
        let most = self.by_user.values().max_by_key(|holds| holds.len())?;
        let number = *most.first()?;
        self.end_number(number)
    }

    #[must_use]
    fn end_number(&mut self, number: u64) -> Option<Hold> {
        let hold = self.holds.remove(&number)?;
        if self.by_thread.get(&hold.tid) == Some(&number) {
            self.by_thread.remove(&hold.tid);
        }
        if let Some(of_user) = self.by_user.get_mut(&hold.user) {
            of_user.remove(&number);
            if of_user.is_empty() {
                self.by_user.remove(&hold.user);
            }
        }
        Some(hold)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::sync::Weak;

    use fuser::BackingId;

    use super::*;
    use crate::fs::lasting::node::ROOT;
    use crate::fs::request::Patience;
    use crate::fs::{Caller, Fs, Options};
    use crate::repo::{Base, Repository};

    /// A thread of root.
    fn by(tid: u32) -> Caller {
        Caller {
            tid,
            uid: 0,
            gid: 0,
        }
    }

    fn file() -> (Arc<Held>, Weak<Held>) {
        let file = OwnedFd::from(File::open("/").unwrap());
        let held = Arc::new(Held::new(file));
        let weak = Arc::downgrade(&held);
        (held, weak)
    }

    #[test]
    fn a_thread_holds_what_it_has_looked_up_last_until_it_opens_it() {
        let holds = Holds::default();
        let (first, first_held) = file();
        let (second, second_held) = file();
        let (other, other_held) = file();
        holds.begin(by(1), first);
        holds.begin(by(2), other);
        assert_eq!(first_held.strong_count(), 1);
        holds.begin(by(1), second);
        assert_eq!(first_held.strong_count(), 0);
        assert_eq!(second_held.strong_count(), 1);
        holds.end(1);
        assert_eq!(second_held.strong_count(), 0);
        assert_eq!(other_held.strong_count(), 1);
    }

    #[test]
    fn what_nobody_opens_is_let_go_of() {
        let holds = Holds::default();
        // Threads that cannot be told apart end each other's holds by age only.
        for tid in [0, 0, 7] {
            let (looked_up, held) = file();
            holds.begin(by(tid), looked_up);
            holds.end(0);
            for _ in 1..ROUNDS {
                assert!(holds.age());
            }
            assert_eq!(held.strong_count(), 1);
            assert!(!holds.age());
            assert_eq!(held.strong_count(), 0);
        }
        assert!(holds.lock().by_thread.is_empty());
    }

    #[test]
    fn beyond_the_capacity_the_oldest_go() {
        let holds = Holds::default();
        let capacity = holds.capacity;
        let (oldest, oldest_held) = file();
        holds.begin(by(1), oldest);
        let (second, second_held) = file();
        for tid in 2.. {
            holds.begin(by(tid), second.clone());
            if tid as usize == capacity {
                assert_eq!(oldest_held.strong_count(), 1);
            } else if tid as usize > capacity {
                break;
            }
        }
        assert_eq!(oldest_held.strong_count(), 0);
        assert_eq!(second_held.strong_count(), 1 + capacity);
        let inner = holds.lock();
        assert_eq!(inner.holds.len(), inner.by_thread.len());
    }

    #[test]
    fn rule_13_3_what_one_user_looks_up_ends_no_hold_of_another() {
        let holds = Holds::default();
        let capacity = u32::try_from(holds.capacity).unwrap();
        let caller = |tid, uid| Caller { tid, uid, gid: 0 };
        let (of_ann, held) = file();
        holds.begin(caller(1, 61001), of_ann);
        for tid in 2..3 * capacity {
            holds.begin(caller(tid, 61002), file().0);
        }
        assert_eq!(held.strong_count(), 1);
        assert_eq!(holds.lock().holds.len(), holds.capacity);
        holds.end(1);
        assert_eq!(held.strong_count(), 0);
        for _ in 0..ROUNDS {
            holds.age();
        }
        let inner = holds.lock();
        assert!(inner.by_user.is_empty() && inner.by_thread.is_empty());
    }

    /// Rule 2.1: however many saves and lookups come between a reader's
    /// lookup and its open, it reads the whole checkpoint that it has found,
    /// and no other file has got its number meanwhile.
    #[test]
    fn rule_2_1_a_reader_that_is_kept_waiting_before_its_open() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::new(directory.path());
        let session = repository.create("a").unwrap();
        let save = |content: &str| {
            let staged = session.stage().unwrap();
            staged.write_at(content.as_bytes(), 0).unwrap();
            staged.commit(Base::Any).unwrap();
        };
        let fs = Fs::new(repository, Options::default());
        let lookup = |parent, name: &OsStr, tid| {
            fs.lookup(parent, name, by(tid).with(Patience::Wait))
                .unwrap()
                .attr
                .ino
                .0
        };
        let none = |_: BorrowedFd<'_>| -> io::Result<BackingId> {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        };

        save("old");
        // Threads that no process has: none of them writes.
        let (reader, others) = (1 << 29, 1 << 30);
        let dir = lookup(ROOT, session.name().as_os_str(), reader);
        let old = lookup(dir, OsStr::new("session"), reader);
        for n in 0..2 * CAPACITY as u32 {
            save("newer, and longer");
            let tid = others + n % 11;
            let new = lookup(dir, OsStr::new("session"), tid);
            assert_ne!(new, old);
            let opened = fs.open(new, libc::O_RDONLY, by(tid).with(Patience::Wait), &none);
            fs.release(opened.unwrap().handle, Patience::Wait).unwrap();
        }
        let opened = fs.open(old, libc::O_RDONLY, by(reader).with(Patience::Wait), &none);
        let mut buffer = [0; 16];
        let read = fs.read(opened.unwrap().handle, 0, &mut buffer, Patience::Wait);
        assert_eq!(&buffer[..read.unwrap()], b"old");
    }
}
