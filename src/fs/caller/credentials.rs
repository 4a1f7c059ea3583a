//! Callers that are not the user of the daemon, on a mount with `allow_other`.
//!
//! The kernel checks permissions on the mount itself (`default_permissions`),
//! by the modes, owners and ACLs that it is told of (`FUSE_POSIX_ACL`). Three
//! things it cannot do, and they are done here, with the caller's own ids and
//! groups: make something that is his from its first moment, change an ACL as
//! it would for him, and look at the directories above the repository.
//!
//! Seen on Linux 6.18: with attributes that are never believed without asking
//! (a TTL of 0), the kernel asks GETATTR for each part of a path, and for the
//! ACL as well if the caller is not the owner: 3 and up to 3 more requests for
//! a read (18 microseconds become 45 and 60), twice that for a save. So that is
//! only done where there are others. Without them every caller is who the
//! daemon is, and what the backing filesystem refuses it is refused to him.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use crate::fs::request::Caller;
use crate::proc::{self, File, OutOfExec, status};
use crate::repo::{Attributes, Checkpoint, Permit};
use crate::sys::{self, Errno};

/// The extended attribute that is the ACL of a file.
pub(in crate::fs) const ACL: &CStr = c"system.posix_acl_access";

impl Caller {
    /// Does something with the ids and groups of the caller: what comes of it
    /// is what he would get without us, and belongs to him at once.
    ///
    /// # Errors
    /// `EPERM` if the daemon is an ordinary user, and the caller another one.
    pub(in crate::fs) fn act<T>(self, f: impl FnOnce() -> sys::Result<T>) -> sys::Result<T> {
        let _acting = self.credentials()?.begin()?;
        f()
    }

    /// Does what the kernel has let the caller do, and does it as the caller, if that
    /// is somebody whom we see: the kernel goes by what it was told last, which may
    /// be a second old. In a directory with the sticky bit another user's session may
    /// have taken the name by then.
    pub(in crate::fs) fn act_if_seen<T>(
        self,
        f: impl FnOnce() -> sys::Result<T>,
    ) -> sys::Result<T> {
        if self.tid != 0 && self.check().is_ok() {
            self.act(f)
        } else {
            f()
        }
    }

    /// Who he is at this moment.
    ///
    /// # Errors
    /// `EPERM` if the daemon is an ordinary user, and the caller another one.
    pub(in crate::fs) fn credentials(self) -> sys::Result<Credentials> {
        if self.is_daemon() {
            return Ok(Credentials { ids: None });
        }
        self.check()?;
        Ok(Credentials {
            ids: Some(sys::FileIds {
                uid: self.uid,
                gid: self.gid,
                // Of a caller outside of our pid namespace: none.
                groups: status::groups(self.tid),
            }),
        })
    }

    /// Whether he keeps the setuid and setgid bits of what he changes
    /// (`CAP_FSETID`, capabilities(7)); not if nobody can tell. The capabilities
    /// of another user namespace than ours do not count.
    pub(in crate::fs) fn keeps_privileges(self) -> bool {
        let namespace = |tid| OutOfExec::known(tid).namespace("user").ok();
        self.uid == 0
            && status::keeps_privileges(self.tid)
            && namespace(std::process::id()).is_some_and(|ours| namespace(self.tid) == Some(ours))
    }

    /// Has this thread act as the caller while it changes attributes of a file,
    /// of which this is the status now; `None` if it is to do that as itself.
    ///
    /// The kernel has asked whether he may, but goes by the owner and the group
    /// that it was told of last (setattr_prepare, fs/attr.c, Linux 6.18), which
    /// may have been changed since. Two things it has decided otherwise: that a
    /// change of the content takes setuid and setgid off, for who need not own the
    /// file (file_remove_privs), and what root of a user namespace may do.
    ///
    /// # Errors
    /// As of [`credentials`](Self::credentials).
    pub(in crate::fs) fn to_change(
        self,
        file: &sys::Statx,
        attributes: &Attributes,
    ) -> sys::Result<Option<Acting>> {
        if self.is_daemon()
            || takes_privileges_only(file.stx_mode.into(), attributes)
            || self.rules_over(file)
        {
            return Ok(None);
        }
        self.credentials()?.begin().map(Some)
    }

    /// Whether he has capabilities over the owner of a file: those of a user
    /// namespace count for the users in it (user_namespaces(7)).
    fn rules_over(self, file: &sys::Statx) -> bool {
        let read = |file| proc::read(self.tid, file).unwrap_or_default();
        has_power_over_files(&read(File::Status))
            && maps(&read(File::UidMap), file.stx_uid)
            && maps(&read(File::GidMap), file.stx_gid)
    }

