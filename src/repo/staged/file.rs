//! A save in progress: the staged file, and writing into it.

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

/// The name of the staged file until it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StagedName {
    /// None (`O_TMPFILE`): it vanishes with the descriptor.
    None,
    /// `session.next`, which must be removed if it is not published.
    Next,
    /// Renamed to `session`, or not ours to remove any more.
    Settled,
}

/// A save in progress: a file that no other program sees, and that becomes the checkpoint
/// by [`commit`](Self::commit). If it is dropped without that, nothing is left behind.
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
    pub(super) name: StagedName,
    pub(super) mark: Mark,
    /// Whether the sticky bit belongs to its mode, if that bit is also the mark.
    pub(super) sticky: bool,
    /// Where its attributes come from.
    pub(super) source: Source,
    /// The attributes that its writer has set.
    pub(super) own: Own,
    /// The checkpoint from which it was begun.
    pub(super) begun_from: Option<Seen>,
}

impl Staged {
    pub(in crate::repo) fn new(session: &Session) -> Result<Self> {
        match sys::open_tmpfile(session.dir()) {
            Ok(file) => {
                let mark = lock::mark(file.as_fd()).during("mark the staged file")?;
                Ok(Self::of(session, (file, mark), StagedName::None))
            }
            // EISDIR: the kernel or filesystem does not know the flag (open(2)).
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::INVAL) => {
                Self::named(session)
            }
            Err(errno) => Err(errno).during("stage"),
        }
    }

    fn of(session: &Session, (file, mark): (OwnedFd, Mark), name: StagedName) -> Self {
        Self {
            session: session.clone(),
            file,
            name,
            mark,
            sticky: false,
            source: Source::Nothing,
            own: Own::default(),
            begun_from: None,
        }
    }

    /// One with the name `session.next` from the beginning, as if there were no
    /// `O_TMPFILE`. Until it is dropped, no other save can be made.
    ///
    /// # Errors
    /// [`Kind::Locked`], and [`Kind::Os`] with the errno.
    pub(in crate::repo) fn named(session: &Session) -> Result<Self> {
        let created = lock::create(session)?;
        Ok(Self::of(session, created, StagedName::Next))
    }

    /// Copies the whole content of a checkpoint into the empty staged file, without
    /// moving data if the filesystem can share it.
    ///
    /// # Errors
    /// [`Kind::Superseded`] if it has been replaced on a filesystem where a file without
    /// a name is gone, and [`Kind::Os`] with the errno.
    pub fn copy_from(&self, checkpoint: &Checkpoint) -> Result<()> {
        let from = checkpoint.open_to_copy().map_err(|e| self.tell(e))?;
        self.copy(&from, u64::MAX, &|| true)
    }

    /// Copies at most the first `most` bytes of a checkpoint into the empty staged file.
    /// Holes are not copied. A long copy calls `goes_on` now and then, and ends if that
    /// returns false.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno; `EINTR` if `goes_on` has ended it.
    pub(crate) fn copy(&self, from: &File, most: u64, goes_on: &dyn Fn() -> bool) -> Result<()> {
        let copy = || {
            // The present size: a program that had the file open before its rename to
            // `session` may still write to it.
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

    /// Reads at `offset` until the buffer is full or the file ends. Returns the number of
    /// bytes.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        sys::read_at(&self.file, buffer, offset)
            .during("read")
            .map_err(|e| self.tell(e))
    }

    /// Truncates or extends the file to `len` bytes.
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

    /// Copies `len` bytes from `from_at` of another file to `at`, inside the kernel
    /// (copy_file_range(2)). Returns the number of bytes copied, 0 at the end of the
    /// other file.
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

    /// A descriptor for reading what has been written, now or while it is open.
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

    /// The status of the file, from statx(2), without its mark.
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

    /// Abandons the save for all others: the lock is free. The content is freed when this
    /// value is dropped, which may take a while.
    pub(crate) fn withdraw(&mut self) {
        if self.name != StagedName::Next {
            return;
        }
        // I3: only if the name is still ours.
        let removed = match lock::is_named(&self.session, &self.file) {
            Ok(true) => sys::unlink(self.session.dir(), OsStr::new(NEXT)),
            Ok(false) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        };
        self.name = StagedName::Settled;
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
    /// Copies everything from `from`. Returns the number of bytes.
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
