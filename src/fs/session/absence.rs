//! What is shown of a session without a checkpoint (DESIGN 2.12).
//!
//! By default every caller is shown an empty `session` there, because the original reads
//! a missing checkpoint as empty. But a call that makes a file only where there is none
//! would fail because of it (`cp -r` of a whole session, `tar`, `install`, `ln`). Such a
//! caller is told that there is no file. A shown file that is to be renamed or linked
//! becomes a real empty file first.
//!
//! With [`Missing::Absent`] no file is shown.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::Role;
use crate::fs::options::Missing;
use crate::fs::request::Request;
use crate::fs::session::found::Found;
use crate::proc::status;
use crate::proc::syscall::Call;
use crate::repo::CHECKPOINT;
use crate::sys::{self, Errno};

impl Fs {
    /// Whether a thread that looks up an absent checkpoint gets the answer that there is
    /// none. `found` is what it has looked up before.
    pub(in crate::fs) fn must_see_absence(&self, tid: u32, found: Option<Found>) -> bool {
        let must_see = match Aim::of(tid) {
            Aim::New => true,
            Aim::Name => found.is_some_and(Found::is_recent),
            Aim::Other => false,
        };
        if !must_see && found.is_some() {
            self.threads.forget_found(tid);
        }
        must_see
    }

    /// Makes a real empty checkpoint where only the shown one exists, before that is
    /// renamed, or gets a further name.
    pub(in crate::fs) fn make_shown(
        &self,
        (parent, name): (u64, &OsStr),
        request: Request,
    ) -> Result<()> {
        if self.options.missing == Missing::Absent
            || !self.is_checkpoint(parent, name)?
            || !matches!(sys::stat(&*self.dir(parent)?.fd, name), Err(Errno::NOENT))
            // This process has removed it: it is not shown to it.
            || self.lasting.sessions.removed_by(request.caller.tid, parent).is_some()
        {
            return Ok(());
        }
        request.patience.must_wait()?;
        let mode = self.mode_of_new(parent, 0o644, status::umask(request.caller.tid))?;
        self.make_empty_checkpoint(parent, mode, request)
    }

    /// As [`make_shown`](Self::make_shown), for a node. Returns the file that was made.
    pub(in crate::fs) fn make_shown_node(
        &self,
        id: u64,
        request: Request,
    ) -> Result<Option<OwnedFd>> {
        if !matches!(self.lasting.nodes.role(id), Some(Role::Empty)) {
            return Ok(None);
        }
        let (parent, name) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
        self.make_shown((parent, &name), request)?;
        Ok(Some(sys::open_path(
            &*self.dir(parent)?.fd,
            OsStr::new(CHECKPOINT),
        )?))
    }
}

/// What a thread that waits for our answer is trying to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// It makes a new name, and fails if that exists.
    New,
    /// It makes a new name for an existing file, and fails if the new name exists. The
    /// lookup may be of either name. The kernel looks up the existing one first.
    Name,
    /// Anything else, or unknown.
    Other,
}

impl Aim {
    fn of(tid: u32) -> Self {
        Call::of(tid).map_or(Self::Other, |call| {
            Self::of_call(call.number, &call.arguments)
        })
    }

    fn of_call(number: i64, arguments: &[u64; 6]) -> Self {
        let has = |argument: usize, flag: u32| arguments[argument] & u64::from(flag) != 0;
        // The file to be linked is given by a descriptor, or by a path in /proc to one:
        // it has no name here.
        let by_descriptor = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_FOLLOW).cast_unsigned();
        match number {
            libc::SYS_openat if has(2, libc::O_EXCL.cast_unsigned()) => Self::New,
            libc::SYS_renameat2 if has(4, libc::RENAME_NOREPLACE) => Self::Name,
            libc::SYS_linkat if has(4, by_descriptor) => Self::New,
            libc::SYS_linkat => Self::Name,
            libc::SYS_symlinkat | libc::SYS_mknodat | libc::SYS_mkdirat => Self::New,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open if has(1, libc::O_EXCL.cast_unsigned()) => Self::New,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_link => Self::Name,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_symlink | libc::SYS_mknod | libc::SYS_mkdir => Self::New,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::syscall::parse;

    fn aim(number: i64, arguments: &str) -> Aim {
        parse(&format!("{number} {arguments} 0x7ff 0x7fe"))
            .map_or(Aim::Other, |(number, arguments)| {
                Aim::of_call(number, &arguments)
            })
    }

    #[test]
    fn calls_that_make_only_new_names_are_recognized() {
        let exclusive = "0xffffff9c 0x7f 0xc1 0x1b6 0x0 0x0";
        assert_eq!(aim(libc::SYS_openat, exclusive), Aim::New);
        let other = "0xffffff9c 0x7f 0x241 0x1b6 0x0 0x0";
        assert_eq!(aim(libc::SYS_openat, other), Aim::Other);
        assert_eq!(aim(libc::SYS_statx, exclusive), Aim::Other);
        let rename = "0xffffff9c 0x7f 0xffffff9c 0x7f 0x1 0x0";
        assert_eq!(aim(libc::SYS_renameat2, rename), Aim::Name);
        let exchange = "0xffffff9c 0x7f 0xffffff9c 0x7f 0x2 0x0";
        assert_eq!(aim(libc::SYS_renameat2, exchange), Aim::Other);
        let link = "0xffffff9c 0x7f 0xffffff9c 0x7f 0x0 0x0";
        assert_eq!(aim(libc::SYS_linkat, link), Aim::Name);
        let by_descriptor = "0x3 0x7f 0xffffff9c 0x7f 0x1000 0x0";
        assert_eq!(aim(libc::SYS_linkat, by_descriptor), Aim::New);
    }
}
