//! The locks of a mount, and the requests that wait for them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::flock::ask::{Ask, Flock};
use crate::fs::lasting::node::Exact;
use crate::proc::identity::Process;
use crate::proc::signals::is_interrupted;

/// How many requests of one user may wait; beyond that the answer is `ENOLCK`.
const MOST_WAITING: usize = 512;

/// How often to look for pending signals of a waiting caller, and at how many callers at
/// a time.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: usize = 128;

/// How long a caller waits whose signals cannot be seen (pid 0): it cannot be killed
/// meanwhile.
const UNSEEN_TIME: Duration = Duration::from_secs(60);

/// How long a lock stays after its unlocking, if the changes are not saved yet.
const SAVE_TIME: Duration = Duration::from_secs(10);

/// How long the RELEASE of a handle may take to arrive, when the process that locked it
/// lives, and when it has ended.
const RELEASE_TIME: Duration = Duration::from_millis(20);
const EXIT_TIME: Duration = Duration::from_millis(200);

/// Of how many lock owners to check whether they live.
const OWNERS_LOOKED_AT: usize = 16;

/// Answers a waiting request.
pub type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// A request that has waited, and its result.
pub struct Due {
    pub(in crate::fs) ask: Ask,
    pub(in crate::fs) result: Result<()>,
    answer: Answer,
}

/// All locks of a mount.
#[derive(Debug, Default)]
pub(in crate::fs) struct Flocks {
    inner: Mutex<Inner>,
    /// Notified when the answering thread has something to do.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<Exact, File>,
    /// What each handle has locked. If the file becomes a checkpoint later, the handle
    /// keeps the lock of the file it was.
    locked: HashMap<u64, Exact>,
    /// The files with waiting requests, or with locks that end at a certain time.
    timed: BTreeSet<Exact>,
    /// The number of waiting requests, by user.
    waiting: HashMap<u32, usize>,
    due: Vec<Due>,
}

#[derive(Debug, Default)]
struct File {
    grants: Vec<Grant>,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Grant {
    handle: u64,
    is_exclusive: bool,
    process: Process,
    /// When the lock ends: it was unlocked before the changes were saved.
    ends: Option<Instant>,
}

struct Waiter {
    ask: Ask,
    process: Process,
    /// When it is refused.
    deadline: Option<Instant>,
    looked: Instant,
    answer: Answer,
}

impl Due {
    /// The user it waited for.
    pub fn user(&self) -> u32 {
        self.ask.caller.uid
    }

    /// Sends the answer.
    pub fn answer(self, result: Result<()>) {
        (self.answer)(result);
    }
}

impl fmt::Debug for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.ask, self.result).fmt(f)
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ask.fmt(f)
    }
}

impl Ask {
    fn is_exclusive(&self) -> bool {
        self.what == Flock::Exclusive
    }
}

impl File {
    fn conflicting<'a>(&'a self, ask: &'a Ask) -> impl Iterator<Item = &'a Grant> {
        self.grants.iter().filter(|grant| {
            grant.handle != ask.handle && (grant.is_exclusive || ask.is_exclusive())
        })
    }

    fn is_free_for(&self, ask: &Ask) -> bool {
        self.conflicting(ask).next().is_none()
    }

    /// Until when a request with `LOCK_NB` waits for the locks in its way to end by
    /// themselves. `released` stands for handles that have not unlocked: their RELEASE
    /// may be on its way.
    fn time_to_end(&self, ask: &Ask, now: Instant, released: Instant) -> Instant {
        let end = |grant: &Grant| grant.ends.unwrap_or(released);
        self.conflicting(ask).map(end).min().unwrap_or(now)
    }

    fn next_change(&self) -> Option<Instant> {
        let ends = self.grants.iter().filter_map(|grant| grant.ends);
        let deadlines = self.queue.iter().filter_map(|waiter| waiter.deadline);
        ends.chain(deadlines).min()
    }
}

