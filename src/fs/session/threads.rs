//! What is known of each calling thread from one of its requests to the next (DESIGN
//! 4): the file that it has looked up and not opened yet (`hold`), that it has
//! just found a file (`found`), and what it is to be shown on its second walk (`walk`).
//!
//! All of it is forgotten by one rule (`turns`). What a thread has looked up ends
//! with its open, its second walk with the open of the writer or with the thread; each
//! of the two after some rounds of [`Threads::age`]; and beyond a capacity the oldest
//! ends, of the user with most.
//!
//! One lock is taken for a moment. Under it nothing is asked of the system, and
//! nothing is dropped: the last descriptor of a file that was replaced frees its
//! blocks.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::fs::request::Caller;
use crate::fs::session::found::Found;
use crate::fs::session::hold::Held;
use crate::fs::session::turns::Turns;
use crate::fs::session::walk::{Again, SecondWalk};
use crate::fs::session::writer::Writer;
use crate::fs::shares::limit_of_descriptors;
use crate::proc::identity::Process;

/// How many lookups are remembered at the most; fewer where this process may not
/// have many descriptors, as each may hold one.
const MOST_LOOKUPS: usize = 1024;

/// Of the descriptors that this process may have, lookups hold one of so many.
const PART: u64 = 8;

/// How many rounds a lookup is remembered for. Rounds, and not time: a machine that
/// was suspended has not kept any caller waiting.
const LOOKUP_ROUNDS: u64 = 5;

/// How many threads may be between their two walks at a time. One beyond that gets
/// `ESTALE`, and tries again itself or does not.
const MOST_WALKS: usize = 4096;

/// How many rounds a thread may take for the second walk, about a minute. One that
/// takes longer (it was stopped, say) gets `ESTALE`; one that never makes the walk is
/// not shown an outdated file for ever.
const WALK_ROUNDS: u64 = 60;

/// All calling threads.
#[derive(Debug)]
pub(in crate::fs) struct Threads {
    inner: Mutex<Inner>,
    filled: Condvar,
}

#[derive(Debug)]
struct Inner {
    /// By their numbers; what is looked up without one has a key of its own each
    /// time.
    by_key: HashMap<u64, Thread>,
    lookups: Turns,
    walks: Turns,
    /// How often a key was made.
    unnumbered: u64,
    round: u64,
    /// [`Threads::wait`] is waiting.
    is_awaited: bool,
}

/// One thread; each of the two with the number of its turn.
#[derive(Debug, Default)]
struct Thread {
    lookup: Option<(u64, Lookup)>,
    walk: Option<(u64, SecondWalk)>,
}

/// What a thread has looked up and not opened yet.
#[derive(Debug, Default)]
struct Lookup {
    held: Option<Arc<Held>>,
    found: Option<Found>,
}

/// What a thread looks up.
#[derive(Debug, Default)]
pub(in crate::fs) struct LookedUp {
    /// The file or directory, if it is to be held.
    pub(in crate::fs) held: Option<Arc<Held>>,
    /// It is a file.
    pub(in crate::fs) found: Option<Found>,
    /// It is this checkpoint, by another name than `session`.
    pub(in crate::fs) link_of: Option<u64>,
}

/// What is known of a thread that comes to the name `session`.
#[derive(Debug, Default)]
pub(in crate::fs) struct AtName {
    /// What it is to be shown, on its second walk.
    pub(in crate::fs) writer: Option<Arc<Writer>>,
    /// The file that it has found before.
    pub(in crate::fs) found: Option<Found>,
}

