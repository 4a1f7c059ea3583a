//! A checkpoint: the complete content of `session` at one time.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::{During, Error, Kind, Result};
use crate::sys::{self, Errno, OFlags, Statx};

/// Tells one file from every other that exists at the same time.
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

/// One checkpoint, held: it can be read for as long as this value lives, even
/// after a save has put another one in its place; but not where a file without
/// a name is gone (most of FUSE, NFS).
#[derive(Debug)]
pub struct Checkpoint {
    /// `O_PATH`: a checkpoint that must not be read can still be replaced,
    /// and one that is a script can be executed.
    path: OwnedFd,
    stat: Statx,
}

impl Checkpoint {
    /// Takes over a descriptor of what is called `session`.
    ///
    /// # Errors
    /// [`Kind::NotAFile`] for anything but a regular file.
    pub(crate) fn from_path_fd(path: OwnedFd) -> Result<Self> {
        let stat = sys::fstat(&path).during("stat the checkpoint")?;
        let errno = match rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()) {
            rustix::fs::FileType::RegularFile => return Ok(Self { path, stat }),
            rustix::fs::FileType::Directory => Errno::ISDIR,
            rustix::fs::FileType::Symlink => Errno::LOOP,
            _ => Errno::INVAL,
        };
        Err(Error::new(Kind::NotAFile, "open the checkpoint", errno))
    }

    /// Asks again after its publication, which has changed its mark and its
    /// ctime. If that fails, the answer of before serves, with its final mode.
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
    /// [`Kind::Os`]: `EACCES`, `EMFILE`, `EIO`, …; `ESTALE` if it has been
    /// replaced where a file without a name is gone.
    pub fn open(&self) -> Result<File> {
        sys::reopen(&self.path, OFlags::RDONLY)
            .map(sys::into_file)
            .during("open the checkpoint")
    }

    /// Opens it for reading by a save that goes on from it.
    ///
    /// # Errors
    /// [`Kind::Superseded`] if it has been replaced where a file without a name
    /// is gone, and as of [`open`](Self::open).
    pub fn open_to_copy(&self) -> Result<File> {
        self.open().map_err(|e| {
            if e.errno() == Errno::STALE.raw_os_error() {
                Error::new(Kind::Superseded, "copy the checkpoint", Errno::STALE)
            } else {
                e
            }
        })
    }

    /// An `O_PATH` descriptor of it.
    pub fn as_path_fd(&self) -> BorrowedFd<'_> {
        self.path.as_fd()
    }

    /// What statx(2) said of it when it was found.
    pub fn stat(&self) -> &Statx {
        &self.stat
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
