//! The second walk of an open for writing (DESIGN 4).
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

use std::sync::Arc;

use crate::fs::session::writer::Writer;
use crate::proc::identity::Process;

/// What a thread is about to open.
#[derive(Debug)]
pub(in crate::fs) struct SecondWalk {
    thread: Process,
    /// The node of the session's directory.
    parent: u64,
    /// The checkpoint that it was about to open, by its inode number.
    checkpoint: u64,
    writer: Arc<Writer>,
    seen: Seen,
}

/// What is seen of the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing. If the thread tries the checkpoint again, there was none.
    Nothing,
    /// It has come to the name `session`.
    Name,
    /// It has come to another name of the checkpoint, which is no way to a save.
    Link,
}

/// How a thread has come that tries the same checkpoint again.
#[derive(Debug)]
pub(in crate::fs) enum Again {
    /// By another name of it.
    ByLink,
    /// By no path at all; with the writer that was made for it.
    ByNoPath(Arc<Writer>),
}

impl SecondWalk {
    /// That of a thread, which has tried to open `checkpoint` and is to be shown
    /// `writer`.
    pub(in crate::fs) fn new(tid: u32, parent: u64, checkpoint: u64, writer: Arc<Writer>) -> Self {
        Self {
            thread: Process::thread(tid),
            parent,
            checkpoint,
            writer,
            seen: Seen::Nothing,
        }
    }

    /// Whose walk it is: the number of a thread may be another one's by now.
    pub(in crate::fs) fn thread(&self) -> Process {
        self.thread
    }

    /// It has come to the name `session` in this directory. Answers the writer, if
    /// that is where it was to come to.
    pub(in crate::fs) fn come_to_name(&mut self, parent: u64) -> Option<Arc<Writer>> {
        if self.parent != parent {
            return None;
        }
        self.seen = Seen::Name;
        Some(self.writer.clone())
    }

    /// It has come to another name of this checkpoint.
    pub(in crate::fs) fn come_to_link(&mut self, checkpoint: u64) {
        if self.checkpoint == checkpoint {
            self.seen = Seen::Link;
        }
    }

    /// How it has come if it tries this checkpoint now; `None` if it came by the
    /// name `session`, or tries another one.
    pub(in crate::fs) fn again(&self, checkpoint: u64) -> Option<Again> {
        if self.checkpoint != checkpoint {
            return None;
        }
        match self.seen {
            Seen::Nothing => Some(Again::ByNoPath(self.writer.clone())),
            Seen::Name => None,
            Seen::Link => Some(Again::ByLink),
        }
    }
}