impl Default for Threads {
    fn default() -> Self {
        let most = usize::try_from(limit_of_descriptors() / PART).unwrap_or(MOST_LOOKUPS);
        let inner = Inner {
            by_key: HashMap::new(),
            lookups: Turns::new(most.min(MOST_LOOKUPS), LOOKUP_ROUNDS),
            walks: Turns::new(MOST_WALKS, WALK_ROUNDS),
            unnumbered: 0,
            round: 0,
            is_awaited: false,
        };
        Self {
            inner: Mutex::new(inner),
            filled: Condvar::new(),
        }
    }
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this under the lock. What ends by it must be among what it answers.
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = f(&mut inner);
        let wakes = inner.is_awaited && !inner.by_key.is_empty();
        if wakes {
            inner.is_awaited = false;
        }
        drop(inner);
        if wakes {
            self.filled.notify_all();
        }
        result
    }

    /// The caller's thread has looked this up.
    pub(in crate::fs) fn looked_up(&self, caller: Caller, what: LookedUp) {
        drop(self.with(|inner| inner.look_up(caller, what)));
    }

    /// The thread has opened what it has looked up, or something else.
    pub(in crate::fs) fn opened(&self, tid: u32) {
        drop(self.with(|inner| inner.end_lookup(tid.into())));
    }

    /// The thread comes to another call than the one that has found a file.
    pub(in crate::fs) fn forget_found(&self, tid: u32) {
        self.with(|inner| {
            if let Some((_, lookup)) = inner.thread(tid).and_then(|thread| thread.lookup.as_mut()) {
                lookup.found = None;
            }
        });
    }

    /// The caller's thread is about to make this walk.
    pub(in crate::fs) fn begin_walk(&self, caller: Caller, walk: SecondWalk) {
        drop(self.with(|inner| inner.begin_walk(caller, walk)));
    }

    /// The thread has come to the name `session` in this directory.
    pub(in crate::fs) fn come_to_name(&self, tid: u32, session: u64) -> AtName {
        let (mut known, thread, ended) = self.with(|inner| inner.come_to_name(tid, session));
        drop(ended);
        if known.writer.is_some() && thread != Process::thread(tid) {
            known.writer = None;
            drop(self.with(|inner| inner.end_walk_of(tid.into(), thread)));
        }
        known
    }

    /// How the thread has come that tries this checkpoint now; `None` unless it is
    /// for the second time.
    pub(in crate::fs) fn again(&self, tid: u32, checkpoint: u64) -> Option<Again> {
        let (thread, again) = self.with(|inner| {
            let (_, walk) = inner.thread(tid)?.walk.as_ref()?;
            Some((walk.thread(), walk.again(checkpoint)?))
        })?;
        (thread == Process::thread(tid)).then_some(again)
    }

    /// The thread has opened what it wanted to change, or something else.
    pub(in crate::fs) fn end_walk(&self, tid: u32) {
        drop(self.with(|inner| inner.end_walk(tid.into())));
    }

    /// Forgets what has been there for long, and the second walks of threads that
    /// have ended: it keeps the blocks of checkpoints that were replaced. To be called
    /// once a second, by which a round is counted. Answers whether anything is left.
    pub(in crate::fs) fn age(&self) -> bool {
        let (ended, walking) = self.with(|inner| {
            inner.round += 1;
            (inner.end_late(), inner.walking())
        });
        drop(ended);
        let is_over = |(_, thread): &(u64, Process)| !thread.exists();
        let over: Vec<_> = walking.into_iter().filter(is_over).collect();
        let (ended, any_left) = self.with(|inner| {
            let over = over.into_iter();
            let ended = over.filter_map(|(key, thread)| inner.end_walk_of(key, thread));
            let ended: Vec<_> = ended.collect();
            (ended, !inner.by_key.is_empty())
        });
        drop(ended);
        any_left
    }

    /// Waits until there is something to [`age`](Self::age).
    pub(in crate::fs) fn wait(&self) {
        let is_empty = |inner: &mut Inner| {
            inner.is_awaited = inner.by_key.is_empty();
            inner.is_awaited
        };
        let _filled = self
            .filled
            .wait_while(self.lock(), is_empty)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl Inner {
    /// What is known of a thread with a number.
    fn thread(&mut self, tid: u32) -> Option<&mut Thread> {
        self.by_key.get_mut(&tid.into())
    }

    /// The key of a thread: its number, or one that no thread has as its number.
    fn key(&mut self, tid: u32) -> u64 {
        if tid != 0 {
            return tid.into();
        }
        self.unnumbered += 1;
        u64::from(u32::MAX) + self.unnumbered
    }

    /// Answers the lookups that end by it: the thread's earlier one, and one beyond
    /// the capacity.
    #[must_use]
    fn look_up(&mut self, caller: Caller, what: LookedUp) -> (Option<Lookup>, Option<Lookup>) {
        let key = self.key(caller.tid);
        let thread = self.by_key.entry(key).or_default();
        if let (Some((_, walk)), Some(checkpoint)) = (&mut thread.walk, what.link_of) {
            walk.come_to_link(checkpoint);
        }
        let turn = self.lookups.begin(key, caller.uid, self.round);
        let mut lookup = Lookup {
            held: what.held,
            found: what.found,
        };
        let earlier = thread.lookup.take().map(|(turn, mut earlier)| {
            self.lookups.end(turn);
            lookup.found = lookup.found.or(earlier.found);
            if lookup.held.is_none() {
                lookup.held = earlier.held.take();
            }
            earlier
        });
        thread.lookup = Some((turn, lookup));
        let beyond = self.lookups.beyond().and_then(|key| self.end_lookup(key));
        (earlier, beyond)
    }

    /// Answers the walks that end by it, as [`look_up`](Self::look_up).
    #[must_use]
    fn begin_walk(
        &mut self,
        caller: Caller,
        walk: SecondWalk,
    ) -> (Option<SecondWalk>, Option<SecondWalk>) {
        let key = self.key(caller.tid);
        let earlier = self.end_walk(key);
        let turn = self.walks.begin(key, caller.uid, self.round);
        self.by_key.entry(key).or_default().walk = Some((turn, walk));
        let beyond = self.walks.beyond().and_then(|key| self.end_walk(key));
        (earlier, beyond)
    }

    /// Answers also which thread is to be shown the writer, and the walk that ends, as
    /// it has led elsewhere.
    #[must_use]
    fn come_to_name(&mut self, tid: u32, session: u64) -> (AtName, Process, Option<SecondWalk>) {
        let mut known = AtName::default();
        let Some(thread) = self.thread(tid) else {
            return (known, Process::UNKNOWN, None);
        };
        known.found = thread.lookup.as_ref().and_then(|(_, lookup)| lookup.found);
        let Some((_, walk)) = &mut thread.walk else {
            return (known, Process::UNKNOWN, None);
        };
        known.writer = walk.come_to_name(session);
        let walker = walk.thread();
        let ended = match known.writer {
            Some(_) => None,
            None => self.end_walk(tid.into()),
        };
        (known, walker, ended)
    }

    #[must_use]
    fn end_lookup(&mut self, key: u64) -> Option<Lookup> {
        let thread = self.by_key.get_mut(&key)?;
        let (turn, ended) = thread.lookup.take()?;
        if thread.walk.is_none() {
            self.by_key.remove(&key);
        }
        self.lookups.end(turn);
        Some(ended)
    }

    #[must_use]
    fn end_walk(&mut self, key: u64) -> Option<SecondWalk> {
        let thread = self.by_key.get_mut(&key)?;
        let (turn, ended) = thread.walk.take()?;
        if thread.lookup.is_none() {
            self.by_key.remove(&key);
        }
        self.walks.end(turn);
        Some(ended)
    }

    /// The same, if it is the walk of this thread still.
    #[must_use]
    fn end_walk_of(&mut self, key: u64, thread: Process) -> Option<SecondWalk> {
        let (_, walk) = self.by_key.get(&key)?.walk.as_ref()?;
        if walk.thread() != thread {
            return None;
        }
        self.end_walk(key)
    }

    /// Ends what has had its time.
    #[must_use]
    fn end_late(&mut self) -> (Vec<Lookup>, Vec<SecondWalk>) {
        let (mut lookups, mut walks) = (Vec::new(), Vec::new());
        while let Some(key) = self.lookups.late(self.round) {
            lookups.extend(self.end_lookup(key));
        }
        while let Some(key) = self.walks.late(self.round) {
            walks.extend(self.end_walk(key));
        }
        (lookups, walks)
    }

    /// The threads that are between their two walks.
    fn walking(&self) -> Vec<(u64, Process)> {
        let walk = |key| Some((key, self.by_key.get(&key)?.walk.as_ref()?.1.thread()));
        self.walks.keys().filter_map(walk).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests;
