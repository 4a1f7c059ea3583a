//! A writer: one open for writing of a checkpoint, from its first change to
//! its last close.
//!
//! Until the first change it shows the checkpoint it started from, and takes
//! nobody's place. The first change takes the session's slot and stages; the
//! last close commits (DESIGN 5), and so does every fsync on the way. What
//! went wrong once stays wrong until the writer begins anew by truncating:
//! a save of which a piece was lost is never published.

mod attributes;
mod authors;
mod close;
mod follow;
mod name;
mod saving;
mod staging;
mod wait;

use super::request::Patience;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub(super) use self::attributes::empty_attr;
use self::authors::Authors;
use self::staging::Keep;
pub(super) use self::staging::QUICK_COPY;
pub(super) use self::wait::Wait;
use super::activity::Activity;
use super::credentials::Credentials;
use super::errno::{Fail, Result};
use super::replaced::Replacements;
use super::shares::Share;
use super::slot::Slot;
use super::statistics::Statistics;
use super::{Caller, umask};
use crate::proc::identity::Process;
use crate::proc::kin::Kin;
use crate::proc::table::Sought;
use crate::repo::{self, Checkpoint, Kind, Session, Staged};
use crate::sys;

/// How long a write looks for room on a full disk: a little longer than what is still
/// being read is looked at (`replaced`).
const ROOM_TIME: Duration = Duration::from_millis(1200);

/// An open for writing, with all descriptors that go back to it.
#[derive(Debug)]
pub(super) struct Writer {
    /// The node id, of a range that no filesystem uses.
    pub(super) ino: u64,
    /// The inode number that programs see. Many compare that of the path with
    /// that of what they have opened (vim, sqlite, crudini): it is the
    /// checkpoint's.
    shown: AtomicU64,
    /// What they have seen before it has gone over to another checkpoint.
    shown_before: AtomicU64,
    /// The node that the kernel knows it by: its own, or that of the checkpoint
    /// that it shares with readers.
    node: AtomicU64,
    /// It has lost its name to its own process: it is a file without one, and
    /// no save.
    is_nameless: AtomicBool,
    /// Made where the opener found nothing: to it the path leads here.
    is_new: bool,
    /// Opened for reading, and made or truncated by that.
    is_read_only: bool,
    /// Opened to append, and for nothing else: where it starts from does not matter.
    only_appends: AtomicBool,
    /// The device of the mount.
    device: Arc<OnceLock<(u32, u32)>>,
    session: Session,
    /// The node of its directory.
    directory: u64,
    replacements: Arc<Replacements>,
    slot: Arc<Slot>,
    activity: Arc<Activity>,
    statistics: Arc<Statistics>,
    /// How long a change waits for another writer.
    lock_wait: Duration,
    /// Opened with `O_TRUNC`: it replaces whatever is there (DESIGN 2.9).
    replaces: bool,
    opener: Process,
    /// The FLUSHes that have come so far.
    flushes: AtomicU64,
    /// The thread that opened it.
    caller: Caller,
    /// Its ids, as they were then.
    credentials: Credentials,
    first_mode: u32,
    first_umask: u32,
    first_owner: (u32, u32),
    /// Its descriptors, in the share of its user.
    _share: Share,
    /// The errno of a piece that it lacks, which it has not been told of.
    lost: AtomicI32,
    state: Mutex<State>,
}

/// What a writer is made of.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) share: Share,
    pub(super) device: Arc<OnceLock<(u32, u32)>>,
    pub(super) session: Session,
    /// The node of its directory.
    pub(super) directory: u64,
    pub(super) replacements: Arc<Replacements>,
    /// The checkpoint it starts from.
    pub(super) base: Option<Checkpoint>,
    pub(super) slot: Arc<Slot>,
    pub(super) activity: Arc<Activity>,
    pub(super) statistics: Arc<Statistics>,
    pub(super) lock_wait: Duration,
    /// The checkpoint that its opener has removed to make this one.
    pub(super) removed: Option<Checkpoint>,
    /// Whether it was opened with `O_TRUNC`.
    pub(super) replaces: bool,
    /// Whether it was made where the opener found nothing.
    pub(super) is_new: bool,
    /// Whether it was opened for reading.
    pub(super) is_read_only: bool,
    /// Whether it was opened to append, and for nothing else.
    pub(super) only_appends: bool,
    /// The thread that opens it.
    pub(super) caller: Caller,
    /// Its ids.
    pub(super) credentials: Credentials,
    /// Mode of a first checkpoint, if the kernel has told it.
    pub(super) first_mode: Option<u32>,
    /// Owner and group of a first checkpoint.
    pub(super) first_owner: (u32, u32),
}

