//! Callers that are not the user of the daemon, on a mount with `allow_other`.
//!
//! On such a mount the kernel checks permissions itself (`default_permissions`), by the
//! modes, owners and ACLs that it is told (`FUSE_POSIX_ACL`). Three things it cannot do.
//! They are done here, with the caller's own ids and groups: to make a file that belongs
//! to the caller from the start, to change an ACL with the effects it has for that
//! caller, and to check the directories above the repository.
//!
//! Seen on Linux 6.18: if attributes have a TTL of 0, the kernel asks GETATTR for each
//! component of a path, and also for the ACL if the caller is not the owner. That is 3 to
//! 6 more requests for a read (18 microseconds become 45 to 60), and twice as many for a
//! save. So it is done only with `allow_other`. Without it every caller is the user of
//! the daemon, and the backing filesystem itself checks what that user may do.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use crate::fs::request::Caller;
use crate::proc::{self, File, OutOfExec, status};
use crate::repo::{Attributes, Checkpoint, Permit};
use crate::sys::{self, Errno};

/// The extended attribute that contains the ACL of a file.
pub(in crate::fs) const ACL: &CStr = c"system.posix_acl_access";

impl Caller {
    /// Runs `f` with the ids and groups of the caller, so that it may do what the caller
    /// may, and what it makes belongs to the caller from the start.
    ///
    /// # Errors
    /// `EPERM` if the daemon is an ordinary user, and the caller is another user.
    pub(in crate::fs) fn act<T>(self, f: impl FnOnce() -> sys::Result<T>) -> sys::Result<T> {
        let _acting = self.credentials()?.begin()?;
        f()
    }

    /// Runs `f`, which the kernel has permitted to the caller, with the caller's ids if
    /// it is in our pid namespace. The kernel's check may be a second old: in a directory
    /// with the sticky bit, another user's session may have got the name since.
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

    /// The credentials of the caller at this moment.
    ///
    /// # Errors
    /// `EPERM` if the daemon is an ordinary user, and the caller is another user.
    pub(in crate::fs) fn credentials(self) -> sys::Result<Credentials> {
        if self.is_daemon() {
            return Ok(Credentials { ids: None });
        }
        self.check()?;
        Ok(Credentials {
            ids: Some(sys::FileIds {
                uid: self.uid,
                gid: self.gid,
                // A caller outside our pid namespace has none.
                groups: status::groups(self.tid),
            }),
        })
    }

    /// Whether the caller keeps the setuid and setgid bits of files it changes
    /// (`CAP_FSETID`, capabilities(7)); false if unknown. Capabilities in another user
    /// namespace than ours do not count.
    pub(in crate::fs) fn keeps_privileges(self) -> bool {
        let namespace = |tid| OutOfExec::known(tid).namespace("user").ok();
        self.uid == 0
            && status::keeps_privileges(self.tid)
            && namespace(std::process::id()).is_some_and(|ours| namespace(self.tid) == Some(ours))
    }

    /// Lets this thread act as the caller while it changes attributes of a file whose
    /// status is `file`; `None` if it should act as the daemon.
    ///
    /// The kernel has checked that the caller may change them, but by the owner and group
    /// that it was told last (setattr_prepare, fs/attr.c, Linux 6.18), which may have
    /// changed since. In two cases the kernel decides in another way, and the daemon acts
    /// as itself: when a change of the content removes setuid and setgid, for which a
    /// caller need not own the file (file_remove_privs), and for root of a user
    /// namespace.
    ///
    /// # Errors
    /// As of [`credentials`](Self::credentials).
    pub(in crate::fs) fn to_change(
        self,
        file: &sys::Statx,
        attributes: &Attributes,
    ) -> sys::Result<Option<Acting>> {
        if self.is_daemon()
            || only_drops_privileges(file.stx_mode.into(), attributes)
            || self.has_power_over_owner_of(file)
        {
            return Ok(None);
        }
        self.credentials()?.begin().map(Some)
    }

    /// Whether the caller has capabilities over the owner of a file: those in a user
    /// namespace count for the users mapped in it (user_namespaces(7)).
    fn has_power_over_owner_of(self, file: &sys::Statx) -> bool {
        let read = |file| proc::read(self.tid, file).unwrap_or_default();
        has_power_over_files(&read(File::Status))
            && maps(&read(File::UidMap), file.stx_uid)
            && maps(&read(File::GidMap), file.stx_gid)
    }

    /// Checks that the daemon can act as the caller.
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

/// The ids and groups that a caller had at one moment. What it was permitted at an open,
/// it may do later with the opened file.
#[derive(Debug, Clone)]
pub(in crate::fs) struct Credentials {
    /// `None`: the daemon's own.
    ids: Option<sys::FileIds>,
}

impl Credentials {
    /// Lets this thread act with these credentials until the returned value is dropped.
    ///
    /// # Errors
    /// `EPERM` if the daemon is an ordinary user.
    pub(in crate::fs) fn begin(&self) -> sys::Result<Acting> {
        let mut acting = Acting {
            own: None,
            _not_send: PhantomData,
        };
        if let Some(ids) = &self.ids {
            // Before any change: a change that fails half-way is undone, too.
            acting.own = Some(sys::FileIds::of_this_process()?);
            ids.assume()?;
        }
        Ok(acting)
    }
}

/// A save over another checkpoint than its base (DESIGN 13.1): asked with the opener's
/// credentials.
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
    /// The ids to go back to; `None` if the thread acts as the daemon.
    own: Option<sys::FileIds>,
    /// It concerns this thread only.
    _not_send: PhantomData<*const ()>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        if let Some(own) = &self.own
            && let Err(errno) = own.assume()
        {
            log::error!("a thread could not give up the groups of a caller: {errno}");
        }
    }
}

/// Whether only the mode is to be set, and that only without setuid or setgid.
fn only_drops_privileges(now: u32, attributes: &Attributes) -> bool {
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

/// Whether a thread has `CAP_CHOWN`, `CAP_FOWNER` and `CAP_FSETID`; `status` is in the
/// form of proc_pid_status(5).
fn has_power_over_files(status: &[u8]) -> bool {
    status::has_capabilities(status, 1 << 0 | 1 << 3 | 1 << 4)
}

/// Whether a map of a user namespace, in the form of user_namespaces(7), contains this id
/// of our namespace.
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

/// The ACL of a checkpoint that does not exist yet, made from that of its directory: all
/// may read it, and those who may write the directory may write it.
///
/// `acl` has the form of linux/posix_acl_xattr.h: a version of 4 bytes, and entries of a
/// tag (2 bytes), permissions (2, little-endian) and an id (4).
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
    fn a_change_that_only_drops_setuid_or_setgid_is_recognized() {
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
                only_drops_privileges(now, &mode(set)),
                only,
                "{now:o} {set:o}"
            );
        }
        let owner = Attributes {
            uid: Some(0),
            ..mode(0o755)
        };
        assert!(!only_drops_privileges(0o4755, &owner));
        assert!(!only_drops_privileges(0o4755, &Attributes::default()));
    }

    #[test]
    fn an_id_map_contains_the_ids_of_its_ranges() {
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
