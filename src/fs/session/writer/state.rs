//! What a writer is made of, and what becomes of its failures (DESIGN 2.3).

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use crate::fs::caller::credentials::Credentials;
use crate::fs::caller::umask::of_first;
use crate::fs::errno::{Fail, Result};
use crate::fs::report::activity::Activity;
use crate::fs::report::statistics::Statistics;
use crate::fs::request::{Caller, Patience};
use crate::fs::session::slot::Slot;
use crate::fs::session::writer::authors::Authors;
use crate::fs::shares::Share;
use crate::proc::identity::Process;
use crate::proc::kin::Kin;
use crate::proc::table::Sought;
use crate::repo::{self, Checkpoint, Kind, Session, Staged};

/// An open for writing, with all descriptors that go back to it.
#[derive(Debug)]
pub(in crate::fs) struct Writer {
    /// The node id, of a range that no filesystem uses.
    pub(in crate::fs) ino: u64,
    /// The inode number that programs see. Many compare that of the path with
    /// that of what they have opened (vim, sqlite, crudini): it is the
    /// checkpoint's.
    pub(super) shown: AtomicU64,
    /// What they have seen before it has gone over to another checkpoint.
    pub(super) shown_before: AtomicU64,
    /// The node that the kernel knows it by: its own, or that of the checkpoint
    /// that it shares with readers.
    pub(super) node: AtomicU64,
    /// It has lost its name to its own process: it is a file without one, and
    /// no save.
    pub(super) is_nameless: AtomicBool,
    /// Made where the opener found nothing, and not saved yet: to the opener the path
    /// leads here.
    pub(super) is_new: AtomicBool,
    /// Opened for reading, and made or truncated by that.
    pub(super) is_read_only: bool,
    /// Opened to append, and for nothing else: where it starts from does not matter.
    pub(super) only_appends: AtomicBool,
    /// The device of the mount.
    pub(super) device: Arc<OnceLock<(u32, u32)>>,
    pub(super) session: Session,
    /// The node of its directory.
    pub(super) directory: u64,
    pub(super) slot: Arc<Slot>,
    pub(super) activity: Arc<Activity>,
    pub(super) statistics: Arc<Statistics>,
    /// How long a change waits for another writer.
    pub(super) lock_wait: Duration,
    /// Opened with `O_TRUNC`: it replaces whatever is there (DESIGN 2.9).
    pub(super) replaces: bool,
    pub(super) opener: Process,
    /// The FLUSHes that have come so far.
    pub(super) flushes: AtomicU64,
    /// The thread that opened it.
    pub(super) caller: Caller,
    /// Its ids, as they were then.
    pub(super) credentials: Credentials,
    pub(super) first_mode: u32,
    pub(super) first_umask: u32,
    pub(super) first_owner: (u32, u32),
    /// Its descriptors, in the share of its user.
    pub(super) _share: Share,
    /// The errno of a piece that it lacks, which it has not been told of.
    pub(super) lost: AtomicI32,
    pub(super) state: Mutex<State>,
}

/// What a writer is made of.
#[derive(Debug)]
pub(in crate::fs) struct Origin {
    pub(in crate::fs) share: Share,
    pub(in crate::fs) device: Arc<OnceLock<(u32, u32)>>,
    pub(in crate::fs) session: Session,
    /// The node of its directory.
    pub(in crate::fs) directory: u64,
    /// The checkpoint it starts from.
    pub(in crate::fs) base: Option<Checkpoint>,
    pub(in crate::fs) slot: Arc<Slot>,
    pub(in crate::fs) activity: Arc<Activity>,
    pub(in crate::fs) statistics: Arc<Statistics>,
    pub(in crate::fs) lock_wait: Duration,
    /// The checkpoint that its opener has removed to make this one.
    pub(in crate::fs) removed: Option<Checkpoint>,
    /// Whether it was opened with `O_TRUNC`.
    pub(in crate::fs) replaces: bool,
    /// Whether it was made where the opener found nothing.
    pub(in crate::fs) is_new: bool,
    /// Whether it was opened for reading.
    pub(in crate::fs) is_read_only: bool,
    /// Whether it was opened to append, and for nothing else.
    pub(in crate::fs) only_appends: bool,
    /// The thread that opens it.
    pub(in crate::fs) caller: Caller,
    /// Its ids.
    pub(in crate::fs) credentials: Credentials,
    /// Mode of a first checkpoint, if the kernel has told it.
    pub(in crate::fs) first_mode: Option<u32>,
    /// Owner and group of a first checkpoint.
    pub(in crate::fs) first_owner: (u32, u32),
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The checkpoint this writer started from, or the one it made last.
    pub(super) base: Option<Checkpoint>,
    /// The checkpoint that is to be there no more (DESIGN 2.12).
    pub(super) removed: Option<Checkpoint>,
    /// The checkpoint whose number is shown, kept so that no other file gets
    /// the number meanwhile.
    pub(super) shown_base: Option<Checkpoint>,
    /// The base, opened for reading when that was needed first.
    pub(super) base_file: Option<File>,
    /// What it has written. `None` while nothing has changed.
    pub(super) staged: Option<Staged>,
    /// Whether what is staged keeps the setuid and setgid bits of its base.
    pub(super) keeps_privileges: bool,
    /// The processes that have written.
    pub(super) authors: Authors,
    /// The processes that may hold the file besides its opener.
    pub(super) kin: Kin,
    /// Whether the opener has written anything itself, not only cut it off.
    pub(super) has_own_data: bool,
    /// One that wrote was killed, in words: this save is not to be.
    pub(super) killed: Option<String>,
    /// The first error of this save.
    pub(super) failed: Option<i32>,
    /// The last save was not made: what a descriptor that is left would write is
    /// no continuation of anything, until it truncates (DESIGN 5).
    pub(super) is_void: bool,
    /// What the last save has replaced, for whoever keeps account of that; inside,
    /// `None` where there was no checkpoint.
    pub(super) replaced: Option<Option<Checkpoint>>,
    /// A save point has been made.
    pub(super) published: bool,
    /// It has gone over to another checkpoint, whose size the kernel may not know.
    pub(super) has_followed: bool,
    /// Why the last save was not made, if only another process than the
    /// opener has been told. Starting a program closes copies of what its
    /// parent has open: that close may be the last by a hair.
    pub(super) untold: Option<i32>,
    pub(super) handles: u32,
}

