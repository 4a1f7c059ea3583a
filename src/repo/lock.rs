//! `session.next`: the lock of a session, and its owner.
//!
//! The original's rule: a program that creates `session.next` may save, and a
//! `session.next` left behind refuses every save until the lock is broken. A lock of this
//! library says more. It is *marked* before it gets its name, and its owner has a flock
//! on it as long as it has its name. Marked and not flock'ed means that the owner is
//! dead: the next save removes it (I4). Unmarked means that a foreign program made it,
//! which takes no flock.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use super::checkpoint::FileId;
use super::error::{During, Error, Kind, Result};
use super::session::Session;
use crate::sys::{self, Errno, Mode, OFlags, Statx, XattrFlags};

/// The name of the lock in a session's directory.
pub const NEXT: &str = "session.next";

/// The extended attribute that marks a `session.next` of this library.
pub(super) const MARK: &CStr = c"user.sessionfs.staged";

/// The mark where there are no extended attributes, and for a file that is created under
/// its name: the sticky bit, which means nothing to Linux on a regular file, and which
/// open(2) can set at the creation.
pub(super) const MARK_BIT: u32 = 0o1000;

/// How a file is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Xattr,
    Bit,
    /// In no way, as the filesystem keeps neither (vfat): a lock that a crash leaves
    /// behind looks foreign, and must be broken by hand.
    None,
}

impl Mark {
    /// The bits that must stay in the mode while the file is marked.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Xattr | Self::None => 0,
            Self::Bit => MARK_BIT,
        }
    }
}

/// Marks an open file that has no name, or no content, yet: by the attribute, or by the
/// bit if the filesystem has no attributes.
///
/// A file created with [`MARK_BIT`] is marked already, and gets no other mark instead:
/// after a power cut, the first mark might be lost and the second one not yet there.
pub(super) fn mark(fd: BorrowedFd<'_>) -> sys::Result<Mark> {
    if sys::defect::has(sys::defect::Defect::Unmarked) {
        return Ok(Mark::None);
    }
    if u32::from(sys::fstat(fd)?.stx_mode) & MARK_BIT != 0 {
        return Ok(Mark::Bit);
    }
    match mark_by_attribute(fd)? {
        Mark::None => mark_by_bit(fd),
        mark => Ok(mark),
    }
}

fn mark_by_attribute(fd: BorrowedFd<'_>) -> sys::Result<Mark> {
    match sys::set_xattr(fd, MARK, b"", XattrFlags::empty()) {
        Ok(()) => Ok(Mark::Xattr),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Mark::None),
        Err(errno) => Err(errno),
    }
}

/// Marks it with [`MARK_BIT`], if the filesystem keeps that.
pub(super) fn mark_by_bit(fd: BorrowedFd<'_>) -> sys::Result<Mark> {
    let mode = || Ok(u32::from(sys::fstat(fd)?.stx_mode) & 0o7777);
    match sys::chmod(fd, Mode::from_raw_mode(mode()? | MARK_BIT)) {
        // Some filesystems drop it without an error (bindfs).
        Ok(()) if mode()? & MARK_BIT != 0 => Ok(Mark::Bit),
        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Mark::None),
        Err(errno) => Err(errno),
    }
}

/// Whether this is the name of the attribute that is our mark.
pub(crate) fn is_mark(name: &CStr) -> bool {
    name == MARK
}

fn is_marked(fd: BorrowedFd<'_>, stat: &Statx) -> sys::Result<bool> {
    if u32::from(stat.stx_mode) & MARK_BIT != 0 {
        return Ok(true);
    }
    match sys::get_xattr(fd, MARK) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS | Errno::ACCESS | Errno::PERM) => {
            Ok(false)
        }
        Err(errno) => Err(errno),
    }
}

/// A `session.next` that prevents saves.
#[derive(Clone, Copy, Debug)]
pub struct Lock {
    stat: Statx,
    owner: LockOwner,
}

/// The program that made a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOwner {
    /// Another program, such as Checkbox. Whether it is still running is unknown.
    Foreign,
    /// This library, in a running process: a save is being published.
    Living,
    /// This library, in a process that has ended: the next save removes the lock.
    Dead,
}

impl Lock {
    /// The program that made it.
    pub fn owner(&self) -> LockOwner {
        self.owner
    }

    /// When it was written last: normally when it was made.
    pub fn modified(&self) -> SystemTime {
        sys::modified(&self.stat)
    }

    /// The status of the file, from statx(2).
    pub(crate) fn stat(&self) -> &Statx {
        &self.stat
    }
}

