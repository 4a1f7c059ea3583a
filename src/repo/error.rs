//! What can go wrong with a repository: errors with the operation, the path and the
//! errno.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use super::name::{SessionName, write_one_line};
use crate::sys::Errno;

/// The result of every operation of the storage.
pub type Result<T> = std::result::Result<T, Error>;

/// The reasons for which an operation of the storage fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The name is not one that a session may have.
    InvalidName,
    /// There is no such session.
    NotFound,
    /// A session of that name exists already.
    Exists,
    /// There is a `session.next`: another program is saving, or has left it behind.
    Locked,
    /// The checkpoint that the save started from has been replaced meanwhile; the newer
    /// one stays.
    Superseded,
    /// The checkpoint has been replaced by one that the user of the save may not write;
    /// nothing was published. Only a mount saves for other users.
    Forbidden,
    /// The lock was broken during the save; nothing was published.
    LockBroken,
    /// `session` is no regular file.
    NotAFile,
    /// The change is made (a new checkpoint is in place, a session is created,
    /// renamed or removed), but the directory could not be synced: it may not
    /// survive a power cut.
    NotDurable,
    /// A system call failed; the errno says why.
    Os,
}

/// A failed operation of the storage: what was done, on which path, and why it
/// failed. Its text is one line with all of that, as
/// `/srv/sessions/a.session: write: No space left on device (os error 28)`.
///
/// It becomes a [`std::io::Error`] of the matching [kind](std::io::ErrorKind),
/// with this text:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use sessionfs::repo::{Repository, SessionName};
///
/// fn load(repository: &Repository, id: &str) -> std::io::Result<Vec<u8>> {
///     Ok(repository.session(&SessionName::from_id(id)?)?.load()?)
/// }
///
/// let error = load(&Repository::new(dir.path()), "none").unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
/// let path = dir.path().join("none.session");
/// assert_eq!(error.to_string(), format!("{}: no such session", path.display()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    operation: &'static str,
    repository: Option<Arc<Path>>,
    session: Option<SessionName>,
    errno: Errno,
}

/// A session of a repository, for the errors about it.
#[derive(Debug)]
pub(super) struct Origin {
    repository: Arc<Path>,
    session: SessionName,
}

impl Origin {
    pub(super) fn new(repository: &Arc<Path>, session: &SessionName) -> Arc<Self> {
        Arc::new(Self {
            repository: repository.clone(),
            session: session.clone(),
        })
    }

    pub(super) fn session(&self) -> &SessionName {
        &self.session
    }
}

impl Error {
    pub(super) fn new(kind: Kind, operation: &'static str, errno: Errno) -> Self {
        Self {
            kind,
            operation,
            repository: None,
            session: None,
            errno,
        }
    }

    pub(super) fn of(mut self, session: &SessionName) -> Self {
        self.session = Some(session.clone());
        self
    }

    pub(super) fn at(mut self, repository: &Arc<Path>) -> Self {
        self.repository = Some(repository.clone());
        self
    }

    pub(super) fn about(self, origin: &Origin) -> Self {
        self.of(&origin.session).at(&origin.repository)
    }

    /// The reason.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The session it concerns, if any.
    pub fn session(&self) -> Option<&SessionName> {
        self.session.as_ref()
    }

    /// The path it concerns: that of the session when it was opened, or that of the
    /// repository. `None` if only a name was checked, and no file.
    pub fn path(&self) -> Option<PathBuf> {
        let repository = self.repository.as_ref()?;
        Some(match &self.session {
            Some(session) => repository.join(session.as_os_str()),
            None => repository.to_path_buf(),
        })
    }

    /// The errno of the system call that failed; the closest one if no system call
    /// failed.
    pub fn errno(&self) -> i32 {
        self.errno.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.repository, &self.session) {
            (Some(repository), Some(session)) => write!(f, "{}/{session}: ", OneLine(repository))?,
            (Some(repository), None) => write!(f, "{}: ", OneLine(repository))?,
            (None, Some(session)) => write!(f, "{session}: ")?,
            (None, None) => {}
        }
        match self.kind {
            Kind::InvalidName => write!(
                f,
                "not a session name (it must end in .session, not start with a dot, \
                 and have at most 255 bytes)"
            ),
            Kind::NotFound => write!(f, "no such session"),
            Kind::Exists => write!(f, "the session exists already"),
            Kind::Locked => write!(
                f,
                "locked: another program is saving, or left a session.next behind \
                 (sessionfs break-lock removes it)"
            ),
            Kind::Superseded => write!(
                f,
                "the checkpoint was replaced by a newer one meanwhile; nothing was saved"
            ),
            Kind::Forbidden => write!(
                f,
                "the checkpoint was replaced by one that the writer may not write; \
                 nothing was saved"
            ),
            Kind::LockBroken => write!(f, "the lock was broken meanwhile; nothing was saved"),
            Kind::NotAFile => write!(f, "session is not a regular file"),
            Kind::NotDurable => write!(
                f,
                "done, but it may not survive a power cut: {}: {}",
                self.operation,
                io::Error::from(self.errno)
            ),
            Kind::Os => write!(f, "{}: {}", self.operation, io::Error::from(self.errno)),
        }
    }
}

/// A path in one line, whatever it contains.
struct OneLine<'a>(&'a Path);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_one_line(f, &self.0.to_string_lossy())
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(Self::from(error.errno).kind(), error)
    }
}

/// Adds the operation to an errno.
pub(super) trait During<T> {
    /// The errno as an [`Error`] of `operation`.
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for crate::sys::Result<T> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|errno| Error::new(Kind::Os, operation, errno))
    }
}