#[derive(Debug, Default)]
struct State {
    /// The checkpoint this writer started from, or the one it made last.
    base: Option<Checkpoint>,
    /// The checkpoint that is to be there no more (DESIGN 2.12).
    removed: Option<Checkpoint>,
    /// The checkpoint whose number is shown, kept so that no other file gets
    /// the number meanwhile.
    shown_base: Option<Checkpoint>,
    /// The base, opened for reading when that was needed first.
    base_file: Option<File>,
    /// What it has written. `None` while nothing has changed.
    staged: Option<Staged>,
    /// Whether what is staged keeps the setuid and setgid bits of its base.
    keeps_privileges: bool,
    /// The processes that have written.
    authors: Authors,
    /// The processes that may hold the file besides its opener.
    kin: Kin,
    /// Whether the opener has written anything itself, not only cut it off.
    has_own_data: bool,
    /// One that wrote was killed, in words: this save is not to be.
    killed: Option<String>,
    /// The first error of this save.
    failed: Option<i32>,
    /// The last save was not made: what a descriptor that is left would write is
    /// no continuation of anything, until it truncates (DESIGN 5).
    is_void: bool,
    /// A save point has been made.
    published: bool,
    /// It has gone over to another checkpoint, whose size the kernel may not know.
    has_followed: bool,
    /// Why the last save was not made, if only another process than the
    /// opener has been told. Starting a program closes copies of what its
    /// parent has open: that close may be the last by a hair.
    untold: Option<i32>,
    handles: u32,
}