impl Session {
    /// Whether a `session.next` would refuse a save now. A dead one is removed, and does
    /// not count.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn is_locked(&self) -> Result<bool> {
        is_locked(self).map_err(|e| self.tell(e))
    }

    /// The `session.next` that prevents saves, if there is one. It is not removed, even
    /// if its owner is dead, and no save is refused because of this look.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn lock(&self) -> Result<Option<Lock>> {
        find(self).map_err(|e| self.tell(e))
    }

    /// Removes a `session.next` of this library whose process is dead, and no other.
    /// Returns whether there was one.
    ///
    /// # Errors
    /// [`Kind::NotDurable`], and [`Kind::Os`] with the errno.
    pub fn remove_dead_lock(&self) -> Result<bool> {
        remove_dead(self).map_err(|e| self.tell(e))
    }

    /// Breaks the lock: removes `session.next`, whatever made it. The save that it
    /// belongs to fails with [`Kind::LockBroken`]. Returns whether there was one.
    ///
    /// # Errors
    /// [`Kind::NotDurable`], and [`Kind::Os`] with the errno.
    pub fn break_lock(&self) -> Result<bool> {
        let unlink = || sys::unlink(self.dir(), OsStr::new(NEXT));
        match self.change_names(&[self.dir()], unlink) {
            Ok(()) => self.sync_dir().map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).during("remove session.next"),
        }
        .map_err(|e| self.tell(e))
    }
}

/// The lock, if there is one, which is not changed. A save that comes meanwhile is not
/// refused because of this look ([`try_own`]).
pub(super) fn find(session: &Session) -> Result<Option<Lock>> {
    let look = || {
        let Some(Next { path, stat, ours }) = next(session)? else {
            return Ok(None);
        };
        if !ours {
            let owner = LockOwner::Foreign;
            return Ok(Some(Lock { stat, owner }));
        }
        let look = |file: BorrowedFd<'_>| sys::try_flock_shared(file);
        let owner = match open_for_flock(&path, &[OFlags::RDONLY], look)? {
            // A save is just removing it, or has published it.
            Flocked::Yes(file) if !is_named(session, &file)? => return Ok(None),
            Flocked::Yes(_) => LockOwner::Dead,
            Flocked::ByAnother | Flocked::Impossible => LockOwner::Living,
        };
        Ok(Some(Lock { stat, owner }))
    };
    look().during("look at session.next")
}

/// Removes a lock whose owner is dead. Returns whether there was one.
pub(super) fn remove_dead(session: &Session) -> Result<bool> {
    match inspect(session).during("look at session.next")? {
        LockState::Free | LockState::Alive => Ok(false),
        LockState::Dead(file) => {
            let removed = sys::unlink(session.dir(), OsStr::new(NEXT));
            drop(file);
            match removed {
                Ok(()) => session.sync_dir().map(|()| true),
                Err(Errno::NOENT) => Ok(false),
                Err(errno) => Err(errno).during("remove a dead session.next"),
            }
        }
    }
}

/// The file `session.next`.
struct Next {
    path: OwnedFd,
    stat: Statx,
    /// Whether a save of this library made it.
    ours: bool,
}

