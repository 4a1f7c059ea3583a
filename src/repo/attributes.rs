//! Mode, owner, extended attributes and ACLs: those of the checkpoint, which a save keeps
//! (DESIGN 2.7), and those that its writer sets.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use super::checkpoint::Checkpoint;
use super::error::{During, Error, Kind, Result};
use super::lock;
use super::session::Session;
use crate::sys::{self, Errno, Mode, Statx, Timestamps, XattrFlags};

/// Attributes to be set at once. What is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Times of access and modification.
    pub times: Option<Timestamps>,
}

impl Attributes {
    /// Whether nothing is to be set.
    pub fn is_empty(&self) -> bool {
        self.mode.is_none() && self.uid.is_none() && self.gid.is_none() && self.times.is_none()
    }

    /// Sets them on an open file, which may be an `O_PATH` descriptor.
    pub(crate) fn apply(&self, to: impl AsFd) -> sys::Result<()> {
        let to = to.as_fd();
        if self.uid.is_some() || self.gid.is_some() {
            sys::chown(to, self.uid, self.gid)?;
        }
        // After chown(2), which clears setuid and setgid.
        if let Some(mode) = self.mode {
            sys::chmod(to, Mode::from_raw_mode(mode))?;
        }
        if let Some(times) = &self.times {
            sys::futimens(to, times)?;
        }
        Ok(())
    }
}

impl Session {
    /// Sets attributes of the current checkpoint, at once and without a save.
    ///
    /// # Errors
    /// [`Kind::Superseded`] if `of` is not the current checkpoint any more,
    /// and [`Kind::Os`] with the errno.
    pub(crate) fn set_attributes(&self, of: &Checkpoint, attributes: &Attributes) -> Result<()> {
        self.change_current(of, || attributes.apply(of.as_path_fd()))
    }

    /// Sets an extended attribute of the current checkpoint, with the flags of
    /// setxattr(2), or removes it if `value` is `None`; at once and without a save.
    ///
    /// # Errors
    /// As for [`set_attributes`](Self::set_attributes).
    pub(crate) fn set_xattr(
        &self,
        of: &Checkpoint,
        name: &CStr,
        value: Option<&[u8]>,
        flags: XattrFlags,
    ) -> Result<()> {
        self.change_current(of, || set_xattr(of.as_path_fd(), name, value, flags))
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
        change().during("set attributes").map_err(|e| self.tell(e))
    }
}

/// Sets an extended attribute, with the flags of setxattr(2), or removes it if `value` is
/// `None`.
pub(super) fn set_xattr(
    to: BorrowedFd<'_>,
    name: &CStr,
    value: Option<&[u8]>,
    flags: XattrFlags,
) -> sys::Result<()> {
    match value {
        Some(value) => sys::set_xattr(to, name, value, flags),
        None => sys::remove_xattr(to, name),
    }
}

/// The attributes that the writer of a staged file has set itself: a save does not copy
/// those from the checkpoint that it replaces. Their values are only on the file.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) mode: bool,
    pub(super) uid: bool,
    pub(super) gid: bool,
    times: bool,
    /// The names of extended attributes, with ACLs.
    xattrs: BTreeSet<CString>,
    /// The length of all names, in bytes.
    len: usize,
}

impl Own {
    /// The most bytes of names that are remembered: more than ext4 has room for.
    const MOST: usize = 16 << 10;

    pub(super) fn is_empty(&self) -> bool {
        !(self.mode || self.uid || self.gid || self.times) && self.xattrs.is_empty()
    }

    pub(super) fn add(&mut self, attributes: &Attributes) {
        self.mode |= attributes.mode.is_some();
        self.uid |= attributes.uid.is_some();
        self.gid |= attributes.gid.is_some();
        self.times |= attributes.times.is_some();
    }

    /// Fails with `ENOSPC` if there is no room for one more name.
    pub(super) fn room_for(&self, name: &CStr) -> sys::Result<()> {
        if self.xattrs.contains(name) || self.len + name.count_bytes() <= Self::MOST {
            return Ok(());
        }
        Err(Errno::NOSPC)
    }

    pub(super) fn add_xattr(&mut self, name: &CStr) {
        // An ACL contains the permissions of the group class, and so does the mode.
        self.mode |= is_acl(name);
        if self.xattrs.insert(name.to_owned()) {
            self.len += name.count_bytes();
        }
    }

    fn has(&self, name: &CStr) -> bool {
        self.xattrs.contains(name) || self.mode && is_acl(name)
    }
}

