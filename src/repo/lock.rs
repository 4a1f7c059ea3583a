//! `session.next`: the lock of a session, and its own.
//!
//! The original's rule is that whoever creates `session.next` may save, and
//! that a `session.next` left behind refuses every save until somebody breaks
//! the lock. Ours says more: it is *marked* before it gets its name, and
//! flock'ed by its owner for as long as it has it. Marked and not flock'ed
//! means that its owner is dead, and the next save removes it (I4). Unmarked
//! means that a foreign program made it, which takes no flock.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use super::checkpoint::FileId;
use super::error::{During, Error, Kind, Result};
use super::session::Session;
use crate::sys::{self, Errno, Mode, OFlags, Statx, XattrFlags};

/// The name of the lock in a session's directory.
pub const NEXT: &str = "session.next";

/// The extended attribute that marks a `session.next` of ours.
pub(super) const MARK: &CStr = c"user.sessionfs.staged";

/// Where extended attributes are missing, and on a file that has to be
/// created under its name: the sticky bit, which means nothing to Linux on a
/// regular file and which open(2) can give from the first moment on.
pub(super) const MARK_BIT: u32 = 0o1000;

/// How a file has been marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Xattr,
    Bit,
    /// The filesystem takes neither (vfat): a lock that a crash leaves looks
    /// foreign, and is broken by hand.
    None,
}

impl Mark {
    /// What has to stay in the mode while the file is marked.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Xattr | Self::None => 0,
            Self::Bit => MARK_BIT,
        }
    }
}

/// Marks an open file that has not got its name yet, or nothing in it: by the
/// attribute, and by the bit where the filesystem lacks that.
///
/// One that was created with [`MARK_BIT`] is marked: another mark, to take over
/// from that, might survive a power cut later than the loss of the first.
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
        // Some drop it in silence (bindfs).
        Ok(()) if mode()? & MARK_BIT != 0 => Ok(Mark::Bit),
        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Mark::None),
        Err(errno) => Err(errno),
    }
}

/// Whether this is the name of the attribute that marks a lock of ours.
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

/// A `session.next` that stands in the way of saves.
#[derive(Clone, Copy, Debug)]
pub struct Lock {
    stat: Statx,
    owner: LockOwner,
}

/// Who made a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOwner {
    /// Another program, which may be running or not: nobody can tell. Checkbox is
    /// one.
    Foreign,
    /// This library, in a process that is running: a save is being published.
    Living,
    /// This library, in a process that has ended; the next save removes the lock.
    Dead,
}

impl Lock {
    /// Who made it.
    pub fn owner(&self) -> LockOwner {
        self.owner
    }

    /// When it was written last: that is when it was made, as a rule.
    pub fn modified(&self) -> SystemTime {
        sys::modified(&self.stat)
    }

    /// What statx(2) says of the file.
    pub(crate) fn stat(&self) -> &Statx {
        &self.stat
    }
}

impl Session {
    /// Whether a save would be refused now because of a `session.next`. One
    /// whose owner has died is removed, and does not count.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn is_locked(&self) -> Result<bool> {
        is_held(self).map_err(|e| self.tell(e))
    }

    /// The `session.next` that stands in the way of saves, if there is one. It stays
    /// where it is, also if its owner has died, and no save is refused because
    /// somebody looks.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn lock(&self) -> Result<Option<Lock>> {
        find(self).map_err(|e| self.tell(e))
    }

    /// Removes a `session.next` that a save of this library has left whose process
    /// has died, and no other. Answers whether there was one.
    ///
    /// # Errors
    /// [`Kind::NotDurable`], and [`Kind::Os`] with the errno.
    pub fn remove_dead_lock(&self) -> Result<bool> {
        remove_dead(self).map_err(|e| self.tell(e))
    }

    /// Breaks the lock: removes `session.next`, whoever made it. A save that
    /// held it fails with [`Kind::LockBroken`]. Answers whether there was one.
    ///
    /// # Errors
    /// [`Kind::NotDurable`], and [`Kind::Os`] with the errno.
    pub fn break_lock(&self) -> Result<bool> {
        match sys::unlink(self.dir(), OsStr::new(NEXT)) {
            Ok(()) => self.sync_dir().map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).during("remove session.next"),
        }
        .map_err(|e| self.tell(e))
    }
}

/// The lock that stands there, which is left alone. A save that comes meanwhile
/// is not refused because of it ([`try_own`]).
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
            // A save removes it in this moment, or has published it.
            Flocked::Yes(file) if !is_named(session, &file)? => return Ok(None),
            Flocked::Yes(_) => LockOwner::Dead,
            Flocked::ByAnother | Flocked::Impossible => LockOwner::Living,
        };
        Ok(Some(Lock { stat, owner }))
    };
    look().during("look at session.next")
}

