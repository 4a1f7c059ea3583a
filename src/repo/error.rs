//! What can go wrong with a repository, told with the operation, the session
//! and the errno.

use std::fmt;

use super::SessionName;
use crate::sys::Errno;

/// What every operation of the storage answers.
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
    /// A `session.next` stands in the way: somebody else is saving, or left
    /// it behind.
    Locked,
    /// The checkpoint that the save started from has been replaced meanwhile;
    /// the newer one stands.
    Superseded,
    /// Another checkpoint stands there than the one that the save started from,
    /// and its writer may not write that; nothing was published.
    Forbidden,
    /// The lock was broken while the save held it; nothing was published.
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

/// A failed operation of the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    operation: &'static str,
    session: Option<SessionName>,
    errno: Errno,
}

impl Error {
    pub(super) fn new(kind: Kind, operation: &'static str, errno: Errno) -> Self {
        Self {
            kind,
            operation,
            session: None,
            errno,
        }
    }

    pub(super) fn of(mut self, session: &SessionName) -> Self {
        self.session = Some(session.clone());
        self
    }

    /// The reason.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The session it happened to, if it happened to one.
    pub fn session(&self) -> Option<&SessionName> {
        self.session.as_ref()
    }

    /// The errno of the system call that failed; for a refusal that no call
    /// made, the one that fits best.
    pub fn errno(&self) -> i32 {
        self.errno.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(session) = &self.session {
            write!(f, "{session}: ")?;
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
                std::io::Error::from(self.errno)
            ),
            Kind::Os => write!(
                f,
                "{}: {}",
                self.operation,
                std::io::Error::from(self.errno)
            ),
        }
    }
}

impl std::error::Error for Error {}

/// Puts the operation to an errno.
pub(super) trait During<T> {
    /// The errno as an [`Error`] of `operation`.
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for crate::sys::Result<T> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|errno| Error::new(Kind::Os, operation, errno))
    }
}
