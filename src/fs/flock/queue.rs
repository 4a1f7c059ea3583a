//! Who has which lock, and who waits for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::flock::ask::{Ask, Flock};
use crate::proc::identity::Process;
use crate::proc::signals::is_interrupted;

/// How many locks one user waits for at the most; beyond that it gets `ENOLCK`.
const MOST_WAITING: usize = 512;

/// How often a waiting caller is looked at whether it has got a signal, and how many
/// are at a time.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: usize = 128;

/// How long a caller waits whose signals we cannot see (pid 0): it could not be
/// killed meanwhile.
const UNSEEN_TIME: Duration = Duration::from_secs(60);

/// How long a lock outlives its unlocking, if what was written is not saved yet.
const SAVE_TIME: Duration = Duration::from_secs(10);

/// How long the release of a handle may be on its way to us when its holder lives,
/// and when it has ended.
const RELEASE_TIME: Duration = Duration::from_millis(20);
const EXIT_TIME: Duration = Duration::from_millis(200);

/// How many holders are looked at whether they live.
const HOLDERS_LOOKED_AT: usize = 16;

/// What tells one who waits how it ended.
pub type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// One who has waited, and what has come of it.
pub struct Due {
    pub(in crate::fs) ask: Ask,
    pub(in crate::fs) result: Result<()>,
    answer: Answer,
}

/// All locks of a mount.
#[derive(Debug, Default)]
pub(in crate::fs) struct Flocks {
    inner: Mutex<Inner>,
    /// There is something to do for the thread that answers.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<u64, File>,
    /// What each handle has locked: one that becomes a checkpoint later keeps the
    /// lock of the file that it was.
    held: HashMap<u64, u64>,
    /// The files that somebody waits for or will have left in a while.
    timed: BTreeSet<u64>,
    /// How many wait, by user.
    waiting: HashMap<u32, usize>,
    due: Vec<Due>,
}

#[derive(Debug, Default)]
struct File {
    holders: Vec<Holder>,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Holder {
    handle: u64,
    is_exclusive: bool,
    process: Process,
    /// It has unlocked what is not saved yet, and has the lock until then.
    leaves: Option<Instant>,
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
    /// Tells it.
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
    fn in_the_way<'a>(&'a self, ask: &'a Ask) -> impl Iterator<Item = &'a Holder> {
        self.holders.iter().filter(|holder| {
            holder.handle != ask.handle && (holder.is_exclusive || ask.is_exclusive())
        })
    }

    fn is_free_for(&self, ask: &Ask) -> bool {
        self.in_the_way(ask).next().is_none()
    }

    /// Until when those who have the lock may have left by themselves, which a
    /// request that does not wait waits for; `released` is when a handle is that has
    /// not unlocked anything.
    fn time_to_leave(&self, ask: &Ask, now: Instant, released: Instant) -> Instant {
        let leave = |holder: &Holder| holder.leaves.unwrap_or(released);
        self.in_the_way(ask).map(leave).min().unwrap_or(now)
    }

    fn next_change(&self) -> Option<Instant> {
        let leaves = self.holders.iter().filter_map(|holder| holder.leaves);
        let deadlines = self.queue.iter().filter_map(|waiter| waiter.deadline);
        leaves.chain(deadlines).min()
    }
}

impl Inner {
    /// To be called when a file's locks have changed: gives them to those who come
    /// next. One who cannot have it keeps those behind it waiting, or would wait for
    /// ever.
    fn pass_on(&mut self, key: u64) {
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        while file
            .queue
            .front()
            .is_some_and(|next| file.is_free_for(&next.ask))
            && let Some(waiter) = file.queue.pop_front()
        {
            file.holders.push(Holder {
                handle: waiter.ask.handle,
                is_exclusive: waiter.ask.is_exclusive(),
                process: waiter.process,
                leaves: None,
            });
            self.held.insert(waiter.ask.handle, key);
            settle(&mut self.waiting, &mut self.due, waiter, Ok(()));
        }
        let is_timed = !file.queue.is_empty() || file.next_change().is_some();
        if file.holders.is_empty() && file.queue.is_empty() {
            self.files.remove(&key);
        }
        if is_timed {
            self.timed.insert(key);
        } else {
            self.timed.remove(&key);
        }
    }

    fn unlock(&mut self, handle: u64) {
        let Some(key) = self.held.remove(&handle) else {
            return;
        };
        if let Some(file) = self.files.get_mut(&key) {
            file.holders.retain(|holder| holder.handle != handle);
        }
        self.pass_on(key);
    }

    fn holder(&mut self, handle: u64) -> Option<&mut Holder> {
        let file = self.files.get_mut(self.held.get(&handle)?)?;
        let mut holders = file.holders.iter_mut();
        holders.find(|holder| holder.handle == handle)
    }

