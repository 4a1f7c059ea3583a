//! The options of a mount, in the form of mount(2) and in that of the helper.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::mount::MountFlags;

use super::table::TYPE;

/// Which users have access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Access {
    /// Only the user who mounts.
    #[default]
    Owner,
    /// That user and root.
    OwnerAndRoot,
    /// Everybody, with their own permissions.
    Everybody,
}

/// The options of a mount for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Every change is refused with `EROFS`.
    pub read_only: bool,
    /// No program on the mount can be executed.
    pub no_exec: bool,
    /// Reading does not update access times.
    pub no_atime: bool,
    /// Which users have access.
    pub access: Access,
    /// The kernel checks modes, owners and ACLs. It always does where other users have
    /// access.
    pub default_permissions: bool,
    /// The helper unmounts when the process that serves the mount has died.
    pub auto_unmount: bool,
    /// What the mount shows as its source, if not the repository.
    pub source: Option<OsString>,
    /// What follows `fuse.` in its type, if not `sessionfs`.
    pub subtype: Option<OsString>,
    /// The largest read in one request, in bytes; if not set, the kernel decides.
    pub max_read: Option<u32>,
}

impl MountOptions {
    /// The type of the filesystem.
    pub(super) fn kind(&self) -> OsString {
        match &self.subtype {
            Some(subtype) => {
                let mut kind = OsString::from("fuse.");
                kind.push(subtype);
                kind
            }
            None => TYPE.into(),
        }
    }

    /// What the mount shows as its source.
    pub(super) fn source<'a>(&'a self, repository: &'a Path) -> &'a OsStr {
        self.source.as_deref().unwrap_or(repository.as_os_str())
    }

    /// Whether users other than the one who mounts have access.
    pub(super) fn lets_others_in(&self) -> bool {
        self.access != Access::Owner
    }

    /// The flags of mount(2). Device files and setuid programs have no effect on a
    /// mount.
    pub(super) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOEXEC, self.no_exec);
        flags.set(MountFlags::NOATIME, self.no_atime);
        flags
    }

    /// The options that FUSE in the kernel understands, each after a comma.
    pub(super) fn data(&self) -> String {
        let mut data = String::new();
        if self.lets_others_in() {
            data.push_str(",allow_other");
        }
        if self.lets_others_in() || self.default_permissions {
            data.push_str(",default_permissions");
        }
        if let Some(max_read) = self.max_read {
            data.push_str(&format!(",max_read={max_read}"));
        }
        data
    }

    /// The options in the form that the helper parses.
    pub(super) fn for_helper(&self, repository: &Path) -> OsString {
        let mut options = b"nosuid,nodev".to_vec();
        for (is_set, name) in [
            (self.read_only, ",ro"),
            (self.no_exec, ",noexec"),
            (self.no_atime, ",noatime"),
            (self.auto_unmount, ",auto_unmount"),
        ] {
            if is_set {
                options.extend(name.bytes());
            }
        }
        options.extend(b",subtype=");
        let subtype = self.subtype.as_deref();
        escape(subtype.unwrap_or(OsStr::new("sessionfs")), &mut options);
        options.extend(b",fsname=");
        escape(self.source(repository), &mut options);
        options.extend(self.data().bytes());
        OsString::from_vec(options)
    }
}

/// Puts a backslash before each comma and backslash.
pub(super) fn escape(text: &OsStr, options: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &MountOptions, repository: &[u8]) -> Vec<u8> {
        options
            .for_helper(Path::new(OsStr::from_bytes(repository)))
            .into_vec()
    }

    #[test]
    fn commas_and_backslashes_in_the_name_are_escaped() {
        let options = MountOptions {
            access: Access::Everybody,
            ..MountOptions::default()
        };
        let expected = b"nosuid,nodev,subtype=sessionfs,fsname=/a\\,b\\\\c \xff,\
                         allow_other,default_permissions";
        assert_eq!(told(&options, b"/a,b\\c \xff"), expected);
    }

    #[test]
    fn the_helper_and_the_kernel_are_told_the_same() {
        let options = MountOptions {
            read_only: true,
            no_exec: true,
            no_atime: true,
            access: Access::OwnerAndRoot,
            default_permissions: true,
            auto_unmount: true,
            source: Some("a,b".into()),
            subtype: Some("other".into()),
            max_read: Some(4096),
        };
        let expected = b"nosuid,nodev,ro,noexec,noatime,auto_unmount,subtype=other,\
                         fsname=a\\,b,allow_other,default_permissions,max_read=4096";
        assert_eq!(told(&options, b"/r"), expected);
        let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOATIME;
        assert!(options.flags().contains(flags));
        assert_eq!(options.kind(), "fuse.other");
        assert_eq!(options.source(Path::new("/r")), "a,b");
        assert_eq!(
            options.data(),
            ",allow_other,default_permissions,max_read=4096"
        );
    }

    #[test]
    fn nothing_is_allowed_that_is_not_asked_for() {
        let options = MountOptions::default();
        let expected = b"nosuid,nodev,subtype=sessionfs,fsname=/r";
        assert_eq!(told(&options, b"/r"), expected);
        assert_eq!(options.flags(), MountFlags::NOSUID | MountFlags::NODEV);
        assert_eq!(options.data(), "");
        assert_eq!(options.kind(), TYPE);
    }
}
