//! Threads for what has to wait: a slow disk under one session must not keep the
//! others waiting, so there are as many as there are waits, up to a share of each user
//! (DESIGN 13.2): who waits in more places than that waits for itself.
//!
//! A job beyond the share is done in its turn by the thread that ends one of the same
//! lane. No job may wait for one of its own lane, or of one that waits for its own:
//! what ends something has a lane that requests do not fill, and so has what waits for
//! the kernel to write back a page. Who waits for another writer is counted there
//! (`activity`), and is in no lane meanwhile: the writer that it waits for needs one.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::geteuid;

use crate::sys::memory;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// How many threads each kind of job has of one user at the most.
const OF_REQUESTS: usize = 64;
const OF_ENDS: usize = 32;
const OF_LOCKS: usize = 16;

/// What a job is, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    kind: Kind,
    /// `None` if nobody knows.
    user: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Request,
    /// FLUSH, RELEASE and the like.
    End,
    /// It waits for pages of the kernel's to be written back.
    Lock,
}

impl Lane {
    /// A request of a user.
    pub(super) fn request(user: u32) -> Self {
        Self::new(Kind::Request, Some(user))
    }

    /// The end of something that is a user's.
    pub(super) fn end(user: Option<u32>) -> Self {
        Self::new(Kind::End, user)
    }

    /// A lock that a user has waited for.
    pub(super) fn lock(user: u32) -> Self {
        Self::new(Kind::Lock, Some(user))
    }

    fn new(kind: Kind, user: Option<u32>) -> Self {
        Self { kind, user }
    }

