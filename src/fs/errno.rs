//! Failures as the kernel is told of them: the one table from the storage's errors to
//! errnos, which also logs them (I5).

use fuser::Errno;

use crate::{repo, sys};

/// Why an operation was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    /// The errno for the caller.
    Errno(i32),
    /// It would have to wait, and must not. It is called again on a thread that may wait.
    /// Nothing has been changed.
    WouldBlock,
}

/// The result of every operation.
pub type Result<T> = std::result::Result<T, Fail>;

impl Fail {
    /// The errno for fuser. It is never called for `WouldBlock`.
    pub fn errno(self) -> Errno {
        match self {
            Self::Errno(errno) => Errno::from_i32(errno),
            Self::WouldBlock => Errno::EAGAIN,
        }
    }
}

impl From<sys::Errno> for Fail {
    fn from(errno: sys::Errno) -> Self {
        Self::Errno(errno.raw_os_error())
    }
}

/// Errnos of a disk or machine that is full or has a fault: they are logged as warnings.
/// Any other errno is an ordinary answer.
const TROUBLE: [i32; 9] = [
    libc::EIO,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EROFS,
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOMEM,
    libc::EUCLEAN,
    libc::ENODEV,
];

impl From<repo::Error> for Fail {
    /// Logs the error, too.
    fn from(error: repo::Error) -> Self {
        let level = match TROUBLE.contains(&error.errno()) {
            true => log::Level::Warn,
            false => log::Level::Debug,
        };
        log::log!(level, "{error}");
        Self::of(&error)
    }
}

impl Fail {
    /// The failure for an error that has been logged.
    pub(in crate::fs) fn of(error: &repo::Error) -> Self {
        use repo::Kind;
        Self::Errno(match error.kind() {
            Kind::NotFound => libc::ENOENT,
            Kind::Exists => match error.errno() {
                libc::ENOTEMPTY => libc::ENOTEMPTY,
                _ => libc::EEXIST,
            },
            Kind::Locked => libc::EBUSY,
            Kind::Superseded => libc::ESTALE,
            Kind::LockBroken => libc::ECANCELED,
            Kind::InvalidName | Kind::Forbidden | Kind::NotAFile | Kind::NotDurable | Kind::Os => {
                error.errno()
            }
        })
    }
}
