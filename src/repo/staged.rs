//! A save in progress: the staged file and the commit path of DESIGN 3.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::checkpoint::{Checkpoint, FileId};
use super::error::{During, Error, Kind, Result};
use super::lock::{self, MARK, Mark, NEXT};
use super::session::{CHECKPOINT, Session};
use super::{Attributes, attributes};
use crate::sys::{self, Errno, Mode, OFlags, RenameFlags};

/// Which checkpoint a save may replace.
#[derive(Debug)]
pub enum Base<'a> {
    /// Whatever is there (the writer had truncated).
    Any,
    /// Only the checkpoint that the writer started from, or none if there was
    /// none: a lost update is refused (DESIGN 2.9).
    Only(Option<&'a Checkpoint>),
}

/// What a save has done.
#[derive(Debug)]
pub struct Committed {
    /// The new checkpoint.
    pub new: Checkpoint,
    /// The one it has replaced; `None` if there was none, or if the writer had
    /// removed it before.
    pub replaced: Option<Checkpoint>,
}

/// How a staged file becomes the checkpoint. The default replaces whatever is
/// there and keeps its attributes.
#[derive(Debug)]
pub struct Commit<'a> {
    /// What it may replace.
    pub base: Base<'a>,
    /// What the writer has removed before: if that is what it replaces, it
    /// makes a first checkpoint, and nothing is kept (DESIGN 2.12).
    pub removed: Option<&'a Checkpoint>,
    /// What the writer has set, over what is kept of the replaced checkpoint.
    pub attributes: Attributes,
    /// Permission bits of a first checkpoint; by default 0644 less the umask.
    pub first_mode: u32,
    /// Owner and group of a first checkpoint; by default the process's own.
    pub first_owner: Option<(u32, u32)>,
}

impl Commit<'_> {
    /// The permission bits that a checkpoint gets in place of this one.
    fn mode(&self, replaced: Option<&Checkpoint>) -> u32 {
        let kept = replaced.map_or(self.first_mode, |old| old.stat().stx_mode.into());
        self.attributes.mode.unwrap_or(kept) & 0o7777
    }
}

/// Where the staged file is until it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Without a name (`O_TMPFILE`): it vanishes with the descriptor.
    Nowhere,
    /// It is `session.next`, and to be removed if it is not published.
    Next,
    /// Renamed to `session`, or not ours to remove any more.
    Settled,
}

/// A file being written, to become the checkpoint by [`commit`](Self::commit).
/// Dropped without it, it leaves no trace.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let session = sessionfs::repo::Repository::new(dir.path()).create("demo-")?;
/// use sessionfs::repo::{Base, Commit};
///
/// // Append to a checkpoint, unless somebody else replaces it meanwhile.
/// let base = session.checkpoint()?;
/// let staged = session.stage()?;
/// if let Some(base) = &base {
///     staged.copy_from(base)?;
/// }
/// staged.write_at(b"one more line\n", staged.len()?)?;
/// let commit = Commit { base: Base::Only(base.as_ref()), ..Commit::default() };
/// let new = staged.commit(&commit)?;
/// assert_eq!(new.len(), 14);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Staged {
    session: Session,
    file: OwnedFd,
    place: Place,
}

