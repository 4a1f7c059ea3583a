//! Checkpoints that a save has replaced while somebody watches them.
//!
//! inotify(7) says that a file is gone when the kernel drops the last name of a
//! file without links. A save by writing gives it no such moment: the name of
//! the old checkpoint is dropped when the writer is looked up in its place
//! (DESIGN 4), and it has its link still. So the old checkpoint is shown once
//! more, to one thread that looks the name up twice: first it finds the old
//! one, now without a link, then what is there. Seen on Linux 6.18
//! (dentry_unlink_inode, fs/dcache.c): that drops the name again, and whoever
//! watches the file is told `IN_DELETE_SELF`, as of any file that is replaced.
//!
//! Nobody tells us who watches. But the kernel forgets a file that has neither
//! a name nor an open descriptor, unless something else holds it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::FileAttr;

use super::attr::attr_of;
use super::errno::Result;
use super::lookup::absent_attr;
use super::node::{Nodes, empty_id};
use super::{Caller, Entry, Fs};
use crate::repo::Checkpoint;
use crate::sys::{self, Errno};

/// How many are remembered at the most. Each holds the blocks of its file.
const CAPACITY: usize = 64;

/// How long the kernel may take to forget what nobody uses.
const TICK: Duration = Duration::from_millis(20);

/// How often a replaced checkpoint is looked at that is still being read.
const READING_TICK: Duration = Duration::from_secs(1);

/// What saves have replaced, and the kernel still knows.
#[derive(Debug, Default)]
pub(super) struct Replacements {
    nodes: Arc<Nodes>,
    noted: Mutex<VecDeque<Replaced>>,
    filled: Condvar,
    /// The thread that is to find what is no more; 0 for none.
    thread: AtomicU32,
    shown: Mutex<Option<Arc<Replaced>>>,
}

/// A checkpoint that a save has replaced.
#[derive(Debug)]
pub struct Replaced {
    /// The node of its session.
    session: u64,
    id: u64,
    /// Held, so that no other file gets its number; `None` where there was no
    /// checkpoint, and an empty one was shown.
    checkpoint: Option<Checkpoint>,
}

impl Replacements {
    pub(super) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            nodes,
            ..Self::default()
        }
    }

    fn noted(&self) -> MutexGuard<'_, VecDeque<Replaced>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> MutexGuard<'_, Option<Arc<Replaced>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A save through a writer has replaced this checkpoint, or none.
    pub(super) fn note(&self, session: u64, checkpoint: Option<Checkpoint>) {
        let id = (checkpoint.as_ref()).map_or(empty_id(session), |old| old.stat().stx_ino);
        // Of nearly every one the kernel has forgotten by now.
        if !self.nodes.is_known(id) {
            return;
        }
        if let Some(old) = &checkpoint {
            self.keep(old);
        }
        let mut noted = self.noted();
        noted.push_back(Replaced {
            session,
            id,
            checkpoint,
        });
        let oldest = (noted.len() > CAPACITY).then(|| noted.pop_front());
        drop(noted);
        self.filled.notify_all();
        // Its blocks may go with it: not under the lock.
        drop(oldest);
    }

    /// Whoever has come to it by its path may open it without one.
    pub(super) fn keep(&self, old: &Checkpoint) {
        // Without a descriptor left, it is gone for those.
        if let Ok(file) = old.as_path_fd().try_clone_to_owned() {
            self.nodes.keep(old.stat().stx_ino, Arc::new(file));
        }
    }

    /// Takes what has been noted, as soon as there is something.
    fn take(&self) -> Vec<Replaced> {
        let noted = self
            .filled
            .wait_while(self.noted(), |noted| noted.is_empty());
        let mut noted = noted.unwrap_or_else(PoisonError::into_inner);
        noted.drain(..).collect()
    }

    /// Whether the kernel knows a node although nobody has it open: it has a
    /// name still, or is watched.
    fn is_unused(&self, replaced: &Replaced) -> bool {
        self.nodes.is_known(replaced.id) && self.nodes.open_file(replaced.id).is_none()
    }
}

