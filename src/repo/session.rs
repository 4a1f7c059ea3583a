//! One session: its directory, kept open, and the checkpoint in it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::behalf::OnBehalf;
use super::checkpoint::Checkpoint;
use super::error::{During, Error, Kind, Origin, Result};
use super::name::SessionName;
use crate::sys::{self, Errno};

/// The name of the checkpoint in a session's directory.
pub const CHECKPOINT: &str = "session";

/// A session of a repository, kept open: it stays the same session when its directory is
/// renamed. Clones share the descriptor of the directory.
///
/// See [`save`](Self::save) for a save in one call, [`replace`](Self::replace) for
/// an edit of what is there, and [`stage`](Self::stage) for one in pieces.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
    /// For whom its names are changed, if not for this process.
    pub(super) behalf: Option<Arc<dyn OnBehalf>>,
}

#[derive(Debug)]
struct Inner {
    dir: OwnedFd,
    origin: Arc<Origin>,
}

impl Session {
    /// Opens the session of the repository directory `root` that `origin` names.
    pub(super) fn open(root: impl AsFd, origin: Arc<Origin>) -> Result<Self> {
        let open = || match sys::open_dir(root, origin.session().as_os_str()) {
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                Err(Error::new(Kind::NotFound, "open the session", errno))
            }
            other => other.during("open the session"),
        };
        let dir = open().map_err(|e| e.about(&origin))?;
        Ok(Self {
            inner: Arc::new(Inner { dir, origin }),
            behalf: None,
        })
    }

    /// The same session, whose names are changed on behalf of somebody; of nobody but
    /// this process if that is `None`. Saves of a [`Staged`](super::Staged) are not
    /// concerned: they have a [`Permit`](super::Permit).
    pub(crate) fn on_behalf_of(self, whom: Option<Arc<dyn OnBehalf>>) -> Self {
        Self {
            behalf: whom,
            ..self
        }
    }

    /// Makes a change of names for whom it is made.
    pub(super) fn change_names(
        &self,
        of: &[BorrowedFd<'_>],
        change: impl Fn() -> sys::Result<()>,
    ) -> sys::Result<()> {
        match &self.behalf {
            Some(whom) => whom.change(of, &change),
            None => change(),
        }
    }

    /// Adds the path of the session to an error.
    pub(super) fn tell(&self, error: Error) -> Error {
        error.about(&self.inner.origin)
    }

    /// The session, for errors about it.
    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.inner.origin
    }

    /// Its name when it was opened.
    pub fn name(&self) -> &SessionName {
        self.inner.origin.session()
    }

    /// The descriptor of its directory, for the files that the program keeps beside
    /// the checkpoint.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.inner.dir.as_fd()
    }

    /// The current checkpoint; `None` if none has been saved yet.
    ///
    /// # Errors
    /// [`Kind::NotAFile`] if `session` is a directory, a symlink or the like;
    /// nothing is followed.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        self.look(Ok)
    }

    /// The current checkpoint, and a descriptor for reading it.
    ///
    /// # Errors
    /// As for [`checkpoint`](Self::checkpoint), and [`Kind::Os`] with the errno.
    pub fn open_checkpoint(&self) -> Result<Option<(Checkpoint, File)>> {
        self.look(|checkpoint| {
            let file = checkpoint.open()?;
            Ok((checkpoint, file))
        })
    }

    /// The bytes of the current checkpoint; none if there is no checkpoint.
    ///
    /// # Errors
    /// As for [`checkpoint`](Self::checkpoint), and those of reading.
    pub fn load(&self) -> Result<Vec<u8>> {
        self.look(|checkpoint| checkpoint.read())
            .map(Option::unwrap_or_default)
    }

    /// Looks at the current checkpoint; or at the next one, if a save replaces it before
    /// the look is done, on a filesystem where a file without a name is gone.
    fn look<T>(&self, look: impl Fn(Checkpoint) -> Result<T>) -> Result<Option<T>> {
        // Bounded, because a filesystem may have another reason, which is reported then.
        const SAVES: u32 = 100;
        const PAUSE: Duration = Duration::from_millis(1);
        let mut saves = 0;
        let found = loop {
            let path = match sys::open_path(self.dir(), OsStr::new(CHECKPOINT)) {
                Err(Errno::NOENT) => return Ok(None),
                other => other.during("open the checkpoint"),
            };
            let path = path.map_err(|e| self.tell(e))?;
            let checkpoint = Checkpoint::from_path_fd(path);
            let checkpoint = checkpoint.map(|checkpoint| checkpoint.of(self.origin()));
            match checkpoint.and_then(&look) {
                Err(e) if e.errno() == Errno::STALE.raw_os_error() && saves < SAVES => {
                    saves += 1;
                    // Until the kernel has learned of the rename, the name leads to the
                    // file that is gone.
                    std::thread::sleep(PAUSE);
                }
                found => break found,
            }
        };
        found.map(Some).map_err(|e| self.tell(e))
    }

    /// Syncs the directory after a change of its entries.
    pub(super) fn sync_dir(&self) -> Result<()> {
        sync_directory(self.dir())
    }
}

/// Makes a change of directory entries durable.
///
/// `EINVAL` means that the filesystem cannot sync directories (some shared folders). That
/// is no I/O error, and is warned about once.
pub(super) fn sync_directory(dir: BorrowedFd<'_>) -> Result<()> {
    static WARNED: std::sync::Once = std::sync::Once::new();
    match sys::fsync(dir) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) => {
            WARNED.call_once(|| {
                log::warn!(
                    "this filesystem cannot sync directories: a save may not survive a power cut"
                );
            });
            Ok(())
        }
        Err(errno) => Err(Error::new(Kind::NotDurable, "sync the directory", errno)),
    }
}
