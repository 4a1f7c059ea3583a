//! What a save leaves as it was: mode, owner, extended attributes and ACLs of
//! the checkpoint (DESIGN 2.7).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use super::checkpoint::Checkpoint;
use super::error::{During, Result};
use super::lock;
use crate::sys::{self, Errno, Mode, Timestamps, XattrFlags};

/// Attributes that a writer has set on its file, to be published with it.
/// What is `None` stays as the checkpoint has it.
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
    /// Values of extended attributes by name; `None` removes one.
    pub xattrs: Vec<(CString, Option<Vec<u8>>)>,
}

impl Attributes {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.mode.is_none()
            && self.uid.is_none()
            && self.gid.is_none()
            && self.times.is_none()
            && self.xattrs.is_empty()
    }

    /// Sets them on an open file, which may be an `O_PATH` descriptor.
    pub(crate) fn apply(&self, to: impl AsFd) -> sys::Result<()> {
        let to = to.as_fd();
        if self.uid.is_some() || self.gid.is_some() {
            sys::chown(to, self.uid, self.gid)?;
        }
        // The owner needs the permission to write for all but ACLs.
        self.apply_xattrs(to, |name| !is_acl(name))?;
        // After chown(2), which clears setuid and setgid.
        if let Some(mode) = self.mode {
            sys::chmod(to, Mode::from_raw_mode(mode))?;
        }
        self.apply_xattrs(to, is_acl)?;
        if let Some(times) = &self.times {
            sys::futimens(to, times)?;
        }
        Ok(())
    }

    fn apply_xattrs(&self, to: BorrowedFd<'_>, which: fn(&CStr) -> bool) -> sys::Result<()> {
        for (name, value) in self.xattrs.iter().filter(|(name, _)| which(name)) {
            match value {
                Some(value) => sys::set_xattr(to, name, value, XattrFlags::empty())?,
                None => match sys::remove_xattr(to, name) {
                    Ok(()) | Err(Errno::NODATA) => {}
                    Err(errno) => return Err(errno),
                },
            }
        }
        Ok(())
    }
}

/// Gives a staged file mode, owner, extended attributes and ACLs of the
/// checkpoint that it is going to replace.
///
/// `bits` are added to the mode. What cannot be kept is an error, but for
/// `security.*`: those attributes belong to the system's security modules,
/// which set their own.
pub(super) fn inherit(from: &Checkpoint, to: BorrowedFd<'_>, bits: u32) -> Result<()> {
    let old = from.stat();
    let new = sys::fstat(to).during("stat the staged file")?;
    let uid = (old.stx_uid != new.stx_uid).then_some(old.stx_uid);
    let gid = (old.stx_gid != new.stx_gid).then_some(old.stx_gid);
    if uid.is_some() || gid.is_some() {
        sys::chown(to, uid, gid).during("keep the owner")?;
    }
    let wanted = xattr_names(from.as_path_fd()).during("keep the extended attributes")?;
    // Before the mode, which may take the permission to set them.
    inherit_xattrs(from, to, &wanted, |name| !is_acl(name))?;
    let mode = u32::from(old.stx_mode) & 0o7777 | bits;
    sys::chmod(to, Mode::from_raw_mode(mode)).during("keep the mode")?;
    inherit_xattrs(from, to, &wanted, is_acl)
}

/// Takes off what [`inherit`] has set of extended attributes. ext4 has two places
/// for them, of which the listing shows the first one first: set again in that
/// order, in an empty file, they fit where they fitted before (Linux 6.18).
pub(super) fn clear(file: BorrowedFd<'_>) -> Result<()> {
    let clear = || {
        let names = xattr_names(file)?;
        let mut own = names.iter().filter(|name| !is_security(name));
        own.try_for_each(|name| sys::remove_xattr(file, name))
    };
    clear().during("keep the extended attributes")
}

fn inherit_xattrs(
    from: &Checkpoint,
    to: BorrowedFd<'_>,
    wanted: &[CString],
    which: fn(&CStr) -> bool,
) -> Result<()> {
    copy_xattrs(from, to, wanted, which).during("keep the extended attributes")
}

fn copy_xattrs(
    from: &Checkpoint,
    to: BorrowedFd<'_>,
    wanted: &[CString],
    which: fn(&CStr) -> bool,
) -> sys::Result<()> {
    // A default ACL of the directory has given the staged file one.
    for name in xattr_names(to)? {
        if which(&name) && !wanted.contains(&name) && !is_security(&name) {
            sys::remove_xattr(to, &name)?;
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

/// The names of the extended attributes that a save keeps; none where the
/// filesystem has no such attributes.
fn xattr_names(fd: BorrowedFd<'_>) -> sys::Result<Vec<CString>> {
    let list = match sys::list_xattrs(fd) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(list
        .split_inclusive(|&byte| byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        // A write to the file would have taken the capability off as well.
        .filter(|&name| name != lock::MARK && name != c"security.capability")
        .map(CStr::to_owned)
        .collect())
}

/// ACLs change with the mode, and it with them.
fn is_acl(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"system.")
}

fn is_security(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"security.")
}
