//! One session: its checkpoint, its lock, and saves.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::error::{During, Error, Kind, Result};
use super::lock::{self, Lock};
use super::staged::{Base, Commit, Staged, Unasked};
use super::{Attributes, SessionName, attributes};
use crate::sys::{self, Errno, XattrFlags};

/// The name of the checkpoint in a session's directory.
pub const CHECKPOINT: &str = "session";

/// A session of a repository, held open: it stays the same one when its
/// directory is renamed. Clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: OwnedFd,
    name: SessionName,
}

impl Session {
    /// Opens the session `name` of the repository directory `root`.
    pub(super) fn open(root: impl AsFd, name: &SessionName) -> Result<Self> {
        let dir = match sys::open_dir(root, name.as_os_str()) {
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                return Err(Error::new(Kind::NotFound, "open the session", errno).of(name));
            }
            other => other.during("open the session").map_err(|e| e.of(name))?,
        };
        let name = name.clone();
        Ok(Self {
            inner: Arc::new(Inner { dir, name }),
        })
    }

    /// Its name when it was opened.
    pub fn name(&self) -> &SessionName {
        &self.inner.name
    }

    /// The descriptor of its directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.inner.dir.as_fd()
    }

    /// The current checkpoint, `None` if none has been saved yet.
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
    /// As of [`checkpoint`](Self::checkpoint), and [`Kind::Os`] with the errno.
    pub fn open_checkpoint(&self) -> Result<Option<(Checkpoint, File)>> {
        self.look(|checkpoint| {
            let file = checkpoint.open()?;
            Ok((checkpoint, file))
        })
    }

    /// The bytes of the current checkpoint; none if there is no checkpoint.
    ///
    /// # Errors
    /// As of [`checkpoint`](Self::checkpoint), and those of reading.
    pub fn load(&self) -> Result<Vec<u8>> {
        let read = |checkpoint: Checkpoint| {
            sys::read_to_end(checkpoint.open()?, checkpoint.len()).during("read the checkpoint")
        };
        self.look(read).map(Option::unwrap_or_default)
    }

    /// Looks at the current checkpoint; at the next one if it is gone before the
    /// look is done. That happens where a file without a name is gone, when a save
    /// comes between.
    fn look<T>(&self, look: impl Fn(Checkpoint) -> Result<T>) -> Result<Option<T>> {
        // Bounded, as a filesystem may have another reason, which is told then.
        const SAVES: u32 = 100;
        const PAUSE: Duration = Duration::from_millis(1);
        let mut saves = 0;
        let found = loop {
            let path = match sys::open_path(self.dir(), OsStr::new(CHECKPOINT)) {
                Err(Errno::NOENT) => return Ok(None),
                other => other.during("open the checkpoint"),
            };
            let path = path.map_err(|e| e.of(self.name()))?;
            match Checkpoint::from_path_fd(path).and_then(&look) {
                Err(e) if e.errno() == Errno::STALE.raw_os_error() && saves < SAVES => {
                    saves += 1;
                    // Until the kernel has heard of the rename, the name leads to
                    // what is gone.
                    std::thread::sleep(PAUSE);
                }
                found => break found,
            }
        };
        found.map(Some).map_err(|e| e.of(self.name()))
    }

    /// Saves `bytes` as the new checkpoint, whatever the current one is.
    /// When it returns, the new checkpoint is in place and durable, or the old
    /// one is whole.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use sessionfs::repo::Repository;
    ///
    /// let repository = Repository::new(dir.path());
    /// let session = repository.create("demo-")?;
    /// session.save(b"first")?;
    /// session.save(b"second")?;
    /// assert_eq!(session.load()?, b"second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::Locked`] if another program is saving or has left its
    /// `session.next` behind, [`Kind::NotAFile`], [`Kind::NotDurable`] if
    /// only the last step failed, and [`Kind::Os`] with the errno.
    pub fn save(&self, bytes: &[u8]) -> Result<()> {
        let staged = self.stage()?;
        staged.write_at(bytes, 0)?;
        staged.commit(&Commit::default())?;
        Ok(())
    }

    /// Begins a save: a new, empty staged file that nobody else sees.
    ///
    /// # Errors
    /// [`Kind::Locked`], and [`Kind::Os`] with the errno.
    pub fn stage(&self) -> Result<Staged> {
        Staged::new(self).map_err(|e| e.of(self.name()))
    }

    /// Whether a save would be refused now because of a `session.next`. One
    /// whose owner has died (DESIGN I4) is removed, and does not count.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn is_locked(&self) -> Result<bool> {
        lock::is_held(self).map_err(|e| e.of(self.name()))
    }

    /// The `session.next` that stands in the way of saves, which is left where
    /// it is, also a dead one. No save is refused because of the look.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn lock(&self) -> Result<Option<Lock>> {
        lock::find(self).map_err(|e| e.of(self.name()))
    }

    /// Removes a `session.next` whose owner has died, and no other. Answers
    /// whether there was one.
    ///
    /// # Errors
    /// [`Kind::NotDurable`], and [`Kind::Os`] with the errno.
    pub fn remove_dead_lock(&self) -> Result<bool> {
        lock::remove_dead(self).map_err(|e| e.of(self.name()))
    }

    /// Breaks the lock: removes `session.next`, whosever it is. A save that
    /// held it publishes nothing. Answers whether there was one.
    ///
    /// # Errors
    /// [`Kind::NotDurable`], and [`Kind::Os`] with the errno.
    pub fn break_lock(&self) -> Result<bool> {
        match sys::unlink(self.dir(), OsStr::new(lock::NEXT)) {
            Ok(()) => self.sync_dir().map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).during("remove session.next"),
        }
        .map_err(|e| e.of(self.name()))
    }

    /// Sets attributes of the current checkpoint, at once and without a save.
    ///
    /// # Errors
    /// [`Kind::Superseded`] if `of` is not the current checkpoint any more,
    /// and [`Kind::Os`] with the errno.
    pub fn set_attributes(&self, of: &Checkpoint, attributes: &Attributes) -> Result<()> {
        self.change_current(of, || attributes.apply(of.as_path_fd()))
    }

    /// Sets an extended attribute of the current checkpoint, with flags as of
    /// setxattr(2), or removes it if `value` is `None`; at once and without a
    /// save.
    ///
    /// # Errors
    /// As of [`set_attributes`](Self::set_attributes).
    pub fn set_xattr(
        &self,
        of: &Checkpoint,
        name: &CStr,
        value: Option<&[u8]>,
        flags: XattrFlags,
    ) -> Result<()> {
        self.change_current(of, || {
            attributes::set_xattr(of.as_path_fd(), name, value, flags)
        })
    }

    fn change_current(
        &self,
        of: &Checkpoint,
        change: impl FnOnce() -> sys::Result<()>,
    ) -> Result<()> {
        let current = self.checkpoint()?;
        if current.is_none_or(|current| current.id() != of.id()) {
            let stale = Error::new(Kind::Superseded, "set attributes", Errno::STALE);
            return Err(stale.of(self.name()));
        }
        change()
            .during("set attributes")
            .map_err(|e| e.of(self.name()))
    }

    /// Syncs the directory after a change of its entries.
    pub(super) fn sync_dir(&self) -> Result<()> {
        sync_directory(self.dir())
    }
}

/// Makes a change of directory entries durable.
///
/// `EINVAL` says that the filesystem cannot sync directories (some shared
/// folders): no I/O error, warned about once.
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

impl Default for Commit<'_> {
    fn default() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            base: Base::Any,
            removed: None,
            permit: &Unasked,
            keeps_privileges: number(&status, "CapEff:", 16)
                .is_some_and(|set| set & (1 << CAP_FSETID) != 0),
            first_mode: 0o644,
            first_umask: umask(&status),
            first_owner: None,
        }
    }
}

/// linux/capability.h
const CAP_FSETID: u32 = 4;

/// The umask of this process. Reading it by umask(2) would change it for a
/// moment in all threads, so it is taken from `/proc` (Linux 4.7).
fn umask(status: &str) -> u32 {
    let umask = number(status, "Umask:", 8);
    umask
        .and_then(|umask| umask.try_into().ok())
        .unwrap_or(0o077)
}

fn number(status: &str, name: &str, radix: u32) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(value.trim(), radix).ok()
}
