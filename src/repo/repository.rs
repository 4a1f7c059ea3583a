//! The repository: a directory of sessions, which are listed, made, renamed and
//! removed here.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::{During, Error, Kind, Origin, Result};
use super::name::SessionName;
use super::remove;
use super::root::Root;
use super::session::{self, Session};
use crate::sys::{self, Errno, Mode, RenameFlags};

/// The prefix of generated session names.
pub const DEFAULT_PREFIX: &str = "pbox-";

/// A directory of sessions. It is made, with its parents, together with the first
/// session.
///
/// A value may be shared between threads, and any number of processes may use one
/// repository.
#[derive(Debug)]
pub struct Repository {
    pub(super) root: Root,
}

/// A session as [`Repository::list`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: SessionName,
    /// The time of the last change of its directory: normally of the last save.
    pub modified: SystemTime,
}

impl Repository {
    /// The repository at `path`. Nothing is opened or created yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            root: Root::new(&path.into()),
        }
    }

    /// Sets the permission bits, less the umask, for the case that the directory must be
    /// made. The default is 0755.
    pub fn with_mode(mut self, mode: u32) -> Self {
        self.root.mode = mode;
        self
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.root.path
    }

    /// The repository's directory; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Kind::Os`]: `ENOTDIR`, `EACCES`, …
    pub(crate) fn root(&self) -> Result<Option<Arc<OwnedFd>>> {
        self.root.get().map_err(|e| self.tell(e))
    }

    /// Adds the path of the repository to an error.
    pub(super) fn tell(&self, error: Error) -> Error {
        error.at(&self.root.path)
    }

    /// All sessions, youngest first; none if the repository is missing.
    ///
    /// Sessions are real directories whose name does not start with a dot and ends in
    /// `.session`. Entries that vanish meanwhile, or cannot be looked at, are left out.
    ///
    /// # Errors
    /// [`Kind::Os`] if the repository itself cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.visit(|name, modified| {
            entries.push(Entry { name, modified });
            true
        })?;
        entries.sort_by(|a, b| (b.modified.cmp(&a.modified)).then_with(|| a.name.cmp(&b.name)));
        Ok(entries)
    }

    /// Passes all sessions to `each`, in the filesystem's order, with the time of the
    /// last change of their directory, until it returns false. [`list`](Self::list) says
    /// what is left out.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub(crate) fn visit(
        &self,
        mut each: impl FnMut(SessionName, SystemTime) -> bool,
    ) -> Result<()> {
        let mut visit = || {
            let Some(root) = self.root()? else {
                return Ok(());
            };
            let device = sys::device(&sys::fstat(&*root).during("stat the repository")?);
            let dir = sys::open_dir(&*root, OsStr::new(".")).during("read the repository")?;
            let (mut goes_on, mut pieces) = (true, 0_usize);
            while goes_on {
                // `each` may remember as much memory as is asked for here.
                if pieces.is_multiple_of(16) {
                    sys::memory::require_room().during("read the repository")?;
                }
                pieces += 1;
                let any = sys::read_names(&dir, |name, _| {
                    let Ok(name) = SessionName::new(name) else {
                        return Ok(());
                    };
                    match sys::stat(&*root, name.as_os_str()) {
                        Ok(stat) if sys::is_dir(&stat) && sys::device(&stat) == device => {
                            goes_on = goes_on && each(name, sys::modified(&stat));
                        }
                        Ok(_) | Err(Errno::NOENT) => {}
                        Err(errno) => log::warn!("{name}: left out of the list: {errno}"),
                    }
                    Ok(())
                });
                goes_on &= any.during("read the repository")?;
            }
            Ok(())
        };
        visit().map_err(|e| self.tell(e))
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such directory; a symlink does not count.
    pub fn session(&self, name: &SessionName) -> Result<Session> {
        let opened = match self.root()? {
            Some(root) => self.open(&*root, name),
            None => Err(Error::new(Kind::NotFound, "open the session", Errno::NOENT)),
        };
        opened.map_err(|e| self.tell(e.of(name)))
    }

    fn open(&self, root: impl AsFd, name: &SessionName) -> Result<Session> {
        Session::open(root, Origin::new(&self.root.path, name))
    }

    /// Creates a session with a generated name: the slug of `prefix`, the time in UTC,
    /// and `_(1)`, `_(2)`, … if that is taken. mkdir(2) decides: two creators never get
    /// the same session.
    ///
    /// # Errors
    /// [`Kind::InvalidName`] if `prefix` starts with a dot or is too long,
    /// and [`Kind::Os`].
    pub fn create(&self, prefix: &str) -> Result<Session> {
        let now = SystemTime::now();
        let seconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
        for attempt in 0.. {
            let name = SessionName::generate(prefix, seconds, attempt)?;
            match self.create_named(&name, 0o777) {
                Err(error) if error.kind() == Kind::Exists => {}
                other => return other,
            }
        }
        unreachable!("a u32 of attempts")
    }

    /// Creates the session of exactly this name, durably. `mode` is the mode of the
    /// directory, less the umask.
    ///
    /// # Errors
    /// [`Kind::Exists`], [`Kind::NotDurable`] if it was created but may not survive a
    /// power cut, and [`Kind::Os`].
    pub fn create_named(&self, name: &SessionName, mode: u32) -> Result<Session> {
        let mode = Mode::from_raw_mode(mode);
        self.create_by(name, |root, name| sys::mkdir(root, name, mode))
    }

    /// As [`create_named`](Self::create_named), but `mkdir` makes the directory. It gets
    /// the repository's descriptor and the name.
    pub(crate) fn create_by(
        &self,
        name: &SessionName,
        mkdir: impl Fn(BorrowedFd<'_>, &OsStr) -> sys::Result<()>,
    ) -> Result<Session> {
        let root = self.root.get_or_make().map_err(|e| self.tell(e))?;
        let create = || {
            match mkdir(root.as_fd(), name.as_os_str()) {
                Err(Errno::EXIST) => return Err(Error::new(Kind::Exists, "create", Errno::EXIST)),
                other => other.during("make the session's directory")?,
            }
            let opened = self.open(&*root, name);
            if opened.is_err() {
                // A caller that gets an error has no session.
                let _ = sys::rmdir(&*root, name.as_os_str());
            }
            let session = opened?;
            session::sync_directory(root.as_fd())?;
            Ok(session)
        };
        create().map_err(|e| self.tell(e.of(name)))
    }

    /// Renames a session, durably. An existing session of the new name is replaced only
    /// if it is empty, as by rename(2).
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Exists`], and [`Kind::Os`].
    pub fn rename(&self, from: &SessionName, to: &SessionName) -> Result<()> {
        self.rename_by(from, |root| {
            let flags = RenameFlags::empty();
            sys::rename(root, from.as_os_str(), root, to.as_os_str(), flags)
        })
    }

    /// As [`rename`](Self::rename), but `rename` does the renaming. It gets the
    /// repository's descriptor.
    pub(crate) fn rename_by(
        &self,
        from: &SessionName,
        rename: impl FnOnce(BorrowedFd<'_>) -> sys::Result<()>,
    ) -> Result<()> {
        let rename = || {
            let not_found = |errno| Error::new(Kind::NotFound, "rename", errno);
            let root = self.root()?.ok_or(not_found(Errno::NOENT))?;
            match rename(root.as_fd()) {
                Err(Errno::NOENT) => return Err(not_found(Errno::NOENT)),
                Err(errno @ (Errno::EXIST | Errno::NOTEMPTY)) => {
                    return Err(Error::new(Kind::Exists, "rename", errno));
                }
                other => other.during("rename the session")?,
            }
            session::sync_directory(root.as_fd())
        };
        rename().map_err(|e| self.tell(e.of(from)))
    }

    /// Removes a session and everything in it. `warn` is told of each entry that cannot
    /// be removed, with its path in the session, and the rest is still removed.
    ///
    /// # Errors
    /// [`Kind::NotFound`], and [`Kind::Os`] (`ENOTEMPTY`) if something is
    /// left.
    pub fn remove(
        &self,
        name: &SessionName,
        mut warn: impl FnMut(PathBuf, std::io::Error),
    ) -> Result<()> {
        // Fails if it is no session, before anything is touched.
        self.session(name)?;
        let Some(root) = self.root()? else {
            return Ok(());
        };
        let mut tell = |path, errno: Errno| warn(path, errno.into());
        let complete = remove::remove_tree(&*root, name.as_os_str(), &mut tell);
        let result = if complete {
            session::sync_directory(root.as_fd())
        } else {
            Err(Errno::NOTEMPTY).during("remove")
        };
        result.map_err(|e| self.tell(e.of(name)))
    }

    /// Removes an empty session.
    ///
    /// # Errors
    /// [`Kind::NotFound`], and [`Kind::Os`] (`ENOTEMPTY`).
    pub fn remove_empty(&self, name: &SessionName) -> Result<()> {
        let remove = || {
            let not_found = Error::new(Kind::NotFound, "remove", Errno::NOENT);
            let Some(root) = self.root()? else {
                return Err(not_found);
            };
            match sys::rmdir(&*root, name.as_os_str()) {
                Err(Errno::NOENT) => return Err(not_found),
                other => other.during("remove the session")?,
            }
            session::sync_directory(root.as_fd())
        };
        remove().map_err(|e| self.tell(e.of(name)))
    }
}