impl Fs {
    /// Waits until checkpoints have been replaced that somebody seems to watch.
    /// `look_up` looks a session's checkpoint up, by the name of the session: the
    /// kernel drops the name of the old one then, and what only a name held is not
    /// watched.
    pub fn wait_for_watched(&self, look_up: impl Fn(&OsStr)) -> Vec<Arc<Replaced>> {
        let replacements = &self.replacements;
        let mut reading: Vec<Replaced> = Vec::new();
        loop {
            if reading.is_empty() {
                reading = replacements.take();
                std::thread::sleep(TICK);
            } else {
                std::thread::sleep(READING_TICK);
                reading.extend(replacements.noted().drain(..));
            }
            reading.retain(|replaced| self.nodes.is_known(replaced.id));
            let beyond = reading.len().saturating_sub(CAPACITY);
            reading.drain(..beyond);
            let (unused, others): (Vec<_>, Vec<_>) = std::mem::take(&mut reading)
                .into_iter()
                .partition(|replaced| replacements.is_unused(replaced));
            reading = others;
            if unused.is_empty() {
                continue;
            }
            for name in unused
                .iter()
                .filter_map(|replaced| self.session_of(replaced))
            {
                look_up(&name);
            }
            std::thread::sleep(TICK);
            let (watched, others): (Vec<_>, Vec<_>) = unused
                .into_iter()
                .partition(|replaced| replacements.is_unused(replaced) && replaced.is_gone());
            reading.extend(others.into_iter().filter(Replaced::is_gone));
            if !watched.is_empty() {
                replacements.noted().extend(reading);
                return watched.into_iter().map(Arc::new).collect();
            }
        }
    }

    /// The name of the session; `None` if the kernel has forgotten it.
    pub fn session_of(&self, replaced: &Replaced) -> Option<OsString> {
        Some(self.nodes.place(replaced.session)?.1)
    }

    /// Does `look` while `thread` finds the replaced checkpoint under the name
    /// that it had.
    pub fn show_replaced<T>(
        &self,
        replaced: &Arc<Replaced>,
        thread: u32,
        look: impl FnOnce() -> T,
    ) -> T {
        let replacements = &self.replacements;
        *replacements.shown() = Some(replaced.clone());
        replacements.thread.store(thread, Ordering::Release);
        let done = look();
        replacements.thread.store(0, Ordering::Release);
        *replacements.shown() = None;
        done
    }

    /// The replaced checkpoint of a session, for the one that is to find it.
    pub(super) fn replaced_entry(&self, caller: Caller, session: u64) -> Option<Result<Entry>> {
        let thread = self.replacements.thread.load(Ordering::Acquire);
        if thread == 0 || thread != caller.tid {
            return None;
        }
        let shown = self.replacements.shown().clone();
        let replaced = shown.filter(|replaced| replaced.session == session)?;
        Some(self.entry_of_replaced(&replaced))
    }

    fn entry_of_replaced(&self, replaced: &Replaced) -> Result<Entry> {
        let attr = match &replaced.checkpoint {
            Some(old) => attr_of(&sys::fstat(old.as_path_fd())?, replaced.id),
            None => absent_attr(&self.session(replaced.session)?, replaced.id)?,
        };
        // Counted as a lookup of what the kernel knows, or not at all.
        let generation = self.nodes.remember_link(replaced.id).ok_or(Errno::STALE)?;
        Ok(Entry {
            attr: FileAttr { nlink: 0, ..attr },
            generation,
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        })
    }
}

impl Replaced {
    /// Whether it has no name any more. One that has been kept under another
    /// name is not gone for those who watch it.
    fn is_gone(&self) -> bool {
        let links = |fd: BorrowedFd<'_>| sys::fstat(fd).map_or(0, |stat| stat.stx_nlink);
        (self.checkpoint.as_ref()).is_none_or(|old| links(old.as_path_fd()) == 0)
    }
}
