//! The parts of a writer, and what becomes of its failures (DESIGN 2.3).

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
    /// The node id, from a range that no filesystem uses.
    pub(in crate::fs) ino: u64,
    /// The inode number that programs see: the checkpoint's, because many compare the
    /// number of the path with that of the opened file (vim, sqlite, crudini).
    pub(super) shown: AtomicU64,
    /// The number that was shown before it moved to another checkpoint.
    pub(super) shown_before: AtomicU64,
    /// The node by which the kernel knows it: its own, or that of the checkpoint whose
    /// node it shares.
    pub(super) node: AtomicU64,
    /// Its process has removed or replaced it: it has no name, and saves nothing.
    pub(super) is_nameless: AtomicBool,
    /// The opener created it, and it is not saved yet: the opener's path leads to it.
    pub(super) is_new: AtomicBool,
    /// Opened for reading, but created or truncated by that open.
    pub(super) is_read_only: bool,
    /// Opened only to append: it may start from any checkpoint.
    pub(super) only_appends: AtomicBool,
    /// The device of the mount.
    pub(super) device: Arc<OnceLock<(u32, u32)>>,
    pub(super) session: Session,
    /// The node of the session's directory.
    pub(super) directory: u64,
    pub(super) slot: Arc<Slot>,
    pub(super) activity: Arc<Activity>,
    pub(super) statistics: Arc<Statistics>,
    /// How long a change waits for another writer.
    pub(super) lock_wait: Duration,
    /// Opened with `O_TRUNC`: it replaces whatever is there (DESIGN 2.9).
    pub(super) replaces: bool,
    pub(super) opener: Process,
    /// How many FLUSHes have come so far.
    pub(super) flushes: AtomicU64,
    /// The thread that opened it.
    pub(super) caller: Caller,
    /// The opener's credentials at the time of the open.
    pub(super) credentials: Credentials,
    pub(super) first_mode: u32,
    pub(super) first_umask: u32,
    pub(super) first_owner: (u32, u32),
    /// Its descriptors in its user's share.
    pub(super) _share: Share,
    /// The errno of a piece that was lost, until the writer fails with it; 0 for none.
    pub(super) lost: AtomicI32,
    pub(super) state: Mutex<WriterState>,
}

/// The values a writer is made from.
#[derive(Debug)]
pub(in crate::fs) struct Origin {
    pub(in crate::fs) share: Share,
    pub(in crate::fs) device: Arc<OnceLock<(u32, u32)>>,
    pub(in crate::fs) session: Session,
    /// The node of the session's directory.
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
    /// Whether it was opened only to append.
    pub(in crate::fs) only_appends: bool,
    /// The thread that opens it.
    pub(in crate::fs) caller: Caller,
    /// The opener's credentials.
    pub(in crate::fs) credentials: Credentials,
    /// The mode of a first checkpoint, if the kernel has given one.
    pub(in crate::fs) first_mode: Option<u32>,
    /// Owner and group of a first checkpoint.
    pub(in crate::fs) first_owner: (u32, u32),
}

