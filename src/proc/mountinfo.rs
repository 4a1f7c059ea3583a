//! The mounts that a process sees: `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::{fs, io};

/// The filesystem type of our mounts.
pub const TYPE: &str = "fuse.sessionfs";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, as in `/proc/PID/fdinfo`. Reused after the mount is gone.
    pub id: u64,
    /// The id of the mount on which it is mounted.
    pub parent: u64,
    /// Major and minor number of the filesystem's device. No other filesystem has the
    /// same as long as this one exists.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The type of the filesystem.
    pub kind: OsString,
    /// What is mounted: for ours, the repository.
    pub source: OsString,
    /// User and group of the process that made a FUSE mount.
    pub owner: Option<(u32, u32)>,
}

impl Mount {
    /// Whether it is a mount of this program, by its filesystem type. A mount option can
    /// change that type.
    pub fn is_ours(&self) -> bool {
        self.kind == TYPE
    }

    /// Whether it is a mount of any FUSE program.
    pub fn is_fuse(&self) -> bool {
        self.kind.as_encoded_bytes().starts_with(b"fuse.")
    }
}

/// All mounts that this process sees, in the kernel's order.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// As [`read`], of another process.
pub fn read_of(pid: u32) -> io::Result<Vec<Mount>> {
    Ok(parse(&super::read(pid, super::File::Mountinfo)?))
}

/// The mounts in the text of a mountinfo file. Lines that are not understood are left
/// out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG…] - TYPE SOURCE SUPER`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = fields.next()?;
    let colon = device.iter().position(|&byte| byte == b':')?;
    let device = (number(&device[..colon])?, number(&device[colon + 1..])?);
    let mountpoint = unescape(fields.nth(1)?);
    fields.find(|field| *field == b"-")?;
    let kind = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let owner = fields.next().and_then(owner);
    Some(Mount {
        id,
        parent,
        device,
        mountpoint: mountpoint.into(),
        kind,
        source,
        owner,
    })
}

/// The values of `user_id=` and `group_id=` among the options of a filesystem.
pub fn owner(options: &[u8]) -> Option<(u32, u32)> {
    let value = |name: &[u8]| {
        let mut options = options.split(|&byte| byte == b',');
        number(options.find_map(|option| option.strip_prefix(name))?)
    };
    Some((value(b"user_id=")?, value(b"group_id=")?))
}

fn number<T: FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the octal escapes (`\040`) of space, tab, newline, backslash and
/// `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = *rest {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = &rest[4..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_line_is_parsed() {
        let text = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134c\\012d rw,noatime master:1 shared:2 - \
            fuse.sessionfs /re\\040po rw,user_id=7,group_id=8\n\
            37 35 0:5 / /dev rw - devtmpfs dev rw\n";
        let mounts = parse(text);
        assert_eq!(
            mounts[0],
            Mount {
                id: 36,
                parent: 35,
                device: (98, 0),
                mountpoint: PathBuf::from("/mnt/a b\\c\nd"),
                kind: TYPE.into(),
                source: "/re po".into(),
                owner: Some((7, 8)),
            }
        );
        assert!(mounts[0].is_ours());
        assert_eq!(mounts[1].mountpoint, Path::new("/dev"));
        assert_eq!(mounts[1].owner, None);
        assert!(!mounts[1].is_ours());
        assert_eq!(mounts.len(), 2);
    }

    #[test]
    fn a_line_that_is_not_understood_is_left_out() {
        for line in [
            "",
            "36",
            "x 35 98:0 / /a rw - t s",
            "36 35 98 / /a rw - t s",
            "36 35 98:0 / /a rw shared:1 t s",
            "36 35 98:0 / /a rw - t",
        ] {
            assert_eq!(parse(line.as_bytes()), [], "{line:?}");
        }
    }

    #[test]
    fn escapes_are_undone_and_the_rest_stays() {
        assert_eq!(unescape(b"a\\011b\\043"), "a\tb#");
        assert_eq!(unescape(b"a\\04"), "a\\04");
        assert_eq!(unescape(b"\\"), "\\");
        assert_eq!(unescape(b"\\08x"), "\\08x");
        assert_eq!(unescape(b"\\377"), OsString::from_vec(vec![0xff]));
    }
}