/// Gives a staged file mode, owner, extended attributes and ACLs of a checkpoint, except
/// what its writer has set itself.
///
/// `mode` is set instead of the checkpoint's. An attribute that cannot be kept is an
/// error, except `security.*`: the system's security modules set those themselves.
pub(super) fn inherit(
    (from, old): (&Checkpoint, &Statx),
    to: BorrowedFd<'_>,
    own: &Own,
    mode: u32,
) -> Result<()> {
    let new = sys::fstat(to).during("stat the staged file")?;
    let uid = (old.stx_uid != new.stx_uid && !own.uid).then_some(old.stx_uid);
    let gid = (old.stx_gid != new.stx_gid && !own.gid).then_some(old.stx_gid);
    if uid.is_some() || gid.is_some() {
        sys::chown(to, uid, gid).during("keep the owner")?;
    }
    let wanted = xattr_names(from.as_path_fd()).during("keep the extended attributes")?;
    // Before the mode, which may not permit it any more.
    inherit_xattrs(from, to, &wanted, |name| !is_acl(name) && !own.has(name))?;
    if !own.mode {
        sys::chmod(to, Mode::from_raw_mode(mode)).during("keep the mode")?;
    }
    inherit_xattrs(from, to, &wanted, |name| is_acl(name) && !own.has(name))
}

/// Removes the extended attributes that [`inherit`] has set. ext4 has two places for
/// them, and lists the first place first: set again in that order, in an empty file, they
/// fit where they fitted before (Linux 6.18).
///
/// Those that the writer has set stay.
pub(super) fn clear(file: BorrowedFd<'_>, own: &Own) -> Result<()> {
    let clear = || {
        let names = xattr_names(file)?;
        let mut others = names
            .iter()
            .filter(|name| !is_security(name) && !own.has(name));
        others.try_for_each(|name| take_off(file, name))
    };
    clear().during("keep the extended attributes")
}

fn inherit_xattrs(
    from: &Checkpoint,
    to: BorrowedFd<'_>,
    wanted: &[CString],
    which: impl Fn(&CStr) -> bool,
) -> Result<()> {
    copy_xattrs(from, to, wanted, which).during("keep the extended attributes")
}

fn copy_xattrs(
    from: &Checkpoint,
    to: BorrowedFd<'_>,
    wanted: &[CString],
    which: impl Fn(&CStr) -> bool,
) -> sys::Result<()> {
    // A default ACL of the directory has given the staged file one.
    for name in xattr_names(to)? {
        if which(&name) && !wanted.contains(&name) && !is_security(&name) {
            take_off(to, &name)?;
        }
    }
    for name in wanted.iter().filter(|name| which(name)) {
        let value = match sys::get_xattr(from.as_path_fd(), name) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        match sys::set_xattr(to, name, &value, XattrFlags::empty()) {
            Err(errno) if is_security(name) => {
                log::debug!("the attribute {name:?} is left to the system: {errno}");
            }
            other => other?,
        }
    }
    Ok(())
}

/// The names of the extended attributes that a save keeps; none if the filesystem has no
/// such attributes.
fn xattr_names(fd: BorrowedFd<'_>) -> sys::Result<Vec<CString>> {
    let list = match sys::list_xattrs(fd) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(list
        .split_inclusive(|&byte| byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        // A write to the file would have removed the capability, too.
        .filter(|&name| name != lock::MARK && name != c"security.capability")
        .map(CStr::to_owned)
        .collect())
}

/// Whether this is an ACL. ACLs and mode change with each other. XFS shows ACLs to root
/// under another name, too (Linux 6.18, fs/xfs/xfs_xattr.c).
fn is_acl(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"system.") || name.starts_with(b"trusted.SGI_ACL_")
}

/// removexattr(2) of an attribute that may be gone along with another one.
fn take_off(file: BorrowedFd<'_>, name: &CStr) -> sys::Result<()> {
    match sys::remove_xattr(file, name) {
        Err(Errno::NODATA) => Ok(()),
        other => other,
    }
}

fn is_security(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"security.")
}

/// The mode that is left when a process without `CAP_FSETID` changes a file, if it
/// differs: without setuid, and without setgid unless that stands for mandatory locking
/// (inode(7)).
pub(crate) fn without_privileges(mode: u32) -> Option<u32> {
    let mut left = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        left &= !libc::S_ISGID;
    }
    (left != mode).then_some(left & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_takes_privileges_away() {
        for (mode, left) in [
            (0o644, None),
            (0o4755, Some(0o755)),
            (0o106755, Some(0o755)),
            (0o2755, Some(0o755)),
            // Mandatory locking.
            (0o2644, None),
            (0o1777, None),
        ] {
            assert_eq!(without_privileges(mode), left, "{mode:o}");
        }
    }

    #[test]
    fn names_are_remembered_up_to_a_limit() {
        let mut own = Own::default();
        let name = |number: usize| CString::new(format!("user.{number:0>95}")).unwrap();
        let most = Own::MOST / 100;
        for number in 0..most {
            own.room_for(&name(number)).unwrap();
            own.add_xattr(&name(number));
        }
        assert_eq!(own.room_for(&name(most)), Err(Errno::NOSPC));
        assert_eq!(own.room_for(&name(0)), Ok(()), "it is known");
        own.add_xattr(&name(0));
        assert!(own.has(&name(0)) && !own.has(&name(most)));
    }
}