impl Writer {
    pub(in crate::fs) fn new(ino: u64, origin: Origin) -> Self {
        let (first_mode, first_umask) = match (origin.first_mode, &origin.base) {
            (Some(mode), _) => (mode, 0),
            (None, Some(_)) => (0o600, 0),
            (None, None) => of_first(origin.caller.tid),
        };
        Self {
            ino,
            shown: AtomicU64::new(ino),
            shown_before: AtomicU64::new(ino),
            node: AtomicU64::new(ino),
            is_nameless: AtomicBool::new(false),
            is_new: AtomicBool::new(origin.is_new),
            is_read_only: origin.is_read_only,
            only_appends: AtomicBool::new(origin.only_appends),
            device: origin.device,
            session: origin.session,
            directory: origin.directory,
            slot: origin.slot,
            activity: origin.activity,
            statistics: origin.statistics,
            lock_wait: origin.lock_wait,
            replaces: origin.replaces,
            opener: Process::of(origin.caller.tid),
            flushes: AtomicU64::new(0),
            caller: origin.caller,
            credentials: origin.credentials,
            first_mode,
            first_umask,
            first_owner: origin.first_owner,
            _share: origin.share,
            lost: AtomicI32::new(0),
            state: Mutex::new(State {
                base: origin.base,
                removed: origin.removed,
                ..State::default()
            }),
        }
    }

    pub(super) fn sought(&self) -> Sought {
        Sought {
            ino: self.node(),
            shown: self.shown(),
            shown_before: self.shown_before.load(Ordering::Relaxed),
            device: self.device.get().copied(),
            may_only_read: self.is_read_only,
        }
    }

    pub(super) fn lock(&self, patience: Patience) -> Result<MutexGuard<'_, State>> {
        match patience {
            Patience::Wait => Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner)),
            Patience::None => match self.state.try_lock() {
                Ok(state) => Ok(state),
                Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => Err(Fail::WouldBlock),
            },
        }
    }

    /// Whether it has been opened, and not been released.
    pub(in crate::fs) fn is_open(&self) -> bool {
        // Busy is open.
        !matches!(self.lock(Patience::None), Ok(state) if state.handles == 0)
    }

    pub(super) fn log_failure(&self, error: &repo::Error) {
        match error.kind() {
            Kind::Locked | Kind::Superseded | Kind::Forbidden | Kind::LockBroken => {
                log::warn!("{error}");
            }
            // Who was to be told is dead.
            _ if error.errno() == libc::EINTR => log::info!("{error}"),
            _ => log::error!("the save failed: {error}"),
        }
    }

    pub(super) fn log_if_failed<T>(&self, result: repo::Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.log_failure(&error);
            Fail::of(&error)
        })
    }

    /// A thread has written. What is written back from the page cache (a shared
    /// mapping) comes from nobody in particular, and counts as the opener's.
    pub(super) fn note_data(&self, state: &mut State, tid: u32) {
        let author = state.authors.note(tid);
        state.has_own_data |= !author.is_known() || author == self.opener;
    }

    /// Remembers the first error of this save, but not that it would wait, or
    /// was not waited for any more: then nothing has been lost.
    pub(super) fn keep_failure<T>(&self, state: &mut State, result: Result<T>) -> Result<T> {
        if let Err(Fail::Errno(errno)) = result
            && errno != libc::EINTR
            && state.failed.is_none()
        {
            state.failed = Some(errno);
            self.statistics.failed(self.session.name(), errno);
        }
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Normally long since free; a writer that was never opened, or whose
        // handles went with the mount, must not keep others out.
        self.slot.free(self.ino);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.staged.take().is_some() {
            self.activity.settled();
        }
    }
}

impl State {
    /// Nothing has been changed, and nothing has gone wrong.
    pub(super) fn is_untouched(&self) -> bool {
        self.staged.is_none() && self.failed.is_none() && self.killed.is_none() && !self.published
    }

    /// The base, open for reading; `None` if there is none.
    pub(super) fn base_file(&mut self) -> Result<Option<&File>> {
        let Some(base) = &self.base else {
            return Ok(None);
        };
        let file = match self.base_file.take() {
            Some(file) => file,
            None => base.open()?,
        };
        Ok(Some(self.base_file.insert(file)))
    }

    pub(super) fn set_base(&mut self, base: Option<Checkpoint>) {
        self.base = base;
        self.base_file = None;
    }
}

pub(super) fn staged(state: &State) -> Result<&Staged> {
    // `change` has just made it.
    state.staged.as_ref().ok_or(Fail::Errno(libc::EIO))
}
