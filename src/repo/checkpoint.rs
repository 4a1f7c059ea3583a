//! A checkpoint: the complete content of `session` at one time.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::{During, Error, Kind, Origin, Result};
use crate::sys::{self, Errno, OFlags, Statx};

/// Tells a file from every other that exists at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    dev: (u32, u32),
    ino: u64,
}

impl FileId {
    pub(super) fn of(stat: &Statx) -> Self {
        Self {
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
        }
    }

    pub(super) fn device(self) -> (u32, u32) {
        self.dev
    }
}

/// One checkpoint: what was saved at one time. It can be read as long as this value
/// exists, even after a save has replaced it; but not on filesystems where a file is gone
/// when it has lost its name (NFS, most FUSE filesystems).
#[derive(Debug)]
pub struct Checkpoint {
    /// `O_PATH`: a checkpoint that must not be read can still be replaced, and one that
    /// is a script can be executed.
    path: OwnedFd,
    stat: Statx,
    /// Its session, if known.
    origin: Option<Arc<Origin>>,
}

impl Checkpoint {
    /// Takes over a descriptor of the file `session`.
    ///
    /// # Errors
    /// [`Kind::NotAFile`] for anything but a regular file.
    pub(crate) fn from_path_fd(path: OwnedFd) -> Result<Self> {
        let stat = sys::fstat(&path).during("stat the checkpoint")?;
        let errno = match &stat {
            stat if sys::is_dir(stat) => Errno::ISDIR,
            stat if sys::is_symlink(stat) => Errno::LOOP,
            stat if !sys::is_file(stat) => Errno::INVAL,
            _ => {
                let origin = None;
                return Ok(Self { path, stat, origin });
            }
        };
        Err(Error::new(Kind::NotAFile, "open the checkpoint", errno))
    }

    /// Notes that it belongs to this session.
    pub(super) fn of(mut self, origin: &Arc<Origin>) -> Self {
        self.origin = Some(origin.clone());
        self
    }

    fn tell(&self, error: Error) -> Error {
        match &self.origin {
            Some(origin) => error.about(origin),
            None => error,
        }
    }

    /// Reads its status again after its publication, which has changed its mark and its
    /// ctime. If that fails, the old status is used, with the final mode.
    pub(super) fn refresh(&mut self, mode: u32) {
        match sys::fstat(&self.path) {
            Ok(stat) => self.stat = stat,
            Err(errno) => {
                log::debug!("stat the new checkpoint: {errno}");
                let kind = u32::from(self.stat.stx_mode) & !0o7777;
                self.stat.stx_mode = u16::try_from(kind | mode).unwrap_or(self.stat.stx_mode);
            }
        }
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// [`Kind::Os`]: `EACCES`, `EMFILE`, `EIO`, …; `ESTALE` if it has been replaced on a
    /// filesystem where a file without a name is gone.
    pub fn open(&self) -> Result<File> {
        sys::reopen(&self.path, OFlags::RDONLY)
            .map(sys::into_file)
            .during("open the checkpoint")
            .map_err(|e| self.tell(e))
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and [`Kind::Os`] with the errno.
    pub fn read(&self) -> Result<Vec<u8>> {
        sys::read_to_end(self.open()?, self.len())
            .during("read the checkpoint")
            .map_err(|e| self.tell(e))
    }

    /// Opens it for reading, for a save that starts from it.
    ///
    /// # Errors
    /// [`Kind::Superseded`] if it has been replaced on a filesystem where a file without
    /// a name is gone, and as for [`open`](Self::open).
    pub(crate) fn open_to_copy(&self) -> Result<File> {
        self.open().map_err(|e| {
            if e.errno() == Errno::STALE.raw_os_error() {
                self.tell(Error::new(
                    Kind::Superseded,
                    "copy the checkpoint",
                    Errno::STALE,
                ))
            } else {
                e
            }
        })
    }

    /// An `O_PATH` descriptor of it.
    pub(crate) fn as_path_fd(&self) -> BorrowedFd<'_> {
        self.path.as_fd()
    }

    /// Its status, from statx(2), when it was found.
    pub(crate) fn stat(&self) -> &Statx {
        &self.stat
    }

    /// When it was saved: the time of the last change of its content.
    pub fn modified(&self) -> SystemTime {
        sys::modified(&self.stat)
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.stat.stx_size
    }

    /// Whether it has no content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn id(&self) -> FileId {
        FileId::of(&self.stat)
    }
}
