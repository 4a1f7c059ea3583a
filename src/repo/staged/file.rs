//! A save in progress: the staged file, and what is written into it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::seen::{Seen, Source};
use crate::repo::attributes::Own;
use crate::repo::checkpoint::Checkpoint;
#[cfg(doc)]
use crate::repo::error::Kind;
use crate::repo::error::{During, Error, Result};
use crate::repo::lock::{self, Mark, NEXT};
use crate::repo::session::Session;
use crate::sys::{self, Errno, OFlags};

/// Where the staged file is until it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Without a name (`O_TMPFILE`): it vanishes with the descriptor.
    Nowhere,
    /// It is `session.next`, and to be removed if it is not published.
    Next,
    /// Renamed to `session`, or not ours to remove any more.
    Settled,
}

/// A save in progress: a file that nobody else sees, and that becomes the checkpoint
/// by [`commit`](Self::commit). Dropped without it, it leaves no trace.
///
/// It may be written in any order and size, by [`write_at`](Self::write_at), by
/// [`fill`](Self::fill), or as a [`Write`](io::Write).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let session = sessionfs::repo::Repository::new(dir.path()).create("demo-")?;
/// use sessionfs::repo::Base;
///
/// // Append to a checkpoint, unless somebody else replaces it meanwhile.
/// let base = session.checkpoint()?;
/// let staged = session.stage()?;
/// if let Some(base) = &base {
///     staged.copy_from(base)?;
/// }
/// staged.write_at(b"one more line\n", staged.len()?)?;
/// let new = staged.commit(Base::Only(base.as_ref()))?;
/// assert_eq!(new.len(), 14);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Staged {
    pub(super) session: Session,
    pub(super) file: OwnedFd,
    pub(super) place: Place,
    pub(super) mark: Mark,
    /// Whether the sticky bit belongs to its mode, where that is the mark.
    pub(super) sticky: bool,
    /// Whose attributes it has.
    pub(super) source: Source,
    /// What its writer has set of them.
    pub(super) own: Own,
    /// The checkpoint that it was begun from.
    pub(super) begun_from: Option<Seen>,
}

impl Staged {
    pub(in crate::repo) fn new(session: &Session) -> Result<Self> {
        match sys::open_tmpfile(session.dir()) {
            Ok(file) => {
                let mark = lock::mark(file.as_fd()).during("mark the staged file")?;
                Ok(Self::of(session, (file, mark), Place::Nowhere))
            }
            // EISDIR: a kernel or filesystem that does not know the flag
            // (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::INVAL) => {
                Self::named(session)
            }
            Err(errno) => Err(errno).during("stage"),
        }
    }

    fn of(session: &Session, (file, mark): (OwnedFd, Mark), place: Place) -> Self {
        Self {
            session: session.clone(),
            file,
            place,
            mark,
            sticky: false,
            source: Source::Nothing,
            own: Own::default(),
            begun_from: None,
        }
    }

    /// One under the name `session.next` from the beginning, as where there is
    /// no `O_TMPFILE`. Until it is dropped nobody else may save.
    ///
    /// # Errors
    /// [`Kind::Locked`], and [`Kind::Os`] with the errno.
    pub(in crate::repo) fn named(session: &Session) -> Result<Self> {
        let created = lock::create(session)?;
        Ok(Self::of(session, created, Place::Next))
    }

    /// Copies the whole content of a checkpoint into the (empty) staged file,
    /// without moving data where the filesystem can share it.
    ///
    /// # Errors
    /// [`Kind::Superseded`] if it has been replaced where a file without a name
    /// is gone, and [`Kind::Os`] with the errno.
    pub fn copy_from(&self, checkpoint: &Checkpoint) -> Result<()> {
        let from = checkpoint.open_to_copy().map_err(|e| self.tell(e))?;
        self.copy(&from, u64::MAX, &|| true)
    }

    /// Copies the first bytes of a checkpoint, `most` at the most, into the
    /// (empty) staged file. Holes are not copied. A long copy asks now and then
    /// whether it `goes_on`.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno; `EINTR` if it does not.
    pub(crate) fn copy(&self, from: &File, most: u64, goes_on: &dyn Fn() -> bool) -> Result<()> {
        let copy = || {
            // Now: who had it open when he renamed it to `session` may write it.
            let stat = sys::fstat(from)?;
            let has_holes = stat.stx_blocks.saturating_mul(512) < stat.stx_size;
            let len = stat.stx_size.min(most);
            sys::copy(from, &self.file, len, has_holes, goes_on)
        };
        copy()
            .during("copy the checkpoint")
            .map_err(|e| self.tell(e))
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
    pub(crate) fn allocate(&self, mode: i32, offset: u64, len: u64) -> Result<()> {
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
    pub(crate) fn copy_range(
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
    pub(crate) fn reader(&self) -> Result<OwnedFd> {
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

    /// What statx(2) says of the file; but for what marks it.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub(crate) fn stat(&self) -> Result<sys::Statx> {
        let stat = sys::fstat(&self.file).during("stat the staged file");
        let mut stat = stat.map_err(|e| self.tell(e))?;
        let mode = self.unmarked(stat.stx_mode.into());
        stat.stx_mode = u16::try_from(mode).unwrap_or(stat.stx_mode);
        Ok(stat)
    }

    /// Abandons the save as far as anybody else can see: the lock is free.
    /// What has been written goes when this value is dropped, which may take
    /// a while.
    pub(crate) fn withdraw(&mut self) {
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

    pub(super) fn tell(&self, error: Error) -> Error {
        self.session.tell(error)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Writes at the end of what has been written so far.
impl io::Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let append = || {
            let end = self.len()?;
            self.write_at(bytes, end)
        };
        append().map(|()| bytes.len()).map_err(io::Error::from)
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
            self.write_at(&buffer[..n], at)?;
            at += n as u64;
        }
    }
}
