//! The opens for writing that the kernel is about to repeat (DESIGN 4).
//!
//! FUSE has no lookup that says "for writing", but an open that answers
//! `ESTALE` makes the kernel walk the path again, from the same thread
//! (`LOOKUP_REVAL`, fs/namei.c). What that thread is to be shown then is
//! remembered here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::errno::{Fail, Result};
use super::identity::Process;
use super::writer::Writer;

/// How many threads may be between the two walks at a time. A thread beyond
/// that gets `ESTALE`, and tries again itself or does not.
const CAPACITY: usize = 4096;

/// How often a thread is shown its writer before it opens it. The kernel asks
/// twice; a lookup that races with others may ask again.
const LOOKUPS: u8 = 8;

/// How long a thread may take for the second walk. One that takes longer (it
/// was stopped, say) gets `ESTALE`; one that never makes the walk is not shown
/// an outdated file for ever.
const WALK_TIME: Duration = Duration::from_secs(60);

/// The threads, and what each is about to open.
#[derive(Debug, Default)]
pub(super) struct Retries {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_thread: HashMap<u32, Intent>,
    /// Oldest first; may name threads that are done.
    order: VecDeque<u32>,
}

#[derive(Debug)]
struct Intent {
    thread: Process,
    /// The node of the session's directory.
    parent: u64,
    writer: Arc<Writer>,
    /// The checkpoint that it was about to open, by its inode number.
    checkpoint: u64,
    /// It came by another name of that, which is no way to a save.
    by_link: bool,
    lookups: u8,
    since: Instant,
}

impl Retries {
    /// Remembers that the thread, which has tried to open `checkpoint`, is
    /// about to open `writer`.
    pub(super) fn remember(&self, tid: u32, parent: u64, checkpoint: u64, writer: Arc<Writer>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let intent = Intent {
            thread: Process::thread(tid),
            parent,
            writer,
            checkpoint,
            by_link: false,
            lookups: 0,
            since: Instant::now(),
        };
        if inner.by_thread.insert(tid, intent).is_none() {
            inner.order.push_back(tid);
        }
        // A thread that never came back must not stay for ever.
        while inner.order.len() > CAPACITY {
            if let Some(oldest) = inner.order.pop_front() {
                inner.by_thread.remove(&oldest);
            }
        }
    }

    /// The writer that this thread is looking up in this directory.
    pub(super) fn lookup(&self, tid: u32, parent: u64) -> Option<Arc<Writer>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let intent = inner.by_thread.get_mut(&tid)?;
        let expected = intent.parent == parent
            && intent.lookups < LOOKUPS
            && intent.thread == Process::thread(tid);
        if expected && intent.since.elapsed() < WALK_TIME {
            intent.lookups += 1;
            return Some(intent.writer.clone());
        }
        let late = inner.forget(tid);
        drop(inner);
        drop(late);
        None
    }

    /// The thread has looked up another name of this checkpoint.
    pub(super) fn looked_up_link(&self, tid: u32, checkpoint: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(intent) = inner.by_thread.get_mut(&tid) {
            intent.by_link = intent.checkpoint == checkpoint;
        }
    }

    /// Does what the thread, which tries this checkpoint again, came for by
    /// another name of it; `None` if it did not come so. It comes once, but for
    /// what would have to wait.
    pub(super) fn by_link<T>(
        &self,
        tid: u32,
        checkpoint: u64,
        f: impl FnOnce() -> Result<T>,
    ) -> Option<Result<T>> {
        let came = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let intent = inner.by_thread.get(&tid);
            intent.is_some_and(|i| i.by_link && i.checkpoint == checkpoint)
        };
        if !came {
            return None;
        }
        let result = f();
        if !matches!(result, Err(Fail::WouldBlock)) {
            self.done(tid);
        }
        Some(result)
    }

    /// Lets go of what threads were about to open that have ended, or have taken
    /// too long: it keeps the blocks of a checkpoint that was replaced. Answers
    /// whether there are any others.
    pub(super) fn age(&self) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let comes_back =
            |intent: &Intent| intent.since.elapsed() < WALK_TIME && intent.thread.exists();
        let threads = inner.by_thread.iter();
        let late: Vec<u32> = threads
            .filter(|(_, intent)| !comes_back(intent))
            .map(|(tid, _)| *tid)
            .collect();
        let ended: Vec<_> = late.iter().filter_map(|tid| inner.forget(*tid)).collect();
        let any_left = !inner.by_thread.is_empty();
        drop(inner);
        // The last descriptor of a file frees its blocks: not under the lock.
        drop(ended);
        any_left
    }

    /// The thread has opened what it wanted, or something else.
    pub(super) fn done(&self, tid: u32) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let done = inner.forget(tid);
        drop(inner);
        drop(done);
    }
}

impl Inner {
    #[must_use]
    fn forget(&mut self, tid: u32) -> Option<Intent> {
        let intent = self.by_thread.remove(&tid)?;
        // Nearly always the youngest.
        if let Some(at) = self.order.iter().rposition(|&t| t == tid) {
            self.order.remove(at);
        }
        Some(intent)
    }
}
