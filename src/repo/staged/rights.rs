//! Owner, mode and attributes of a staged file: those of the checkpoint from which it is
//! begun, or of a first one, and those that its writer sets. All of them are on the file
//! at once (DESIGN 3).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::file::Staged;
use super::how::Commit;
use super::seen::{Seen, Source};
use crate::repo::attributes::{self, Attributes, without_privileges};
use crate::repo::checkpoint::Checkpoint;
use crate::repo::error::{During, Result};
use crate::repo::lock::{self, MARK, MARK_BIT, Mark};
use crate::sys::{self, Errno, Mode, Statx, XattrFlags};

/// The ACL of a directory for files made in it (acl(5)).
pub(crate) const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

impl Staged {
    /// Gives the file the owner, the mode and the attributes of the checkpoint from which
    /// it is begun, or those of a first one. Its writer sees and changes them from now
    /// on.
    ///
    /// # Errors
    /// Kind `Os`: `EPERM`, `ENOSPC`, `EDQUOT`, …
    pub(crate) fn begin(&mut self, base: Option<&Checkpoint>, how: &Commit<'_>) -> Result<()> {
        let begun = match base {
            Some(base) => {
                self.begun_from = Some(Seen::of(base.stat()));
                match sys::fstat(base.as_path_fd()) {
                    // Replaced, on a filesystem where a file without a name is gone: the
                    // commit takes the attributes of the current checkpoint.
                    Err(Errno::STALE) => Ok(()),
                    now => now
                        .during("stat the checkpoint")
                        .and_then(|now| self.take_after((base, &now), how)),
                }
            }
            None => self.be_first(how),
        };
        begun.map_err(|e| self.tell(e))
    }

    /// Sets attributes of the file. A save keeps them, whatever the attributes of the
    /// checkpoint that it replaces.
    ///
    /// # Errors
    /// Kind `Os` with the errno. Some of them may be set then.
    pub(crate) fn set_attributes(&mut self, attributes: &Attributes) -> Result<()> {
        let mut set = || {
            let owner = Attributes {
                uid: attributes.uid,
                gid: attributes.gid,
                ..Attributes::default()
            };
            owner.apply(&self.file).during("set the owner")?;
            self.own.add(&owner);
            if let Some(mode) = attributes.mode {
                self.set_mode(mode)?;
                self.own.mode = true;
            }
            let times = Attributes {
                times: attributes.times.clone(),
                ..Attributes::default()
            };
            times.apply(&self.file).during("set the times")?;
            self.own.add(&times);
            Ok(())
        };
        set().map_err(|e| self.tell(e))
    }

    /// Removes setuid and setgid, as a change of the content does.
    ///
    /// # Errors
    /// Kind `Os` with the errno.
    pub(crate) fn drop_privileges(&mut self) -> Result<()> {
        let mut drop = || match without_privileges(self.mode()?) {
            Some(left) => self.set_mode(left),
            None => Ok(()),
        };
        drop().map_err(|e| self.tell(e))
    }