impl Writer {
    pub(super) fn new(ino: u64, origin: Origin) -> Self {
        let (first_mode, first_umask) = match (origin.first_mode, &origin.base) {
            (Some(mode), _) => (mode, 0),
            (None, Some(_)) => (0o600, 0),
            (None, None) => umask::of_first(origin.caller.tid),
        };
        Self {
            ino,
            shown: AtomicU64::new(ino),
            shown_before: AtomicU64::new(ino),
            node: AtomicU64::new(ino),
            is_nameless: AtomicBool::new(false),
            is_new: origin.is_new,
            is_read_only: origin.is_read_only,
            only_appends: AtomicBool::new(origin.only_appends),
            device: origin.device,
            session: origin.session,
            directory: origin.directory,
            replacements: origin.replacements,
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

    fn sought(&self) -> Sought {
        Sought {
            ino: self.node(),
            shown: self.shown(),
            shown_before: self.shown_before.load(Ordering::Relaxed),
            device: self.device.get().copied(),
            may_only_read: self.is_read_only,
        }
    }

    fn lock(&self, patience: Patience) -> Result<MutexGuard<'_, State>> {
        match patience {
            Patience::Wait => Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner)),
            Patience::None => match self.state.try_lock() {
                Ok(state) => Ok(state),
                Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => Err(Fail::WouldBlock),
            },
        }
    }

    /// Another handle on it, for the thread `tid`. With `O_TRUNC` the checkpoint is
    /// as good as replaced: the slot is taken and `EBUSY` told now.
    pub(super) fn open(
        &self,
        truncate: bool,
        tid: u32,
        wait: Wait,
        patience: Patience,
    ) -> Result<()> {
        let mut state = self.lock(patience)?;
        if state.handles > 0 {
            state.kin.add(Process::of(tid));
        }
        if truncate {
            let truncated = self.truncate(&mut state, 0, wait, patience);
            if let Err(Fail::Errno(errno)) = truncated
                && errno != libc::EINTR
            {
                self.statistics.failed(self.session.name(), errno);
            }
            truncated?;
            state.authors.note(tid);
            self.drop_privileges(&mut state)?;
        }
        state.handles += 1;
        Ok(())
    }

    /// Whether it has been opened, and not been released.
    pub(super) fn is_open(&self) -> bool {
        // Busy is open.
        !matches!(self.lock(Patience::None), Ok(state) if state.handles == 0)
    }

    /// Reads from what this writer has written so far; the bytes read.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64, patience: Patience) -> Result<usize> {
        let mut state = self.lock(patience)?;
        if let Some(staged) = &state.staged {
            return Ok(staged.read_at(buffer, at)?);
        }
        match state.base_file()? {
            Some(file) => Ok(sys::read_at(file, buffer, at)?),
            None => Ok(0),
        }
    }

    /// Writes all of `bytes`, for the thread `tid`. Where to, the kernel says; but
    /// of what shares its node with readers it does not know the end.
    pub(super) fn write(
        &self,
        bytes: &[u8],
        at: u64,
        appends: bool,
        tid: u32,
        patience: Patience,
    ) -> Result<()> {
        let mut state = self.lock(patience)?;
        let written = self
            .change(&mut state, Keep::all(tid), patience)
            .and_then(|()| {
                let staged = staged(&state)?;
                // The end that the kernel knows may be that of the checkpoint.
                let at_end = appends && (self.is_shared() || state.has_followed);
                let at = if at_end { staged.stat()?.stx_size } else { at };
                let _acting = self.credentials.begin()?;
                self.write_where_room(staged, bytes, at, patience)
            });
        self.note_data(&mut state, tid);
        self.keep_failure(&mut state, written)
    }

    /// A full disk may have room in a moment: what a save has replaced is held for a
    /// while after its last reader has closed it (`replaced`), and RELEASE comes
    /// after close(2) has returned.
    fn write_where_room(
        &self,
        staged: &Staged,
        bytes: &[u8],
        at: u64,
        patience: Patience,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            match staged.write_at(bytes, at) {
                Err(error) if error.errno() == libc::ENOSPC && patience == Patience::None => {
                    return Err(Fail::WouldBlock);
                }
                Err(error) if error.errno() == libc::ENOSPC && start.elapsed() < ROOM_TIME => {
                    std::thread::sleep(ROOM_TIME / 50);
                }
                written => return self.log_if_failed(written),
            }
        }
    }

    /// A piece could not be kept, for this reason: what it lacks is never
    /// published. Waits for nobody.
    pub(super) fn lose(&self, why: sys::Errno) {
        self.lost.store(why.raw_os_error(), Ordering::SeqCst);
    }

    /// Changes a range of the content, for the thread `tid`: a change like a
    /// write. An error among `harmless` has lost nothing: it is told, and
    /// otherwise as if the change had not been asked for.
    pub(super) fn change_range<T>(
        &self,
        tid: u32,
        patience: Patience,
        harmless: &[i32],
        change: impl FnOnce(&Staged) -> repo::Result<T>,
    ) -> Result<T> {
        let mut state = self.lock(patience)?;
        let is_first = state.staged.is_none();
        let changed = self
            .change(&mut state, Keep::all(tid), patience)
            .and_then(|()| {
                let _acting = self.credentials.begin()?;
                match change(staged(&state)?) {
                    Err(error) if harmless.contains(&error.errno()) => Ok(Err(Fail::of(&error))),
                    other => Ok(Ok(self.log_if_failed(other)?)),
                }
            });
        if let Ok(Err(_)) = changed
            && is_first
        {
            self.unstage(&mut state);
        } else {
            self.note_data(&mut state, tid);
        }
        self.keep_failure(&mut state, changed)?
    }

    /// Looks at what has been written so far; `None` where there is nothing.
    pub(super) fn with_content<T>(
        &self,
        patience: Patience,
        look: impl FnOnce(Option<BorrowedFd<'_>>) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.lock(patience)?;
        let reader = state.staged.as_ref().map(Staged::reader).transpose()?;
        match reader {
            Some(reader) => look(Some(reader.as_fd())),
            None => look(state.base_file()?.map(AsFd::as_fd)),
        }
    }

    fn log_failure(&self, error: &repo::Error) {
        match error.kind() {
            Kind::Locked | Kind::Superseded | Kind::Forbidden | Kind::LockBroken => {
                log::warn!("{error}");
            }
            // Who was to be told is dead.
            _ if error.errno() == libc::EINTR => log::info!("{error}"),
            _ => log::error!("the save failed: {error}"),
        }
    }

    fn log_if_failed<T>(&self, result: repo::Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.log_failure(&error);
            Fail::of(&error)
        })
    }

    /// A thread has written. What is written back from the page cache (a shared
    /// mapping) comes from nobody in particular, and counts as the opener's.
    fn note_data(&self, state: &mut State, tid: u32) {
        let author = state.authors.note(tid);
        state.has_own_data |= !author.is_known() || author == self.opener;
    }

    /// Remembers the first error of this save, but not that it would wait, or
    /// was not waited for any more: then nothing has been lost.
    fn keep_failure<T>(&self, state: &mut State, result: Result<T>) -> Result<T> {
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
    fn is_untouched(&self) -> bool {
        self.staged.is_none() && self.failed.is_none() && self.killed.is_none() && !self.published
    }

    /// The base, open for reading; `None` if there is none.
    fn base_file(&mut self) -> Result<Option<&File>> {
        let Some(base) = &self.base else {
            return Ok(None);
        };
        let file = match self.base_file.take() {
            Some(file) => file,
            None => base.open()?,
        };
        Ok(Some(self.base_file.insert(file)))
    }

    fn set_base(&mut self, base: Option<Checkpoint>) {
        self.base = base;
        self.base_file = None;
    }
}

fn staged(state: &State) -> Result<&Staged> {
    // `change` has just made it.
    state.staged.as_ref().ok_or(Fail::Errno(libc::EIO))
}
