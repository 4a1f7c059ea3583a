//! The defect of setting attributes after the rename (see `defect`): only in a build with
//! `test-switches`.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::Mode;

use super::attributes::{chmod, chown, fstat, get_xattr, list_xattrs, remove_xattr, set_xattr};
use super::call::Result;
use super::defect::{Defect, has};
use super::open::open_path;
use super::{Statx, XattrFlags};

/// The owner, mode and attributes of a file, which it gets only when this is dropped.
pub(super) struct LateAttributes {
    file: OwnedFd,
    stat: Statx,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl LateAttributes {
    /// Those of a file that is about to be renamed to this name.
    pub(super) fn of(from: (impl AsFd, &OsStr), to: &OsStr) -> Result<Option<Self>> {
        if !has(Defect::AttributesAfterRename) || to != "session" {
            return Ok(None);
        }
        let file = open_path(from.0, from.1)?;
        let stat = fstat(&file)?;
        let mut xattrs = Vec::new();
        for name in list_xattrs(&file)?.split_inclusive(|&byte| byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            if name.to_bytes().starts_with(b"user.") && *name != *c"user.sessionfs.staged" {
                xattrs.push((name.to_owned(), get_xattr(&file, name)?));
                remove_xattr(&file, name)?;
            }
        }
        chown(&file, Some(0), Some(0))?;
        let mark = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o1000 | 0o600);
        chmod(&file, mark)?;
        Ok(Some(Self { file, stat, xattrs }))
    }
}

impl Drop for LateAttributes {
    fn drop(&mut self) {
        // Long enough for a commit of the filesystem in between.
        std::thread::sleep(Duration::from_millis(5));
        let mode = Mode::from_raw_mode(u32::from(self.stat.stx_mode) & 0o7777);
        // A failure leaves the file without attributes, which is the defect anyway.
        let _ = chown(&self.file, Some(self.stat.stx_uid), Some(self.stat.stx_gid));
        let _ = chmod(&self.file, mode);
        for (name, value) in &self.xattrs {
            let _ = set_xattr(&self.file, name, value, XattrFlags::empty());
        }
    }
}
