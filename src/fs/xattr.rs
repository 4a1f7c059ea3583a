//! Extended attributes, ACLs among them (DESIGN 2.7).

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use crate::fs::caller::credentials::{ACL, acl_of_absent};
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::Role;
use crate::fs::request::{Patience, Request};
use crate::repo::is_mark;
use crate::sys::{self, Errno, XattrFlags};

impl Fs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// `ENODATA`, and those of getxattr(2).
    pub fn getxattr(&self, id: u64, name: &OsStr, patience: Patience) -> Result<Vec<u8>> {
        let name = c_name(name)?;
        match self.role(id)? {
            Role::Writer(writer) => writer.xattr(&name, patience),
            Role::Empty if *name == *ACL => {
                let (parent, _) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
                Ok(acl_of_absent(sys::get_xattr(&self.dir(parent)?.fd, ACL)?))
            }
            Role::Empty | Role::Report => Err(Errno::NODATA.into()),
            // While there is no repository, an empty directory is shown.
            Role::Root if self.repository.root()?.is_none() => Err(Errno::NODATA.into()),
            Role::Checkpoint if is_mark(&name) => Err(Errno::NODATA.into()),
            _ => Ok(sys::get_xattr(&*self.path_fd(id)?, &name)?),
        }
    }

    /// The names of all attributes, each with a NUL behind it.
    ///
    /// # Errors
    /// Those of listxattr(2).
    pub fn listxattr(&self, id: u64, request: Request) -> Result<Vec<u8>> {
        let is_checkpoint = matches!(self.role(id)?, Role::Writer(_) | Role::Checkpoint);
        let list = self.all_xattrs(id, request.patience)?;
        let names = list.split_inclusive(|&byte| byte == 0);
        Ok(names
            .filter(|name| !(is_checkpoint && is_name_of_mark(name)))
            // As filesystems do themselves (xattr(7)).
            .filter(|name| request.caller.uid == 0 || !name.starts_with(b"trusted."))
            .flatten()
            .copied()
            .collect())
    }

    fn all_xattrs(&self, id: u64, patience: Patience) -> Result<Vec<u8>> {
        match self.role(id)? {
            Role::Writer(writer) => writer.xattr_names(patience),
            Role::Empty | Role::Report => Ok(Vec::new()),
            Role::Root if self.repository.root()?.is_none() => Ok(Vec::new()),
            _ => Ok(sys::list_xattrs(&*self.path_fd(id)?)?),
        }
    }

    /// Sets an attribute, or removes it if `value` is `None`.
    ///
    /// # Errors
    /// Those of setxattr(2) and removexattr(2).
    pub fn setxattr(
        &self,
        id: u64,
        name: &OsStr,
        value: Option<&[u8]>,
        flags: i32,
        request: Request,
    ) -> Result<()> {
        let name = c_name(name)?;
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        match self.role(id)? {
            Role::Writer(writer) => writer.set_xattr(&name, (value, flags), request),
            Role::Empty => {
                let (parent, _) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
                let writer = self.new_writer(parent, id, libc::O_WRONLY, request.caller)?;
                writer.set_xattr(&name, (value, flags), request)
            }
            Role::Report => Err(Errno::PERM.into()),
            Role::Checkpoint if is_mark(&name) => {
                Err(value.map_or(Errno::NODATA, |_| Errno::PERM).into())
            }
            _ => {
                let fd = self.path_fd(id)?;
                let set = || match value {
                    Some(value) => Ok(sys::set_xattr(&*fd, &name, value, flags)?),
                    None => Ok(sys::remove_xattr(&*fd, &name)?),
                };
                request
                    .caller
                    .act_on_attribute((&name, value), fd.as_fd(), set)
            }
        }
    }
}

fn is_name_of_mark(name: &[u8]) -> bool {
    CStr::from_bytes_with_nul(name).is_ok_and(is_mark)
}

fn c_name(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL.into())
}