/// Removes a lock whose owner has died. Answers whether there was one.
pub(super) fn remove_dead(session: &Session) -> Result<bool> {
    match inspect(session).during("look at session.next")? {
        State::Free | State::Held => Ok(false),
        State::Dead(file) => {
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

/// What has the name of the lock.
struct Next {
    path: OwnedFd,
    stat: Statx,
    /// Whether a save of ours made it.
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
        // Removed meanwhile, where a file without a name is gone.
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What came of trying to flock a lock of ours.
enum Flocked {
    /// By this descriptor now.
    Yes(OwnedFd),
    ByAnother,
    /// Nobody can tell.
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
        // Not ours to judge, or gone by now.
        Err(Errno::ACCESS | Errno::PERM | Errno::STALE) => return Ok(Flocked::Impossible),
        other => other?,
    };
    match flock(file.as_fd()) {
        Ok(()) => Ok(Flocked::Yes(file)),
        Err(Errno::WOULDBLOCK) => Ok(Flocked::ByAnother),
        // Without flock(2) the dead look like the living.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::BADF) => {
            Ok(Flocked::Impossible)
        }
        Err(errno) => Err(errno),
    }
}

/// flock(2) for an owner, without waiting: `EWOULDBLOCK` when another one
/// lives. Who only [looks](find) has it shared, for a moment: that is waited
/// for.
pub(crate) fn try_own(file: BorrowedFd<'_>) -> sys::Result<()> {
    // Bounded, as a looker may be stopped in the middle of its look.
    const LOOKS: u32 = 100;
    for _ in 0..LOOKS {
        match sys::try_flock(file) {
            Err(Errno::WOULDBLOCK) => {}
            other => return other,
        }
        // Refused by an owner, not by a looker.
        sys::try_flock_shared(file)?;
        std::thread::yield_now();
    }
    Err(Errno::WOULDBLOCK)
}

/// The staged file where there is no `O_TMPFILE`: `session.next` from the
/// beginning, marked by the mode it is created with.
pub(super) fn create(session: &Session) -> Result<(OwnedFd, Mark)> {
    let mode = Mode::from_raw_mode(0o600 | MARK_BIT);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let create = || sys::openat(session.dir(), OsStr::new(NEXT), flags, mode);
    let mut file = create();
    if matches!(file, Err(Errno::EXIST)) && !is_held(session)? {
        file = create();
    }
    let file = match file {
        Err(Errno::EXIST) => return Err(Error::new(Kind::Locked, "stage", Errno::BUSY)),
        other => other.during("create session.next")?,
    };
    let held = own(file.as_fd());
    if held.as_ref().is_err_and(|e| e.kind() == Kind::Locked) {
        // It is theirs to remove now: by the time we did, the name could be
        // a third one's (I3).
        return held.map(|()| (file, Mark::None));
    }
    let named = || is_named(session, &file).during("look at session.next");
    let error = match held.and_then(|()| named()) {
        // Some filesystems drop the bit.
        Ok(true) => match mark(file.as_fd()).during("mark session.next") {
            Ok(mark) => return Ok((file, mark)),
            Err(error) => error,
        },
        // Taken for dead before it was flock'ed, and removed by now.
        Ok(false) => Error::new(Kind::Locked, "stage", Errno::BUSY),
        Err(error) => error,
    };
    if named().unwrap_or(false) {
        let _ = sys::unlink(session.dir(), OsStr::new(NEXT));
    }
    Err(error)
}

/// Says that the owner lives. A filesystem without flock(2) cannot tell the
/// dead from the living: there a leftover lock is broken by hand.
pub(super) fn own(file: BorrowedFd<'_>) -> Result<()> {
    match try_own(file) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        // Somebody took it for dead in the moment between its creation and
        // this call, and is about to remove it.
        Err(Errno::WOULDBLOCK) => Err(Error::new(Kind::Locked, "stage", Errno::BUSY)),
        Err(errno) => Err(errno).during("lock session.next"),
    }
}

/// What stands under the name of the lock, for whoever wants to have it.
enum State {
    Free,
    /// A foreign program's, or that of a living owner.
    Held,
    /// Ours, of an owner that died; flock'ed by the descriptor, so that nobody
    /// else concludes the same.
    Dead(OwnedFd),
}

fn inspect(session: &Session) -> sys::Result<State> {
    let Some(next) = next(session)? else {
        return Ok(State::Free);
    };
    if !next.ours {
        return Ok(State::Held);
    }
    // NFS gives an exclusive flock to descriptors for writing only (flock(2)).
    match open_for_flock(&next.path, &[OFlags::RDWR, OFlags::RDONLY], try_own)? {
        Flocked::Yes(file) if is_named(session, &file)? => Ok(State::Dead(file)),
        // It lost its name while we looked: whatever has it now is live.
        Flocked::Yes(_) | Flocked::ByAnother | Flocked::Impossible => Ok(State::Held),
    }
}

/// Whether `session.next` is the name of this very file.
pub(super) fn is_named(session: &Session, file: impl AsFd) -> sys::Result<bool> {
    let ours = match sys::fstat(file) {
        Ok(stat) => FileId::of(&stat),
        // Gone with its name.
        Err(Errno::STALE) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    match sys::stat(session.dir(), OsStr::new(NEXT)) {
        Ok(stat) => Ok(FileId::of(&stat) == ours),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether this very file is a `session.next` that a foreign program made,
/// who may publish it by a rename of its own. One of ours may be half written.
pub(super) fn is_foreign(session: &Session, file: impl AsFd) -> Result<bool> {
    let look = || {
        let file = file.as_fd();
        Ok(is_named(session, file)? && !is_marked(file, &sys::fstat(file)?)?)
    };
    look().during("look at session.next")
}

/// Whether a save would be refused now. A dead lock is removed on the way.
pub(super) fn is_held(session: &Session) -> Result<bool> {
    match inspect(session).during("look at session.next")? {
        State::Free => Ok(false),
        State::Held => Ok(true),
        State::Dead(file) => {
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
