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
use std::sync::Arc;

use crate::fs::errno::{Fail, Result};
use crate::fs::request::Caller;
use crate::proc::{self, File, OutOfExec, status};
use crate::repo::{Attributes, Checkpoint, OnBehalf, Permit};
use crate::sys::{self, Errno};

/// The extended attribute that contains the ACL of a file.
pub(in crate::fs) const ACL: &CStr = c"system.posix_acl_access";

/// Capabilities, as of linux/capability.h.
const CHOWN: u64 = 1 << 0;
const DAC_OVERRIDE: u64 = 1 << 1;
const FOWNER: u64 = 1 << 3;
const FSETID: u64 = 1 << 4;
const SETFCAP: u64 = 1 << 31;

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

    /// Does what the kernel has let the caller do, and does it as the caller, if that
    /// is somebody whom we see: the kernel goes by what it was told last, which may
    /// be a second old. In a directory with the sticky bit another user's session may
    /// have taken the name by then.
    ///
    /// `of` is what the caller may have capabilities over: then it is done all the same,
    /// for which it is tried a second time.
    ///
    /// # Errors
    /// Those of `f`.
    pub(in crate::fs) fn act_over<T>(
        self,
        of: &[BorrowedFd<'_>],
        f: impl Fn() -> sys::Result<T>,
    ) -> sys::Result<T> {
        match self.act_if_seen(&f) {
            Err(errno) if self.overrules(errno, FOWNER, of) => f(),
            done => done,
        }
    }

    /// The same for a change of an extended attribute of a file: `value` is what it is
    /// set to, `None` if it is removed.
    ///
    /// Whoever cannot be seen sets those of the system (ACLs) as somebody in no group:
    /// they are the owner's to set, and the kernel goes by the owner that it was told of
    /// last (set_posix_acl, fs/posix_acl.c, Linux 6.18).
    ///
    /// # Errors
    /// Those of `f`.
    pub(in crate::fs) fn act_on_attribute(
        self,
        (name, value): (&CStr, Option<&[u8]>),
        file: BorrowedFd<'_>,
        mut f: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        // Which the ids of a thread do not decide. The kernel takes it off for whoever
        // writes (file_remove_privs, fs/inode.c).
        let gives_capabilities = *name == *c"security.capability" && value.is_some();
        if gives_capabilities && self.is_another() && !self.rules(SETFCAP, &[file]) {
            return Err(Errno::PERM.into());
        }
        let acts = self.is_another() || name.to_bytes().starts_with(b"system.");
        let credentials = acts.then(|| self.credentials()).transpose();
        let as_caller = || {
            let _acting = credentials?.map(|ids| ids.begin()).transpose()?;
            f()
        };
        let done = as_caller();
        let Err(Fail::Errno(errno)) = done else {
            return done;
        };
        // Who is not in the group of a file, and sets an ACL, takes its setgid bit off.
        let owner = if *name == *ACL {
            FOWNER | FSETID
        } else {
            FOWNER
        };
        if self.overrules(Errno::from_raw_os_error(errno), owner, &[file]) {
            f()
        } else {
            done
        }
    }

    /// Whether these errors of a change are not meant for the caller, who has
    /// capabilities over all these files: `owner` where another one's file is concerned.
    fn overrules(self, errno: Errno, owner: u64, files: &[BorrowedFd<'_>]) -> bool {
        match errno {
            Errno::PERM => self.rules(owner, files),
            Errno::ACCESS => self.rules(DAC_OVERRIDE, files),
            _ => false,
        }
    }

    /// Whether the caller has capabilities over these files.
    fn rules(self, capabilities: u64, files: &[BorrowedFd<'_>]) -> bool {
        let Ok(status) = proc::read(self.tid, File::Status) else {
            return false;
        };
        // Nearly everybody has none: no more is read of them.
        status::has_capabilities(&status, capabilities)
            && (files.iter()).all(|file| sys::fstat(file).is_ok_and(|stat| self.has_in_map(&stat)))
    }

    /// For whom names of a session are changed (DESIGN 13.1), if that is not the
    /// daemon itself.
    pub(in crate::fs) fn behalf(self) -> Option<Arc<dyn OnBehalf>> {
        self.is_another().then(|| Arc::new(Now(self)) as _)
    }

    /// The same for a change that is made later, maybe when the caller has ended.
    ///
    /// # Errors
    /// As of [`credentials`](Self::credentials).
    pub(in crate::fs) fn behalf_later(
        self,
        dir: BorrowedFd<'_>,
    ) -> sys::Result<Option<Arc<dyn OnBehalf>>> {
        if !self.is_another() || self.rules(FOWNER, &[dir]) {
            return Ok(None);
        }
        Ok(Some(Arc::new(Later(self.credentials()?))))
    }

    /// Whether it is somebody else than the daemon, whom we see and can act as.
    fn is_another(self) -> bool {
        self.tid != 0 && !self.is_daemon() && self.check().is_ok()
    }

    fn act_if_seen<T>(self, f: impl FnOnce() -> sys::Result<T>) -> sys::Result<T> {
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
        let status = proc::read(self.tid, File::Status).unwrap_or_default();
        has_power_over_files(&status) && self.has_in_map(file)
    }

    /// Whether the owner and the group of a file are in the caller's user namespace.
    fn has_in_map(self, file: &sys::Statx) -> bool {
        let read = |file| proc::read(self.tid, file).unwrap_or_default();
        maps(&read(File::UidMap), file.stx_uid) && maps(&read(File::GidMap), file.stx_gid)
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

    /// Whether the daemon is the same user with the same rights, or all that is there
    /// to act as: one of an ordinary user cannot take another group (`newgrp`).
    pub(in crate::fs) fn is_daemon(self) -> bool {
        let daemon = rustix::process::geteuid();
        self.uid == daemon.as_raw()
            && (self.gid == rustix::process::getegid().as_raw() || !daemon.is_root())
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

/// A caller who waits for the answer.
#[derive(Debug)]
struct Now(Caller);

impl OnBehalf for Now {
    fn change(
        &self,
        of: &[BorrowedFd<'_>],
        change: &dyn Fn() -> sys::Result<()>,
    ) -> sys::Result<()> {
        self.0.act_over(of, change)
    }
}

/// A caller as it was when the kernel let it do something that is done later.
#[derive(Debug)]
struct Later(Credentials);

impl OnBehalf for Later {
    fn change(
        &self,
        _: &[BorrowedFd<'_>],
        change: &dyn Fn() -> sys::Result<()>,
    ) -> sys::Result<()> {
        let acting = self.0.begin()?;
        let done = change();
        drop(acting);
        match done {
            // It could write the directory then, which is what counts. Whose the file
            // is that has the name counts now.
            Err(Errno::ACCESS) => change(),
            done => done,
        }
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
    status::has_capabilities(status, CHOWN | FOWNER | FSETID)
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