#[derive(Debug, Default)]
pub(super) struct WriterState {
    /// The checkpoint this writer started from, or the one it made last.
    pub(super) base: Option<Checkpoint>,
    /// The checkpoint that its opener has removed (DESIGN 2.12).
    pub(super) removed: Option<Checkpoint>,
    /// The checkpoint whose number is shown, kept open so that the number is not reused.
    pub(super) shown_base: Option<Checkpoint>,
    /// The base, opened for reading when first needed.
    pub(super) base_file: Option<File>,
    /// What it has written. `None` while nothing has changed.
    pub(super) staged: Option<Staged>,
    /// Whether what is staged keeps the setuid and setgid bits of its base.
    pub(super) keeps_privileges: bool,
    /// The processes that have written.
    pub(super) authors: Authors,
    /// The processes that may have the file open besides its opener.
    pub(super) kin: Kin,
    /// Whether the opener has written data itself, not only truncated.
    pub(super) has_own_data: bool,
    /// Whether any process has written, since the last save.
    pub(super) has_data: bool,
    /// Whether the kernel has written back mapped pages, since the last save. Which
    /// process has changed them is not known.
    pub(super) is_written_back: bool,
    /// The author that was killed, for the log: this save must not be made.
    pub(super) killed: Option<String>,
    /// The first error of this save.
    pub(super) failed: Option<i32>,
    /// The last save failed. What a descriptor that is still open writes continues
    /// nothing, until it truncates to 0 (DESIGN 5).
    pub(super) is_void: bool,
    /// What the last save has replaced, for the caller that keeps account of that; the
    /// inner `None` if there was no checkpoint.
    pub(super) replaced: Option<Option<Checkpoint>>,
    /// A save point has been made.
    pub(super) published: bool,
    /// It has moved to another checkpoint, whose size the kernel may not know.
    pub(super) has_followed: bool,
    /// The error of the last save, if only another process than the opener has got it. A
    /// program that is started closes the copies of its parent's descriptors, and by
    /// chance such a close may be the last.
    pub(super) unreported: Option<i32>,
    pub(super) handles: u32,
}

impl Writer {
    pub(in crate::fs) fn new(ino: u64, origin: Origin) -> Self {
        let (first_mode, first_umask) = match (origin.first_mode, &origin.base) {
            (Some(mode), _) => (mode, 0),
            (None, Some(_)) => (0o600, 0),
            (None, None) => of_first(origin.caller.tid),
        };
        let mut authors = Authors::default();
        let opener = authors.opens(origin.caller.tid);
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
            opener,
            flushes: AtomicU64::new(0),
            caller: origin.caller,
            credentials: origin.credentials,
            first_mode,
            first_umask,
            first_owner: origin.first_owner,
            _share: origin.share,
            lost: AtomicI32::new(0),
            state: Mutex::new(WriterState {
                base: origin.base,
                removed: origin.removed,
                authors,
                ..WriterState::default()
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

    pub(super) fn lock(&self, patience: Patience) -> Result<MutexGuard<'_, WriterState>> {
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
        // A writer that is busy is open.
        !matches!(self.lock(Patience::None), Ok(state) if state.handles == 0)
    }

    pub(super) fn log_failure(&self, error: &repo::Error) {
        match error.kind() {
            Kind::Locked | Kind::Superseded | Kind::Forbidden | Kind::LockBroken => {
                log::warn!("{error}");
            }
            // The caller that would have got the error was killed.
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

    /// Notes that a thread has written. A shared mapping is written back by the kernel,
    /// for no known process, and counts as the opener's data.
    pub(super) fn note_data(&self, state: &mut WriterState, tid: u32) {
        let author = state.authors.note(tid);
        state.has_own_data |= !author.is_known() || author == self.opener;
        state.has_data = true;
        state.is_written_back |= !author.is_known();
    }

    /// Remembers the first error of this save. `WouldBlock` and `EINTR` are not
    /// remembered: nothing has been lost then.
    pub(super) fn keep_failure<T>(&self, state: &mut WriterState, result: Result<T>) -> Result<T> {
        if let Err(Fail::Errno(errno)) = result
            && errno != libc::EINTR
            && state.failed.is_none()
        {
            state.failed = Some(errno);
            self.statistics.failed(&self.session, errno);
        }
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Normally the slot is free by now. A writer that was never opened, or whose
        // handles went away with the mount, must not keep others out.
        self.slot.free(self.ino);
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.staged.take().is_some() {
            self.activity.settled();
        }
    }
}

impl WriterState {
    /// Nothing has been changed, and nothing has failed.
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

pub(super) fn staged(state: &WriterState) -> Result<&Staged> {
    // The caller has called `change`, which stages.
    state.staged.as_ref().ok_or(Fail::Errno(libc::EIO))
}