fn next(session: &Session) -> sys::Result<Option<Next>> {
    let path = match sys::open_path(session.dir(), OsStr::new(NEXT)) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let look = || {
        let stat = sys::fstat(&path)?;
        let regular = sys::is_file(&stat);
        let ours = regular && is_marked(path.as_fd(), &stat)?;
        Ok((stat, ours))
    };
    match look() {
        Ok((stat, ours)) => Ok(Some(Next { path, stat, ours })),
        // Removed meanwhile; ESTALE on filesystems where a file without a name is gone.
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The result of a flock on a lock of ours.
enum Flocked {
    /// This descriptor has it now.
    Yes(OwnedFd),
    ByAnother,
    /// It cannot be tried.
    Impossible,
}

/// Opens with the first of `flags` that the filesystem allows.
fn open_for_flock(
    path: &OwnedFd,
    flags: &[OFlags],
    flock: impl Fn(BorrowedFd<'_>) -> sys::Result<()>,
) -> sys::Result<Flocked> {
    let mut file = Err(Errno::ACCESS);
    for &flags in flags {
        file = sys::reopen(path, flags);
        if !matches!(file, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS)) {
            break;
        }
    }
    let file = match file {
        // We may not look, or it is gone by now.
        Err(Errno::ACCESS | Errno::PERM | Errno::STALE) => return Ok(Flocked::Impossible),
        other => other?,
    };
    match flock(file.as_fd()) {
        Ok(()) => Ok(Flocked::Yes(file)),
        Err(Errno::WOULDBLOCK) => Ok(Flocked::ByAnother),
        // Without flock(2), dead owners cannot be told from living ones.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::BADF) => {
            Ok(Flocked::Impossible)
        }
        Err(errno) => Err(errno),
    }
}

/// flock(2) for an owner, without waiting: `EWOULDBLOCK` if another owner has it. A
/// process that only [looks](find) has it shared, for a moment, for which this waits.
pub(crate) fn try_own(file: BorrowedFd<'_>) -> sys::Result<()> {
    // Bounded, because a process may be stopped in the middle of its look.
    const LOOKS: u32 = 100;
    for _ in 0..LOOKS {
        match sys::try_flock(file) {
            Err(Errno::WOULDBLOCK) => {}
            other => return other,
        }
        // Fails if an owner has it; a process that looks does not refuse this.
        sys::try_flock_shared(file)?;
        std::thread::yield_now();
    }
    Err(Errno::WOULDBLOCK)
}

/// The staged file where there is no `O_TMPFILE`: `session.next` from the beginning,
/// marked by the mode with which it is created.
pub(super) fn create(session: &Session) -> Result<(OwnedFd, Mark)> {
    let mode = Mode::from_raw_mode(0o600 | MARK_BIT);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let create = || sys::openat(session.dir(), OsStr::new(NEXT), flags, mode);
    let mut file = create();
    if matches!(file, Err(Errno::EXIST)) && !is_locked(session)? {
        file = create();
    }
    let file = match file {
        Err(Errno::EXIST) => return Err(Error::new(Kind::Locked, "stage", Errno::BUSY)),
        other => other.during("create session.next")?,
    };
    let owned = own(file.as_fd());
    if owned.as_ref().is_err_and(|e| e.kind() == Kind::Locked) {
        // Another save has taken it for dead, and will remove it. If we did, the name
        // might already belong to a third save (I3).
        return owned.map(|()| (file, Mark::None));
    }
    let named = || is_named(session, &file).during("look at session.next");
    let error = match owned.and_then(|()| named()) {
        // Some filesystems drop the bit.
        Ok(true) => match mark(file.as_fd()).during("mark session.next") {
            Ok(mark) => return Ok((file, mark)),
            Err(error) => error,
        },
        // It was taken for dead before its flock, and is removed by now.
        Ok(false) => Error::new(Kind::Locked, "stage", Errno::BUSY),
        Err(error) => error,
    };
    if named().unwrap_or(false) {
        let _ = sys::unlink(session.dir(), OsStr::new(NEXT));
    }
    Err(error)
}

/// Takes the flock that says that the owner is alive. Without flock(2), the dead cannot
/// be told from the living: then a leftover lock must be broken by hand.
pub(super) fn own(file: BorrowedFd<'_>) -> Result<()> {
    match try_own(file) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        // Another save took it for dead between its creation and this call, and is about
        // to remove it.
        Err(Errno::WOULDBLOCK) => Err(Error::new(Kind::Locked, "stage", Errno::BUSY)),
        Err(errno) => Err(errno).during("lock session.next"),
    }
}

/// What a save finds under the name of the lock.
enum LockState {
    Free,
    /// The lock of a foreign program, or of a living owner.
    Alive,
    /// Ours, of a dead owner. This descriptor has a flock on it, so that no other save
    /// concludes the same.
    Dead(OwnedFd),
}

fn inspect(session: &Session) -> sys::Result<LockState> {
    let Some(next) = next(session)? else {
        return Ok(LockState::Free);
    };
    if !next.ours {
        return Ok(LockState::Alive);
    }
    // NFS allows an exclusive flock only for descriptors open for writing (flock(2)).
    match open_for_flock(&next.path, &[OFlags::RDWR, OFlags::RDONLY], try_own)? {
        Flocked::Yes(file) if is_named(session, &file)? => Ok(LockState::Dead(file)),
        // It lost its name meanwhile: another file, which is alive, has it now.
        Flocked::Yes(_) | Flocked::ByAnother | Flocked::Impossible => Ok(LockState::Alive),
    }
}

/// Whether `session.next` is the name of this file.
pub(super) fn is_named(session: &Session, file: impl AsFd) -> sys::Result<bool> {
    let ours = match sys::fstat(file) {
        Ok(stat) => FileId::of(&stat),
        // It is gone with its name.
        Err(Errno::STALE) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    match sys::stat(session.dir(), OsStr::new(NEXT)) {
        Ok(stat) => Ok(FileId::of(&stat) == ours),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether this file is a `session.next` that a foreign program made, which may publish
/// it by its own rename. A file of ours may be incomplete.
pub(super) fn is_foreign(session: &Session, file: impl AsFd) -> Result<bool> {
    let look = || {
        let file = file.as_fd();
        Ok(is_named(session, file)? && !is_marked(file, &sys::fstat(file)?)?)
    };
    look().during("look at session.next")
}

/// Whether a save would be refused now. A dead lock is removed first.
pub(super) fn is_locked(session: &Session) -> Result<bool> {
    match inspect(session).during("look at session.next")? {
        LockState::Free => Ok(false),
        LockState::Alive => Ok(true),
        LockState::Dead(file) => {
            log::warn!(
                "{}: removing session.next, whose owner died before it was published",
                session.name()
            );
            match sys::unlink(session.dir(), OsStr::new(NEXT)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).during("remove a dead session.next"),
            }
            drop(file);
            Ok(false)
        }
    }
}
