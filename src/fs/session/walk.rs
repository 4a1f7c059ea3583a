//! The opens for writing that the kernel is about to repeat (DESIGN 4).
//!
//! FUSE has no lookup that says "for writing", but an open that answers
//! `ESTALE` makes the kernel walk the path again, from the same thread
//! (`LOOKUP_REVAL`, fs/namei.c). What that thread is to be shown then is
//! remembered here.
//!
//! How often it asks for the name on that walk depends on others: each thread
//! is shown a writer of its own, which makes the kernel drop the name that
//! another one has just found (seen on Linux 6.18: 60 that open one session
//! at a time ask more than eight times each). So what is remembered is not
//! counted down. It ends with the open, with the thread, and after a time; and
//! there is one for each thread.
//!
//! An open that walks no path (`/proc/self/fd/N`, a file that is bound
//! somewhere, open_by_handle_at(2)) is repeated as well, with no lookup between
//! the two: by that it is known.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::session::writer::Writer;
use crate::proc::identity::Process;

/// How many threads may be between the two walks at a time. A thread beyond
/// that gets `ESTALE`, and tries again itself or does not.
const CAPACITY: usize = 4096;

/// How long a thread may take for the second walk. One that takes longer (it
/// was stopped, say) gets `ESTALE`; one that never makes the walk is not shown
/// an outdated file for ever.
const WALK_TIME: Duration = Duration::from_secs(60);

/// The threads, and what each is about to open.
#[derive(Debug, Default)]
pub(in crate::fs) struct Retries {
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
    walk: Walk,
    since: Instant,
}

/// What is seen of the second walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// Nothing. If the thread tries the checkpoint again, there was none.
    Nothing,
    /// It has come to the name `session`.
    ToName,
    /// It has come to another name of the checkpoint, which is no way to a save.
    ToLink,
}

impl Retries {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that the thread, which has tried to open `checkpoint`, is
    /// about to open `writer`.
    pub(in crate::fs) fn remember(
        &self,
        tid: u32,
        parent: u64,
        checkpoint: u64,
        writer: Arc<Writer>,
    ) {
        let intent = Intent {
            thread: Process::thread(tid),
            parent,
            writer,
            checkpoint,
            walk: Walk::Nothing,
            since: Instant::now(),
        };
        let mut inner = self.lock();
        let earlier = inner.by_thread.insert(tid, intent);
        if earlier.is_none() {
            inner.order.push_back(tid);
        }
        // A thread that never came back must not stay for ever.
        let mut beyond = Vec::new();
        while inner.order.len() > CAPACITY {
            let oldest = inner.order.pop_front();
            beyond.extend(oldest.and_then(|oldest| inner.by_thread.remove(&oldest)));
        }
        drop(inner);
        // The last descriptor of a file frees its blocks: not under the lock.
        drop((earlier, beyond));
    }

    /// The writer that this thread is looking up in this directory.
    pub(in crate::fs) fn lookup(&self, tid: u32, parent: u64) -> Option<Arc<Writer>> {
        let mut inner = self.lock();
        let intent = inner.by_thread.get_mut(&tid)?;
        if intent.parent == parent && intent.is_of(tid) {
            intent.walk = Walk::ToName;
            return Some(intent.writer.clone());
        }
        let late = inner.forget(tid);
        drop(inner);
        drop(late);
        None
    }

    /// The thread has looked up another name of this checkpoint.
    pub(in crate::fs) fn looked_up_link(&self, tid: u32, checkpoint: u64) {
        let mut inner = self.lock();
        if let Some(intent) = inner.by_thread.get_mut(&tid)
            && intent.checkpoint == checkpoint
        {
            intent.walk = Walk::ToLink;
        }
    }

    /// Does what the thread, which tries this checkpoint again, came for by
    /// another name of it; `None` if it did not come so.
    pub(in crate::fs) fn by_link<T>(
        &self,
        tid: u32,
        checkpoint: u64,
        f: impl FnOnce() -> Result<T>,
    ) -> Option<Result<T>> {
        self.again(tid, checkpoint, Walk::ToLink, |_| f())
    }

    /// Does what the thread, which tries this checkpoint again, came for by no
    /// path at all; `None` if it did not come so. It is given the writer that
    /// was made for it.
    pub(in crate::fs) fn by_no_path<T>(
        &self,
        tid: u32,
        checkpoint: u64,
        f: impl FnOnce(Arc<Writer>) -> Result<T>,
    ) -> Option<Result<T>> {
        self.again(tid, checkpoint, Walk::Nothing, f)
    }

    /// It comes again once, but for what would have to wait.
    fn again<T>(
        &self,
        tid: u32,
        checkpoint: u64,
        walk: Walk,
        f: impl FnOnce(Arc<Writer>) -> Result<T>,
    ) -> Option<Result<T>> {
        let writer = {
            let inner = self.lock();
            let intent = inner.by_thread.get(&tid)?;
            let came = intent.walk == walk && intent.checkpoint == checkpoint;
            (came && intent.is_of(tid)).then(|| intent.writer.clone())?
        };
        let result = f(writer);
        if !matches!(result, Err(Fail::WouldBlock)) {
            self.done(tid);
        }
        Some(result)
    }

    /// Lets go of what threads were about to open that have ended, or have taken
    /// too long: it keeps the blocks of a checkpoint that was replaced. Answers
    /// whether there are any others.
    pub(in crate::fs) fn age(&self) -> bool {
        let mut inner = self.lock();
        let threads = inner.by_thread.iter();
        let late: Vec<u32> = threads
            .filter(|(_, intent)| intent.is_late() || !intent.thread.exists())
            .map(|(tid, _)| *tid)
            .collect();
        let ended: Vec<_> = late.iter().filter_map(|tid| inner.forget(*tid)).collect();
        let any_left = !inner.by_thread.is_empty();
        drop(inner);
        drop(ended);
        any_left
    }

    /// The thread has opened what it wanted, or something else.
    pub(in crate::fs) fn done(&self, tid: u32) {
        let mut inner = self.lock();
        let done = inner.forget(tid);
        drop(inner);
        drop(done);
    }
}

impl Intent {
    fn is_late(&self) -> bool {
        self.since.elapsed() >= WALK_TIME
    }

    /// Whether it is this thread's, and not too old.
    fn is_of(&self, tid: u32) -> bool {
        !self.is_late() && self.thread == Process::thread(tid)
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
