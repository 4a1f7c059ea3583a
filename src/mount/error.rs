//! Errors of mounting and unmounting, each in one line.

use std::fmt;
use std::path::Path;

/// The result of the operations of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// The reasons for which a mount or an unmount fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It would do harm, or make no sense; nothing was done.
    Refused,
    /// There is no such file or directory.
    NotFound,
    /// The mount is in use.
    Busy,
    /// A system call or the helper failed.
    Failed,
}

/// A failed mount or unmount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    /// The message names the thing, the reason, and what to do about it.
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// What could not be mounted, and why.
    pub(super) fn cannot_mount(mountpoint: &Path, reason: impl fmt::Display) -> Self {
        Self::failed(format!(
            "cannot mount on {}: {reason}",
            mountpoint.display()
        ))
    }

    /// The reason.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Why an unmount failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unmount {
    /// Something in it is open, or somebody's current directory.
    Busy,
    /// For another reason.
    Failed(String),
}

impl fmt::Display for Unmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("it is in use"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}