impl Inner {
    /// Grants a file's lock to the next waiting requests; to be called when its locks
    /// have changed. A request that cannot be granted blocks those behind it, as it might
    /// wait for ever otherwise.
    fn pass_on(&mut self, key: Exact) {
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        while file
            .queue
            .front()
            .is_some_and(|next| file.is_free_for(&next.ask))
            && let Some(waiter) = file.queue.pop_front()
        {
            file.grants.push(Grant {
                handle: waiter.ask.handle,
                is_exclusive: waiter.ask.is_exclusive(),
                process: waiter.process,
                ends: None,
            });
            self.locked.insert(waiter.ask.handle, key);
            end_wait(&mut self.waiting, &mut self.due, waiter, Ok(()));
        }
        let is_timed = !file.queue.is_empty() || file.next_change().is_some();
        if file.grants.is_empty() && file.queue.is_empty() {
            self.files.remove(&key);
        }
        if is_timed {
            self.timed.insert(key);
        } else {
            self.timed.remove(&key);
        }
    }

    fn unlock(&mut self, handle: u64) {
        let Some(key) = self.locked.remove(&handle) else {
            return;
        };
        if let Some(file) = self.files.get_mut(&key) {
            file.grants.retain(|grant| grant.handle != handle);
        }
        self.pass_on(key);
    }

    fn grant_of(&mut self, handle: u64) -> Option<&mut Grant> {
        let file = self.files.get_mut(self.locked.get(&handle)?)?;
        let mut grants = file.grants.iter_mut();
        grants.find(|grant| grant.handle == handle)
    }

    /// Ends the locks and refuses the requests whose time is over.
    fn expire(&mut self, now: Instant) {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for key in self.timed.iter().copied().collect::<Vec<_>>() {
            let grants = self.files.get(&key).map(|file| &file.grants[..]);
            let ended: Vec<u64> = grants
                .unwrap_or_default()
                .iter()
                .filter(|grant| is_over(grant.ends))
                .map(|grant| grant.handle)
                .collect();
            for handle in ended {
                self.unlock(handle);
            }
            self.refuse(key, libc::EWOULDBLOCK, |waiter| is_over(waiter.deadline));
        }
    }

    /// Refuses those of a file's waiting requests for which `selects` is true.
    fn refuse(&mut self, key: Exact, errno: i32, selects: impl Fn(&Waiter) -> bool) {
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        let refused = Err(Fail::Errno(errno));
        for waiter in std::mem::take(&mut file.queue) {
            if selects(&waiter) {
                end_wait(&mut self.waiting, &mut self.due, waiter, refused);
            } else {
                file.queue.push_back(waiter);
            }
        }
        // The next one may be grantable now.
        self.pass_on(key);
    }

    /// The waiting callers whose signals are to be looked at now.
    fn looks(&mut self, now: Instant) -> Vec<(Exact, u32)> {
        let mut looks = Vec::new();
        for key in &self.timed {
            let Some(file) = self.files.get_mut(key) else {
                continue;
            };
            let seen = file.queue.iter_mut().filter(|waiter| {
                waiter.ask.waits && waiter.ask.caller.tid != 0 && now - waiter.looked >= LOOK
            });
            for waiter in seen.take(LOOKS - looks.len()) {
                waiter.looked = now;
                looks.push((*key, waiter.ask.caller.tid));
            }
        }
        looks
    }
}

/// Moves a waiting request to those that are due.
fn end_wait(
    waiting: &mut HashMap<u32, usize>,
    due: &mut Vec<Due>,
    waiter: Waiter,
    result: Result<()>,
) {
    let uid = waiter.ask.caller.uid;
    if let Some(count) = waiting.get_mut(&uid) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            waiting.remove(&uid);
        }
    }
    due.push(Due {
        ask: waiter.ask,
        result,
        answer: waiter.answer,
    });
}

impl Flocks {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lock for a handle if it is free. A lock of the other kind is given up in
    /// any case.
    pub(in crate::fs) fn take(&self, key: Exact, ask: &Ask) -> bool {
        let process = Process::of(ask.caller.tid);
        let mut inner = self.lock();
        match inner.grant_of(ask.handle) {
            Some(grant) if grant.is_exclusive == ask.is_exclusive() => {
                grant.ends = None;
                return true;
            }
            Some(_) => inner.unlock(ask.handle),
            None => {}
        }
        let file = inner.files.entry(key).or_default();
        let is_free = file.is_free_for(ask);
        if is_free {
            file.grants.push(Grant {
                handle: ask.handle,
                is_exclusive: ask.is_exclusive(),
                process,
                ends: None,
            });
            inner.locked.insert(ask.handle, key);
        }
        // The lock that was given up may be granted to another request.
        self.tell(inner);
        is_free
    }

