//! Changes of names by a process for somebody with other rights (DESIGN 13.1).

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::sys;

/// Somebody who has asked this process to change names, and has other rights.
///
/// The system has let them do it, but a moment ago: in a directory with the sticky
/// bit the name may be another user's file by now. So the change itself is made with
/// their rights. All around it (the lock, syncs) is the process's own.
pub(crate) trait OnBehalf: fmt::Debug + Send + Sync {
    /// Makes a change of the names of `of`: directories, and files that get a name.
    ///
    /// # Errors
    /// Those of the change, which may be tried twice.
    fn change(
        &self,
        of: &[BorrowedFd<'_>],
        change: &dyn Fn() -> sys::Result<()>,
    ) -> sys::Result<()>;
}