impl Staged {
    pub(super) fn new(session: &Session) -> Result<Self> {
        let (file, place) = match sys::open_tmpfile(session.dir()) {
            Ok(file) => (file, Place::Nowhere),
            // EISDIR: a kernel or filesystem that does not know the flag
            // (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::INVAL) => {
                (lock::create(session)?, Place::Next)
            }
            Err(errno) => return Err(errno).during("stage"),
        };
        let session = session.clone();
        Ok(Self {
            session,
            file,
            place,
        })
    }

    /// One under the name `session.next` from the beginning, as where there is
    /// no `O_TMPFILE`. Until it is dropped nobody else may save.
    ///
    /// # Errors
    /// [`Kind::Locked`], and [`Kind::Os`] with the errno.
    pub(super) fn named(session: &Session) -> Result<Self> {
        Ok(Self {
            file: lock::create(session)?,
            session: session.clone(),
            place: Place::Next,
        })
    }

    /// Copies the whole content of a checkpoint into the (empty) staged file,
    /// without moving data where the filesystem can share it.
    ///
    /// # Errors
    /// [`Kind::Superseded`] if it has been replaced where a file without a name
    /// is gone, and [`Kind::Os`] with the errno.
    pub fn copy_from(&self, checkpoint: &Checkpoint) -> Result<()> {
        let copy = || {
            let from = checkpoint.open().map_err(|e| {
                if e.errno() == Errno::STALE.raw_os_error() {
                    Error::new(Kind::Superseded, "copy the checkpoint", Errno::STALE)
                } else {
                    e
                }
            })?;
            // Now: who had it open when he renamed it to `session` may write it.
            let len = sys::fstat(&from).during("copy the checkpoint")?.stx_size;
            sys::copy(&from, &self.file, len).during("copy the checkpoint")
        };
        copy().map_err(|e| self.tell(e))
    }

    /// Writes all of `bytes` at `offset` (in bytes).
    ///
    /// # Errors
    /// [`Kind::Os`]: `ENOSPC`, `EDQUOT`, `EFBIG`, `EIO`, …
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        sys::write_at(&self.file, bytes, offset)
            .during("write")
            .map_err(|e| self.tell(e))
    }

    /// Reads at `offset` until the buffer is full or the file ends; answers
    /// the bytes read.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        sys::read_at(&self.file, buffer, offset)
            .during("read")
            .map_err(|e| self.tell(e))
    }

    /// Cuts or extends the file to `len` bytes.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn set_len(&self, len: u64) -> Result<()> {
        sys::set_len(&self.file, len)
            .during("truncate")
            .map_err(|e| self.tell(e))
    }

    /// Allocates, punches or zeroes a range, as fallocate(2) does; `offset`
    /// and `len` in bytes.
    ///
    /// # Errors
    /// [`Kind::Os`]: `EOPNOTSUPP` if the filesystem does not have this `mode`,
    /// `ENOSPC`, …
    pub fn allocate(&self, mode: i32, offset: u64, len: u64) -> Result<()> {
        sys::allocate(&self.file, mode, offset, len)
            .during("allocate")
            .map_err(|e| self.tell(e))
    }

    /// Copies `len` bytes from `from_at` of another file to `at`, inside the
    /// kernel (copy_file_range(2)); answers the bytes copied, 0 at the end of
    /// the other file.
    ///
    /// # Errors
    /// [`Kind::Os`]: `EOPNOTSUPP` if the filesystem cannot, `ENOSPC`, …
    pub fn copy_range(
        &self,
        (from, from_at): (impl AsFd, u64),
        at: u64,
        len: usize,
    ) -> Result<usize> {
        sys::copy_range((from, from_at), (&self.file, at), len)
            .during("copy a range")
            .map_err(|e| self.tell(e))
    }

    /// A descriptor for reading what has been written so far, for as long as
    /// it is open.
    ///
    /// # Errors
    /// [`Kind::Os`]: `EMFILE`, …
    pub fn reader(&self) -> Result<OwnedFd> {
        sys::reopen(&self.file, OFlags::RDONLY)
            .during("open the staged file")
            .map_err(|e| self.tell(e))
    }

    /// The size of what has been written so far, in bytes.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn len(&self) -> Result<u64> {
        self.stat().map(|stat| stat.stx_size)
    }

    /// Whether nothing has been written yet.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// What statx(2) says of the file.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn stat(&self) -> Result<sys::Statx> {
        sys::fstat(&self.file)
            .during("stat the staged file")
            .map_err(|e| self.tell(e))
    }

    /// Publishes the file as the new checkpoint. When it returns `Ok`, the
    /// checkpoint is in place and survives a power cut (I2).
    ///
    /// # Errors
    /// The old checkpoint is untouched and nothing is left behind, except
    /// with [`Kind::NotDurable`]. [`Kind::Locked`], [`Kind::Superseded`],
    /// [`Kind::LockBroken`], [`Kind::NotAFile`], [`Kind::Os`].
    pub fn commit(self, how: &Commit<'_>) -> Result<Checkpoint> {
        self.replace(how).map(|committed| committed.new)
    }

    /// The same, and answers also what it has replaced.
    ///
    /// # Errors
    /// As of [`commit`](Self::commit).
    pub fn replace(mut self, how: &Commit<'_>) -> Result<Committed> {
        self.publish(how).map_err(|e| self.tell(e))
    }

    fn publish(&mut self, how: &Commit<'_>) -> Result<Committed> {
        let replaced = self.replaceable(how)?;
        // A mode that does not let its owner write would not let him take an
        // attribute off either.
        let by_bit = how.mode(replaced.as_ref()) & 0o200 == 0;
        let mut mark = lock::mark(self.file.as_fd(), by_bit).during("mark the staged file")?;
        let mut mode = self.prepare(replaced.as_ref(), how, &mut mark)?;
        self.take_name()?;
        // From here on whoever follows the protocol waits for us.
        let current = self.replaceable(how)?;
        if current.as_ref().map(state) != replaced.as_ref().map(state) {
            mode = self.prepare(current.as_ref(), how, &mut mark)?;
        }
        // Before the rename: after it nothing but the sync may fail.
        let path = sys::reopen(&self.file, OFlags::PATH).during("hold the new checkpoint")?;
        let mut new = Checkpoint::from_path_fd(path)?;
        if !lock::is_named(&self.session, &self.file).during("look at session.next")? {
            return Err(Error::new(Kind::LockBroken, "publish", Errno::CANCELED));
        }
        sys::rename(
            self.session.dir(),
            OsStr::new(NEXT),
            self.session.dir(),
            OsStr::new(CHECKPOINT),
            RenameFlags::empty(),
        )
        .map_err(|errno| match errno {
            // Between the look and the rename: broken all the same.
            Errno::NOENT => Error::new(Kind::LockBroken, "publish", Errno::CANCELED),
            errno => Error::new(Kind::Os, "rename session.next to session", errno),
        })?;
        self.place = Place::Settled;
        let synced = self.session.sync_dir();
        // Not before: a power cut could keep the name session.next and not the
        // mark (seen on btrfs, Linux 6.18). One that keeps the mark of a
        // checkpoint does no harm.
        self.unmark(mark, mode);
        synced?;
        new.refresh(mode);
        Ok(Committed {
            new,
            replaced: current,
        })
    }

    /// The current checkpoint, if this save may replace it, and is to keep its
    /// attributes.
    fn replaceable(&self, how: &Commit<'_>) -> Result<Option<Checkpoint>> {
        let current = self.session.checkpoint()?;
        // What the writer has removed may have been removed by others as well.
        let is_removed = current.is_none() && how.removed.is_some();
        if let Base::Only(base) = how.base
            && base.map(Checkpoint::id) != current.as_ref().map(Checkpoint::id)
            && !is_removed
        {
            return Err(Error::new(Kind::Superseded, "publish", Errno::STALE));
        }
        let removed = how.removed.map(Checkpoint::id);
        Ok(current.filter(|current| Some(current.id()) != removed))
    }

    /// Gives the staged file the attributes it is to be published with, keeps
    /// its mark (I4), and makes it durable. Answers the mode that it has to
    /// have in the end.
    ///
    /// An error of fsync ends the save: the kernel may have dropped the data,
    /// and says so only once.
    fn prepare(
        &self,
        replaced: Option<&Checkpoint>,
        how: &Commit<'_>,
        mark: &mut Mark,
    ) -> Result<u32> {
        let file = self.file.as_fd();
        let mut mode = how.mode(replaced);
        if how.attributes.mode.is_none() {
            // Where the sticky bit is the mark, it is on a checkpoint only
            // because a save died before it took it off.
            mode &= !mark.bits();
        }
        match (replaced, how.first_owner) {
            (Some(replaced), _) => self.inherit(replaced, mark)?,
            (None, Some((uid, gid))) => {
                sys::chown(file, Some(uid), Some(gid)).during("set the owner")?;
            }
            (None, None) => {}
        }
        let marked = Attributes {
            mode: Some(mode | mark.bits()),
            ..how.attributes.clone()
        };
        marked.apply(file).during("set attributes")?;
        sys::fsync(file).during("sync the staged file")?;
        Ok(mode)
    }

    /// Keeps the attributes of a checkpoint. Where they take all the room that the
    /// filesystem has for them (a block on ext4), the mark makes way and becomes
    /// the other one.
    fn inherit(&self, replaced: &Checkpoint, mark: &mut Mark) -> Result<()> {
        let file = self.file.as_fd();
        let inherited = attributes::inherit(replaced, file, mark.bits());
        let Err(error) = inherited else {
            return Ok(());
        };
        let errno = Errno::from_raw_os_error(error.errno());
        let is_full = matches!(errno, Errno::NOSPC | Errno::TOOBIG);
        if *mark != Mark::Xattr || !is_full {
            return Err(error);
        }
        // In this order: it may have its name already.
        if lock::mark_by_bit(file).during("mark the staged file")? != Mark::Bit {
            return Err(error);
        }
        sys::remove_xattr(file, MARK).during("mark the staged file")?;
        *mark = Mark::Bit;
        attributes::clear(file)?;
        attributes::inherit(replaced, file, mark.bits())
    }

    /// Makes the file `session.next`, flock'ed.
    fn take_name(&mut self) -> Result<()> {
        if self.place == Place::Next {
            return Ok(());
        }
        lock::own(self.file.as_fd())?;
        let link = || sys::link_fd(&self.file, self.session.dir(), OsStr::new(NEXT));
        let mut linked = link();
        if linked == Err(Errno::EXIST) && !lock::is_held(&self.session)? {
            linked = link();
        }
        match linked {
            Ok(()) => {
                self.place = Place::Next;
                Ok(())
            }
            Err(Errno::EXIST) => Err(Error::new(Kind::Locked, "publish", Errno::BUSY)),
            Err(errno) => Err(errno).during("link session.next"),
        }
    }

    /// Takes the mark off the published file. A failure is no failure of the
    /// save: the mark means nothing under the name `session`.
    fn unmark(&self, mark: Mark, mode: u32) {
        let done = match mark {
            Mark::Xattr => sys::remove_xattr(&self.file, MARK),
            Mark::Bit => sys::chmod(&self.file, Mode::from_raw_mode(mode)),
            Mark::None => Ok(()),
        };
        if let Err(errno) = done {
            log::warn!(
                "{}: the mark stays on the checkpoint: {errno}",
                self.session.name()
            );
        }
    }

    /// Abandons the save as far as anybody else can see: the lock is free.
    /// What has been written goes when this value is dropped, which may take
    /// a while.
    pub fn withdraw(&mut self) {
        if self.place != Place::Next {
            return;
        }
        // I3: only if it is still ours.
        let removed = match lock::is_named(&self.session, &self.file) {
            Ok(true) => sys::unlink(self.session.dir(), OsStr::new(NEXT)),
            Ok(false) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        };
        self.place = Place::Settled;
        if let Err(errno) = removed {
            log::error!(
                "{}: session.next could not be removed after a save that failed: {errno}",
                self.session.name()
            );
        }
    }

    fn tell(&self, error: Error) -> Error {
        error.of(self.session.name())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// What of a checkpoint a save must not miss: which file it is, and the time
/// of the last change of its attributes.
fn state(checkpoint: &Checkpoint) -> (FileId, i64, u32) {
    let ctime = checkpoint.stat().stx_ctime;
    (checkpoint.id(), ctime.tv_sec, ctime.tv_nsec)
}

/// Writes at the end of what has been written so far.
impl io::Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let append = || {
            let end = self.len()?;
            self.write_at(bytes, end)
        };
        append()
            .map(|()| bytes.len())
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Staged {
    /// Copies everything that `from` gives, and answers the bytes.
    ///
    /// # Errors
    /// Those of reading `from`, and those of [`write_at`](Self::write_at).
    pub fn fill(&mut self, mut from: impl io::Read) -> io::Result<u64> {
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let n = match from.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if n == 0 {
                return Ok(at);
            }
            self.write_at(&buffer[..n], at)
                .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
            at += n as u64;
        }
    }
}