    /// How long the RELEASE of the handles in the way may take to arrive. Looks at
    /// processes without the lock that every request takes.
    fn release_time(&self, key: Exact, ask: &Ask) -> Duration {
        let owners: Vec<Process> = {
            let inner = self.lock();
            let owners = inner.files.get(&key).map(|file| {
                let lasting = file.conflicting(ask).filter(|one| one.ends.is_none());
                let lasting = lasting.take(OWNERS_LOOKED_AT);
                lasting.map(|grant| grant.process).collect()
            });
            owners.unwrap_or_default()
        };
        let have_ended = !owners.is_empty() && owners.into_iter().all(Process::has_ended);
        if have_ended { EXIT_TIME } else { RELEASE_TIME }
    }

    /// Makes a request wait; it is answered later.
    pub(in crate::fs) fn wait(&self, key: Exact, ask: Ask, answer: Answer) {
        let release_time = match ask.waits {
            false => self.release_time(key, &ask),
            true => RELEASE_TIME,
        };
        let now = Instant::now();
        let process = Process::of(ask.caller.tid);
        let mut inner = self.lock();
        let own = inner.waiting.entry(ask.caller.uid).or_default();
        if *own >= MOST_WAITING {
            let result = Err(Fail::Errno(libc::ENOLCK));
            let due = Due {
                ask,
                result,
                answer,
            };
            inner.due.push(due);
            return self.tell(inner);
        }
        *own += 1;
        let file = inner.files.entry(key).or_default();
        let deadline = match ask.waits {
            false => Some(file.time_to_end(&ask, now, now + release_time)),
            true => (ask.caller.tid == 0).then_some(now + UNSEEN_TIME),
        };
        file.queue.push_back(Waiter {
            ask,
            process,
            deadline,
            looked: now,
            answer,
        });
        inner.timed.insert(key);
        inner.pass_on(key);
        self.tell(inner);
    }

    /// Unlocks a handle, which may be gone.
    pub(in crate::fs) fn release(&self, handle: u64) {
        let mut inner = self.lock();
        inner.unlock(handle);
        self.tell(inner);
    }

    /// Unlocks a handle when its changes are saved.
    pub(in crate::fs) fn unlock_when_saved(&self, handle: u64) {
        let mut inner = self.lock();
        if let Some(grant) = inner.grant_of(handle) {
            let _ = grant.ends.get_or_insert(Instant::now() + SAVE_TIME);
        }
        if let Some(&key) = inner.locked.get(&handle) {
            inner.pass_on(key);
        }
        self.tell(inner);
    }

    /// The changes of a handle are saved, or will not be.
    pub(in crate::fs) fn saved(&self, handle: u64) {
        let mut inner = self.lock();
        let is_unlocked = (inner.grant_of(handle)).is_some_and(|grant| grant.ends.is_some());
        if is_unlocked {
            inner.unlock(handle);
        }
        self.tell(inner);
    }

    /// Wakes the answering thread if there is work for it.
    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        let is_needed = !inner.due.is_empty() || !inner.timed.is_empty();
        drop(inner);
        if is_needed {
            self.changed.notify_one();
        }
    }

    /// Waits until requests are due, and returns them.
    pub(in crate::fs) fn due(&self) -> Vec<Due> {
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            inner.expire(now);
            if !inner.due.is_empty() {
                return std::mem::take(&mut inner.due);
            }
            let looks = inner.looks(now);
            if !looks.is_empty() {
                drop(inner);
                let has_signal = |(_, tid): &(Exact, u32)| is_interrupted(*tid);
                let interrupted: Vec<_> = looks.into_iter().filter(has_signal).collect();
                inner = self.lock();
                for (key, tid) in interrupted {
                    inner.refuse(key, libc::EINTR, |waiter| waiter.ask.caller.tid == tid);
                }
                continue;
            }
            let next = (inner.timed.iter())
                .filter_map(|key| inner.files.get(key)?.next_change())
                .min()
                .map_or(LOOK, |at| at.saturating_duration_since(now));
            let is_idle = inner.timed.is_empty();
            inner = if is_idle {
                let woken = self.changed.wait(inner);
                woken.unwrap_or_else(PoisonError::into_inner)
            } else {
                let woken = self.changed.wait_timeout(inner, next.min(LOOK));
                woken.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests;