    /// Whether he is somebody whom the daemon can act as.
    pub(in crate::fs) fn check(self) -> sys::Result<()> {
        let daemon = rustix::process::geteuid();
        if daemon.is_root() || daemon.as_raw() == self.uid {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    }

    pub(in crate::fs) fn is_daemon(self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
            && self.gid == rustix::process::getegid().as_raw()
    }
}

/// The ids and groups that somebody has had at one moment: what he may do then he
/// may do with what he has opened.
#[derive(Debug, Clone)]
pub(in crate::fs) struct Credentials {
    /// `None`: the daemon's own.
    ids: Option<sys::FileIds>,
}

impl Credentials {
    /// Has this thread act as him until the answer is dropped.
    ///
    /// # Errors
    /// `EPERM` if the daemon is an ordinary user.
    pub(in crate::fs) fn begin(&self) -> sys::Result<Acting> {
        let mut acting = Acting {
            own: None,
            _not_send: PhantomData,
        };
        if let Some(his) = &self.ids {
            // Before anything is changed: half a change is undone as well.
            acting.own = Some(sys::FileIds::of_this_process()?);
            his.assume()?;
        }
        Ok(acting)
    }
}

/// A save where it was not begun (DESIGN 13.1): it is the opener who asks.
impl Permit for Credentials {
    fn may_write(&self, checkpoint: &Checkpoint) -> sys::Result<()> {
        let _acting = self.begin()?;
        sys::access(checkpoint.as_path_fd(), libc::W_OK)
    }

    fn may_create(&self, dir: BorrowedFd<'_>) -> sys::Result<()> {
        let _acting = self.begin()?;
        sys::access(dir, libc::W_OK | libc::X_OK)
    }
}

/// This thread acts as a caller until this value is dropped.
pub(in crate::fs) struct Acting {
    /// What it goes back to, if it is not itself all the time.
    own: Option<sys::FileIds>,
    /// Of this thread only.
    _not_send: PhantomData<*const ()>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        if let Some(own) = &self.own
            && let Err(errno) = own.assume()
        {
            log::error!("a thread stays with the groups of a caller: {errno}");
        }
    }
}

/// Whether nothing is to be set but the mode, and of that only setuid and setgid
/// are taken off.
fn takes_privileges_only(now: u32, attributes: &Attributes) -> bool {
    let Attributes {
        mode: Some(mode),
        uid: None,
        gid: None,
        times: None,
    } = *attributes
    else {
        return false;
    };
    let (now, mode) = (now & 0o7777, mode & 0o7777);
    mode & !now == 0 && now & !mode & !0o6000 == 0
}

/// Whether a thread has `CAP_CHOWN`, `CAP_FOWNER` and `CAP_FSETID`; `status` is in
/// the form of proc_pid_status(5).
fn has_power_over_files(status: &[u8]) -> bool {
    status::has_capabilities(status, 1 << 0 | 1 << 3 | 1 << 4)
}

/// Whether a map of a user namespace, in the form of user_namespaces(7), has a
/// user or group of ours.
fn maps(map: &[u8], id: u32) -> bool {
    let map = String::from_utf8_lossy(map);
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (_, first, count) = (fields.next(), fields.next(), fields.next());
        match (first, count) {
            (Some(Ok(first)), Some(Ok(count))) => {
                (first..first.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// The ACL of a checkpoint that is not there yet, from that of its directory:
/// everybody may read it, and who may make it may write it.
///
/// `acl` is as of linux/posix_acl_xattr.h: a version of 4 bytes, and entries
/// of a tag (2 bytes), permissions (2, little-endian) and an id (4).
pub(in crate::fs) fn acl_of_absent(mut acl: Vec<u8>) -> Vec<u8> {
    for entry in acl.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        entry[2] = (entry[2] | 0o4) & !0o1;
    }
    acl
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_privileges_only_is_told_from_other_changes() {
        let mode = |mode| Attributes {
            mode: Some(mode),
            ..Attributes::default()
        };
        for (now, set, only) in [
            (0o104_755, 0o755, true),
            (0o106_755, 0o4755, true),
            (0o755, 0o755, true),
            (0o6755, 0o6755, true),
            (0o755, 0o4755, false),
            (0o4755, 0o2755, false),
            (0o4755, 0o700, false),
            (0o1755, 0o755, false),
            (0o4755, 0o757, false),
        ] {
            assert_eq!(
                takes_privileges_only(now, &mode(set)),
                only,
                "{now:o} {set:o}"
            );
        }
        let owner = Attributes {
            uid: Some(0),
            ..mode(0o755)
        };
        assert!(!takes_privileges_only(0o4755, &owner));
        assert!(!takes_privileges_only(0o4755, &Attributes::default()));
    }

    #[test]
    fn a_map_has_the_ids_of_its_ranges() {
        let map = b"         0      61001          1\n      1000     100000      65536\n";
        for (id, is_in) in [(61001, true), (61002, false), (0, false), (100_000, true)] {
            assert_eq!(maps(map, id), is_in, "{id}");
        }
        assert!(maps(map, 165_535) && !maps(map, 165_536));
        assert!(maps(b"0 0 4294967295", 7));
        assert!(!maps(b"", 0) && !maps(b"0 0", 0) && !maps(b"0 x 9", 0));
        assert!(maps(b"0 1 18446744073709551615", u32::MAX));
    }

    #[test]
    fn an_acl_of_a_directory_becomes_one_of_a_file() {
        let entry = |permissions| [1, 0, permissions, 0, 9, 9, 9, 9];
        let acl = |permissions: [u8; 3]| {
            let entries = permissions.map(entry).concat();
            [&[2, 0, 0, 0], &entries[..]].concat()
        };
        assert_eq!(acl_of_absent(acl([7, 5, 0])), acl([6, 4, 4]));
        assert_eq!(acl_of_absent(vec![2, 0]), [2, 0]);
    }
}
