//! Which callers may use the mount, and which may get a writer (DESIGN 13.1).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::fs::caller::credentials::ACL;
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::request::Caller;
use crate::repo::{Checkpoint, Session};
use crate::sys::{self, Errno};

impl Fs {
    /// Checks that the caller could reach the repository without the mount: the mount
    /// must not be a way around the permissions of the directories above the repository.
    /// The kernel asks for the root's attributes on every path through it, and this is
    /// called then.
    ///
    /// # Errors
    /// `EACCES`
    pub(in crate::fs) fn admit(&self, caller: Caller) -> Result<()> {
        let is_root = caller.uid == 0;
        if !self.options.allow_other || is_root || caller.is_daemon() {
            return Ok(());
        }
        let root = self.repository.root()?;
        let path = match &root {
            None => self.repository.path().to_owned(),
            // The repository may have been moved.
            Some(root) => {
                let path = sys::path_of(&**root)?;
                PathBuf::from(OsStr::from_bytes(path.to_bytes()))
            }
        };
        if is_open_to_all(&path) {
            return Ok(());
        }
        match caller.act(|| sys::stat(sys::CWD, path.as_os_str())) {
            Ok(_) => Ok(()),
            // The repository is missing; the directories above it let the caller pass.
            Err(Errno::NOENT) if root.is_none() => Ok(()),
            Err(_) => Err(Errno::ACCESS.into()),
        }
    }

    /// Checks that the caller may get a writer that starts from `base`.
    ///
    /// With `allow_other` the kernel has checked the caller's permission on the file. But
    /// a save would also replace a file that must not be written (one of the daemon's own
    /// user with mode 0444, an immutable one): that is refused here, at the open, as on
    /// any filesystem. And a first checkpoint is a new file in its directory, for which
    /// the kernel has not checked the permission.
    ///
    /// # Errors
    /// Those of access(2); `EPERM` for another user than that of an unprivileged daemon:
    /// it could not make files that belong to that user, and `/proc` would not show it
    /// whether the writing process was killed (DESIGN 5).
    pub(in crate::fs) fn check_writer(
        &self,
        session: &Session,
        base: Option<&Checkpoint>,
        caller: Caller,
    ) -> Result<()> {
        caller.check()?;
        match base {
            Some(base) => sys::access(base.as_path_fd(), libc::W_OK)?,
            None => caller.act(|| sys::access(session.dir(), libc::W_OK | libc::X_OK))?,
        }
        Ok(())
    }
}

/// Whether all users may pass all directories above a path. A directory with an ACL
/// counts as closed, as the ACL may exclude somebody.
fn is_open_to_all(path: &Path) -> bool {
    path.ancestors().skip(1).all(|dir| {
        let Ok(fd) = sys::open_path(sys::CWD, dir.as_os_str()) else {
            return false;
        };
        let open = |stat: sys::Statx| stat.stx_mode & 0o111 == 0o111;
        let without_acl = matches!(
            sys::get_xattr(&fd, ACL),
            Err(Errno::NODATA | Errno::OPNOTSUPP)
        );
        without_acl && sys::fstat(&fd).is_ok_and(open)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_closed_directory_closes_all_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a/b");
        fs::create_dir_all(&path).unwrap();
        let set = |mode| fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
        set(0o711);
        assert!(is_open_to_all(&path));
        assert!(is_open_to_all(&path.join("missing")));
        for closed in [0o700, 0o710, 0o701, 0o611] {
            set(closed);
            assert!(!is_open_to_all(&path), "{closed:o}");
        }
        set(0o700);
    }
}