    /// Sets an extended attribute, with the flags of setxattr(2), or removes it if
    /// `value` is `None`; as [`set_attributes`](Self::set_attributes).
    ///
    /// # Errors
    /// Kind `Os`: `EEXIST`, `ENODATA`, `ENOSPC`, …
    pub(crate) fn set_xattr(
        &mut self,
        name: &CStr,
        value: Option<&[u8]>,
        flags: XattrFlags,
    ) -> Result<()> {
        let mut set = || {
            if lock::is_mark(name) {
                return Err(match value {
                    Some(_) => Errno::PERM,
                    None => Errno::NODATA,
                })
                .during("set an attribute");
            }
            self.own.room_for(name).during("set an attribute")?;
            let mut set = attributes::set_xattr(self.file.as_fd(), name, value, flags);
            if is_full(set) && self.mark_by_bit()? {
                set = attributes::set_xattr(self.file.as_fd(), name, value, flags);
            }
            set.during("set an attribute")?;
            self.own.add_xattr(name);
            Ok(())
        };
        set().map_err(|e| self.tell(e))
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// Kind `Os`: `ENODATA`, …
    pub(crate) fn xattr(&self, name: &CStr) -> Result<Vec<u8>> {
        let value = if lock::is_mark(name) {
            Err(Errno::NODATA)
        } else {
            sys::get_xattr(&self.file, name)
        };
        value.during("get an attribute").map_err(|e| self.tell(e))
    }

    /// The names of the extended attributes, each with a NUL behind it; the name of our
    /// own mark may be among them.
    ///
    /// # Errors
    /// Kind `Os` with the errno.
    pub(crate) fn xattr_names(&self) -> Result<Vec<u8>> {
        sys::list_xattrs(&self.file)
            .during("list the attributes")
            .map_err(|e| self.tell(e))
    }

    /// The permission bits with which it is published.
    pub(super) fn mode(&self) -> Result<u32> {
        let stat = sys::fstat(&self.file).during("stat the staged file")?;
        Ok(self.unmarked(stat.stx_mode.into()) & 0o7777)
    }

    /// A mode of the file, without its mark.
    pub(super) fn unmarked(&self, mode: u32) -> u32 {
        match self.mark {
            Mark::Bit if self.sticky => mode | MARK_BIT,
            Mark::Bit => mode & !MARK_BIT,
            Mark::Xattr | Mark::None => mode,
        }
    }

    /// Takes the present attributes of a checkpoint, except those that its writer has
    /// set.
    pub(super) fn take_after(
        &mut self,
        (from, old): (&Checkpoint, &Statx),
        how: &Commit<'_>,
    ) -> Result<()> {
        let mut mode = u32::from(old.stx_mode) & 0o7777;
        if !how.keeps_privileges {
            mode = without_privileges(mode).unwrap_or(mode);
        }
        // A mode that forbids its owner to write would also forbid removing an attribute.
        if mode & 0o200 == 0 {
            self.mark_by_bit()?;
        }
        let inherit = |it: &Self| {
            // If the sticky bit is the mark, a checkpoint has it only because a save died
            // before it removed it.
            let mode = mode | it.mark.bits();
            attributes::inherit((from, old), it.file.as_fd(), &it.own, mode)
        };
        let mut inherited = inherit(self);
        // If the attributes take all the room that the filesystem has for them (a block
        // on ext4), the mark gives way, and becomes the bit.
        let errno = |e: &crate::repo::Error| Errno::from_raw_os_error(e.errno());
        if is_full(inherited.as_ref().map_err(errno)) && self.mark_by_bit()? {
            attributes::clear(self.file.as_fd(), &self.own)?;
            inherited = inherit(self);
        }
        inherited?;
        if !self.own.mode {
            self.sticky = false;
        }
        self.source = Source::Checkpoint(Seen::of(old));
        Ok(())
    }

    /// For `scripts/power-cuts`: whether what has become of the checkpoint since it
    /// was begun is overlooked.
    #[cfg(feature = "test-switches")]
    pub(super) fn keeps_attributes_of_the_base(&self) -> bool {
        matches!(self.source, Source::Checkpoint(_))
            && sys::defect::has(sys::defect::Defect::AttributesOfTheBase)
    }

    /// Gets the attributes of a first checkpoint.
    pub(super) fn be_first(&mut self, how: &Commit<'_>) -> Result<()> {
        let file = self.file.as_fd();
        let mode = match self.source {
            Source::First => return Ok(()),
            Source::Nothing => first_mode(self.session.dir(), how)?,
            // The checkpoint it was begun from is gone. If it was the writer's own, the
            // new one keeps its attributes; otherwise nothing is kept.
            Source::Checkpoint(seen) => {
                let uid = how.first_owner.map(|(uid, _)| uid);
                if seen.uid == uid.unwrap_or(rustix::process::geteuid().as_raw()) {
                    return Ok(());
                }
                attributes::clear(file, &self.own)?;
                0o600
            }
        };
        let (uid, gid) = how.first_owner.unzip();
        let uid = uid.filter(|_| !self.own.uid);
        let gid = gid.filter(|_| !self.own.gid);
        let now = sys::fstat(file).during("stat the staged file")?;
        let uid = uid.filter(|uid| *uid != now.stx_uid);
        let gid = gid.filter(|gid| *gid != now.stx_gid);
        if uid.is_some() || gid.is_some() {
            sys::chown(file, uid, gid).during("set the owner")?;
        }
        if !self.own.mode {
            self.set_mode(mode)?;
        }
        self.source = Source::First;
        Ok(())
    }

    /// Sets the permission bits with which it is to be published.
    fn set_mode(&mut self, mode: u32) -> Result<()> {
        if mode & 0o200 == 0 {
            self.mark_by_bit()?;
        }
        let marked = mode | self.mark.bits();
        sys::chmod(&self.file, Mode::from_raw_mode(marked)).during("set the mode")?;
        self.sticky = mode & MARK_BIT != 0;
        Ok(())
    }

    /// Marks it by the bit instead of the attribute, if it has the attribute and the
    /// filesystem keeps the bit. Returns whether it did.
    fn mark_by_bit(&mut self) -> Result<bool> {
        if self.mark != Mark::Xattr {
            return Ok(false);
        }
        let file = self.file.as_fd();
        let sticky = self.mode()? & MARK_BIT != 0;
        // In this order, because it may have its name already.
        if lock::mark_by_bit(file).during("mark the staged file")? != Mark::Bit {
            return Ok(false);
        }
        sys::remove_xattr(file, MARK).during("mark the staged file")?;
        self.mark = Mark::Bit;
        self.sticky = sticky;
        Ok(true)
    }
}

/// Whether there was no room for an attribute.
fn is_full<T>(set: sys::Result<T>) -> bool {
    matches!(set, Err(Errno::NOSPC | Errno::TOOBIG))
}

/// The mode of a first checkpoint in a directory: less the umask; or less what the
/// directory's default ACL, which the file has inherited, does not grant (umask(2)).
fn first_mode(dir: BorrowedFd<'_>, how: &Commit<'_>) -> Result<u32> {
    match sys::get_xattr(dir, DEFAULT_ACL) {
        Ok(acl) => Ok(how.first_mode & permissions(&acl)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {
            Ok(how.first_mode & !how.first_umask)
        }
        Err(errno) => Err(errno).during("look for a default ACL"),
    }
}

/// The permission bits that an ACL can grant, and all other bits.
///
/// `acl` has the form of linux/posix_acl_xattr.h: a version of 4 bytes, and entries of a
/// tag (2 bytes), permissions (2, little-endian) and an id (4).
fn permissions(acl: &[u8]) -> u32 {
    let entries = acl.get(4..).unwrap_or_default().as_chunks::<8>().0;
    let of = |tag: u8| {
        let entry = entries.iter().find(|entry| entry[..2] == [tag, 0]);
        entry.map(|entry| u32::from(entry[2] & 0o7))
    };
    let [owner, group, mask, others] = [0x01, 0x04, 0x10, 0x20].map(of);
    let all = 0o7;
    let owner = owner.unwrap_or(all);
    let group = mask.or(group).unwrap_or(all);
    let others = others.unwrap_or(all);
    0o7000 | owner << 6 | group << 3 | others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_gives_what_its_entries_of_the_classes_give() {
        let acl = |entries: &[(u8, u8)]| {
            let entries = entries.iter();
            let entries = entries.flat_map(|(tag, bits)| [*tag, 0, *bits, 0, 9, 9, 9, 9]);
            [2, 0, 0, 0].into_iter().chain(entries).collect::<Vec<_>>()
        };
        let plain = acl(&[(1, 7), (4, 5), (0x20, 0)]);
        assert_eq!(permissions(&plain), 0o7750);
        let masked = acl(&[(1, 6), (2, 7), (4, 7), (0x10, 4), (0x20, 1)]);
        assert_eq!(permissions(&masked), 0o7641);
        assert_eq!(permissions(&[]), 0o7777);
        assert_eq!(permissions(&[2, 0, 0, 0, 1]), 0o7777);
    }
}