    /// Ends what is over by its time.
    fn expire(&mut self, now: Instant) {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for key in self.timed.iter().copied().collect::<Vec<_>>() {
            let holders = self.files.get(&key).map(|file| &file.holders[..]);
            let left: Vec<u64> = holders
                .unwrap_or_default()
                .iter()
                .filter(|holder| is_over(holder.leaves))
                .map(|holder| holder.handle)
                .collect();
            for handle in left {
                self.unlock(handle);
            }
            self.refuse(key, libc::EWOULDBLOCK, |waiter| is_over(waiter.deadline));
        }
    }

    /// Refuses those who wait for a file and whom `whom` says.
    fn refuse(&mut self, key: u64, errno: i32, whom: impl Fn(&Waiter) -> bool) {
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        let refused = Err(Fail::Errno(errno));
        for waiter in std::mem::take(&mut file.queue) {
            if whom(&waiter) {
                settle(&mut self.waiting, &mut self.due, waiter, refused);
            } else {
                file.queue.push_back(waiter);
            }
        }
        // It may have stood before one that can have it.
        self.pass_on(key);
    }

    /// Those who are to be looked at now.
    fn looks(&mut self, now: Instant) -> Vec<(u64, u32)> {
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

/// One waits no longer.
fn settle(
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

    /// Takes a lock for a handle if it is free. One of the other kind is given up in
    /// any case.
    pub(in crate::fs) fn take(&self, key: u64, ask: &Ask) -> bool {
        let process = Process::of(ask.caller.tid);
        let mut inner = self.lock();
        match inner.holder(ask.handle) {
            Some(holder) if holder.is_exclusive == ask.is_exclusive() => {
                holder.leaves = None;
                return true;
            }
            Some(_) => inner.unlock(ask.handle),
            None => {}
        }
        let file = inner.files.entry(key).or_default();
        let is_free = file.is_free_for(ask);
        if is_free {
            file.holders.push(Holder {
                handle: ask.handle,
                is_exclusive: ask.is_exclusive(),
                process,
                leaves: None,
            });
            inner.held.insert(ask.handle, key);
        }
        // What was given up may be another one's now.
        self.tell(inner);
        is_free
    }

    /// How long the release of those in the way may be on its way to us. The
    /// kernel is asked without the lock that every request takes.
    fn release_time(&self, key: u64, ask: &Ask) -> Duration {
        let holders: Vec<Process> = {
            let inner = self.lock();
            let holders = inner.files.get(&key).map(|file| {
                let stay = file.in_the_way(ask).filter(|one| one.leaves.is_none());
                let stay = stay.take(HOLDERS_LOOKED_AT);
                stay.map(|holder| holder.process).collect()
            });
            holders.unwrap_or_default()
        };
        let have_ended = !holders.is_empty() && holders.into_iter().all(Process::has_ended);
        if have_ended { EXIT_TIME } else { RELEASE_TIME }
    }

    /// Waits for a lock in the place of the caller: it is answered later.
    pub(in crate::fs) fn wait(&self, key: u64, ask: Ask, answer: Answer) {
        let release_time = match ask.waits {
            false => self.release_time(key, &ask),
            true => RELEASE_TIME,
        };
        let now = Instant::now();
        let process = Process::of(ask.caller.tid);
        let mut inner = self.lock();
        let mine = inner.waiting.entry(ask.caller.uid).or_default();
        if *mine >= MOST_WAITING {
            let result = Err(Fail::Errno(libc::ENOLCK));
            let due = Due {
                ask,
                result,
                answer,
            };
            inner.due.push(due);
            return self.tell(inner);
        }
        *mine += 1;
        let file = inner.files.entry(key).or_default();
        let deadline = match ask.waits {
            false => Some(file.time_to_leave(&ask, now, now + release_time)),
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

    /// A handle gives its lock back, or is gone.
    pub(in crate::fs) fn release(&self, handle: u64) {
        let mut inner = self.lock();
        inner.unlock(handle);
        self.tell(inner);
    }

    /// A handle gives its lock back when what it has written is saved.
    pub(in crate::fs) fn unlock_when_saved(&self, handle: u64) {
        let mut inner = self.lock();
        if let Some(holder) = inner.holder(handle) {
            let _ = holder.leaves.get_or_insert(Instant::now() + SAVE_TIME);
        }
        if let Some(&key) = inner.held.get(&handle) {
            inner.pass_on(key);
        }
        self.tell(inner);
    }

    /// What was written by way of a handle is saved, or will not be.
    pub(in crate::fs) fn saved(&self, handle: u64) {
        let mut inner = self.lock();
        let leaves = (inner.holder(handle)).is_some_and(|holder| holder.leaves.is_some());
        if leaves {
            inner.unlock(handle);
        }
        self.tell(inner);
    }

    /// Wakes the thread that answers, if there is anything for it.
    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        let is_needed = !inner.due.is_empty() || !inner.timed.is_empty();
        drop(inner);
        if is_needed {
            self.changed.notify_one();
        }
    }

    /// Waits for those who are to be answered.
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
                let has_signal = |(_, tid): &(u64, u32)| is_interrupted(*tid);
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