    /// How many threads it has at the most. Whoever runs the daemon, and root, may
    /// have as many as there are.
    fn width(self) -> usize {
        let is_bound = |user| user != 0 && user != geteuid().as_raw();
        if !self.user.is_none_or(is_bound) {
            return usize::MAX;
        }
        match self.kind {
            Kind::Request => OF_REQUESTS,
            Kind::End => OF_ENDS,
            Kind::Lock => OF_LOCKS,
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

struct Job {
    lane: Lane,
    work: Work,
}

/// A pool of threads that grows with the work and shrinks without it.
#[derive(Clone, Default)]
pub struct Workers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Those that a thread is to take now.
    jobs: VecDeque<Job>,
    lanes: HashMap<Lane, State>,
    threads: usize,
    idle: usize,
}

/// What goes on in a lane.
#[derive(Default)]
struct State {
    /// How many jobs are being done, or are to be taken now.
    under_way: usize,
    /// Those beyond the share.
    waiting: VecDeque<Work>,
}

thread_local! {
    /// The lane that this thread is in, and of which pool.
    static IN: RefCell<Option<(Arc<Shared>, Lane)>> = const { RefCell::new(None) };
}

impl Queue {
    /// A place in a lane is free: the next of it comes.
    fn leave(&mut self, lane: Lane) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        // One that has come back from aside is one too many.
        if state.under_way <= lane.width()
            && let Some(work) = state.waiting.pop_front()
        {
            self.jobs.push_back(Job { lane, work });
            return;
        }
        state.under_way -= 1;
        if state.under_way == 0 && state.waiting.is_empty() {
            self.lanes.remove(&lane);
        }
    }
}

impl Workers {
    /// Runs a job on a thread of its own: without delay within its lane's share, else
    /// in its turn. If no thread can be started it is the next that one of the others
    /// does, and if there is none it runs here and now: late is better than never.
    pub(super) fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.lock();
        let state = queue.lanes.entry(lane).or_default();
        if state.under_way >= lane.width() {
            state.waiting.push_back(Box::new(job));
            return;
        }
        state.under_way += 1;
        let work = Box::new(job);
        queue.jobs.push_back(Job { lane, work });
        self.shared.provide(queue);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that what has just been added is done.
    fn provide(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if queue.idle >= queue.jobs.len() {
            drop(queue);
            self.more.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let shared = self.clone();
        let thread = std::thread::Builder::new().name("worker".into());
        // A thread that finds no memory when it begins ends the process (the
        // standard library gives it a stack for signals).
        let room = memory::require_room().map_err(std::io::Error::from);
        if let Err(e) = room.and_then(|()| thread.spawn(move || shared.work())) {
            log::warn!("cannot start a thread: {e}");
            let mut queue = self.lock();
            queue.threads -= 1;
            while queue.threads == 0
                && let Some(job) = queue.jobs.pop_back()
            {
                drop(queue);
                queue = self.finish(job);
            }
        }
    }

    /// Does jobs until there are none for a while.
    fn work(self: &Arc<Self>) {
        let mut queue = self.lock();
        loop {
            while let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                queue = self.finish(job);
            }
            queue.idle += 1;
            let waited;
            (queue, waited) = self
                .more
                .wait_timeout_while(queue, IDLE, |queue| queue.jobs.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            if waited.timed_out() && queue.jobs.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }

    /// Does a job, and lets the next of its lane come.
    fn finish(self: &Arc<Self>, job: Job) -> MutexGuard<'_, Queue> {
        let outer = IN.replace(Some((self.clone(), job.lane)));
        // A bug in an answer, which is told by the panic's own message, must not
        // cost the lane a place.
        let _ = catch_unwind(AssertUnwindSafe(job.work));
        IN.set(outer);
        let mut queue = self.lock();
        queue.leave(job.lane);
        queue
    }
}

/// A thread begins to wait for what another request has to do, or has it: it is in no
/// lane meanwhile. To be called by who is counted otherwise.
pub(super) fn aside(begins: bool) {
    let Some((shared, lane)) = IN.with_borrow(Clone::clone) else {
        return;
    };
    let mut queue = shared.lock();
    if !begins {
        queue.lanes.entry(lane).or_default().under_way += 1;
        return;
    }
    let before = queue.jobs.len();
    queue.leave(lane);
    if queue.jobs.len() > before {
        // This thread does not come to do it.
        shared.provide(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const ANN: u32 = 61001;
    const BOB: u32 = 61002;

    #[test]
    fn a_job_that_waits_keeps_no_other_waiting() {
        let workers = Workers::default();
        let (blocked, release) = mpsc::channel::<()>();
        let (done, results) = mpsc::channel();
        for _ in 0..3 {
            // Each round with idle threads of the round before.
            let (start, go) = mpsc::channel::<()>();
            let first = done.clone();
            workers.run(Lane::request(ANN), move || {
                let _ = go.recv();
                let _ = first.send("waited");
            });
            let second = done.clone();
            workers.run(Lane::request(ANN), move || {
                let _ = second.send("quick");
            });
            assert_eq!(results.recv(), Ok("quick"));
            drop(start);
            assert_eq!(results.recv(), Ok("waited"));
        }
        drop((blocked, release));
    }

    /// What keeps jobs waiting, and what tells that they are done.
    struct Waits {
        workers: Workers,
        gate: Arc<(Mutex<bool>, Condvar)>,
        done: mpsc::Sender<usize>,
        results: mpsc::Receiver<usize>,
    }

    impl Waits {
        fn new() -> Self {
            let (done, results) = mpsc::channel();
            Self {
                workers: Workers::default(),
                gate: Arc::default(),
                done,
                results,
            }
        }

        /// A job that waits for the gate.
        fn begin(&self, lane: Lane, number: usize, is_aside: bool) {
            let (gate, done) = (self.gate.clone(), self.done.clone());
            self.workers.run(lane, move || {
                if is_aside {
                    aside(true);
                }
                let (is_open, opened) = &*gate;
                let is_open = is_open.lock().unwrap_or_else(PoisonError::into_inner);
                drop(opened.wait_while(is_open, |is_open| !*is_open));
                if is_aside {
                    aside(false);
                }
                let _ = done.send(number);
            });
        }

        fn open(&self) {
            *self.gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.gate.1.notify_all();
        }

        /// One that does not wait is done.
        fn assert_free(&self, lane: Lane) {
            let done = self.done.clone();
            self.workers.run(lane, move || {
                let _ = done.send(usize::MAX);
            });
            assert_eq!(self.results.recv(), Ok(usize::MAX));
        }
    }

    #[test]
    fn rule_13_2_waits_of_one_user_take_no_more_threads_than_its_share() {
        let waits = Waits::new();
        let lane = Lane::request(BOB);
        for number in 0..10 * OF_REQUESTS {
            waits.begin(lane, number, false);
        }
        let threads = || waits.workers.shared.lock().threads;
        assert_eq!(threads(), OF_REQUESTS);
        // What ends something, and others, go on.
        waits.assert_free(Lane::end(Some(BOB)));
        waits.assert_free(Lane::lock(BOB));
        waits.assert_free(Lane::end(None));
        waits.assert_free(Lane::request(ANN));
        assert!(threads() <= OF_REQUESTS + 4);
        assert!(waits.results.try_recv().is_err());
        waits.open();
        let mut done: Vec<_> = (0..10 * OF_REQUESTS)
            .map(|_| waits.results.recv().unwrap_or(usize::MAX))
            .collect();
        done.sort_unstable();
        assert!(done.into_iter().eq(0..10 * OF_REQUESTS));
        assert!(threads() <= OF_REQUESTS + 4);
    }

    #[test]
    fn rule_2_8_who_waits_for_a_writer_leaves_room_for_it() {
        let waits = Waits::new();
        let lane = Lane::request(BOB);
        for number in 0..2 * OF_REQUESTS {
            waits.begin(lane, number, true);
        }
        waits.assert_free(lane);
        waits.open();
        for _ in 0..2 * OF_REQUESTS {
            assert!(waits.results.recv().is_ok());
        }
        for number in 0..OF_REQUESTS {
            waits.begin(lane, number, false);
        }
        for _ in 0..OF_REQUESTS {
            assert!(waits.results.recv().is_ok());
        }
    }

    #[test]
    fn rule_13_3_root_has_all_threads_there_are() {
        let waits = Waits::new();
        for number in 0..2 * OF_REQUESTS {
            waits.begin(Lane::request(0), number, false);
        }
        waits.assert_free(Lane::request(0));
        waits.open();
    }
}
