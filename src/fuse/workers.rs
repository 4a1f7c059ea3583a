//! Threads for what has to wait: a slow disk under one session must not keep
//! the others waiting, so there are as many as there are waits.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::sys::memory;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

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
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Workers {
    /// Runs a job on a thread of its own, without delay. If no thread can be
    /// started it is the next that one of the others does, and if there is none it
    /// runs here and now: late is better than never.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(Box::new(job));
        if queue.idle >= queue.jobs.len() {
            drop(queue);
            self.shared.more.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("worker".into());
        // A thread that finds no memory when it begins ends the process (the
        // standard library gives it a stack for signals).
        let room = memory::require_room().map_err(std::io::Error::from);
        if let Err(e) = room.and_then(|()| thread.spawn(move || shared.work())) {
            log::warn!("cannot start a thread: {e}");
            let mut queue = self.shared.lock();
            queue.threads -= 1;
            let job = (queue.threads == 0).then(|| queue.jobs.pop_back());
            drop(queue);
            if let Some(Some(job)) = job {
                job();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs until there are none for a while.
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            while let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_job_that_waits_keeps_no_other_waiting() {
        let workers = Workers::default();
        let (blocked, release) = mpsc::channel::<()>();
        let (done, results) = mpsc::channel();
        for _ in 0..3 {
            // Each round with idle threads of the round before.
            let (start, go) = mpsc::channel::<()>();
            let first = done.clone();
            workers.run(move || {
                let _ = go.recv();
                let _ = first.send("waited");
            });
            let second = done.clone();
            workers.run(move || {
                let _ = second.send("quick");
            });
            assert_eq!(results.recv(), Ok("quick"));
            drop(start);
            assert_eq!(results.recv(), Ok("waited"));
        }
        drop((blocked, release));
    }
}
