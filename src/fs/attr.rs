//! Conversion of attributes between the backing filesystem and the kernel.

use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use rustix::fs::{StatxTimestamp, Timespec, UTIME_NOW, UTIME_OMIT};

use crate::repo::Attributes;
use crate::sys::{Statx, Timestamps, system_time};

/// The file type in a mode.
pub(in crate::fs) fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// The attributes of a backing file for the kernel, with `ino` as the inode number.
pub(in crate::fs) fn attr_of(stat: &Statx, ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: shown(stat.stx_atime),
        mtime: shown(stat.stx_mtime),
        ctime: shown(stat.stx_ctime),
        crtime: shown(stat.stx_btime),
        kind: kind_of(stat.stx_mode.into()),
        perm: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: rdev(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// A device number in the encoding of FUSE (`new_encode_dev`, linux/kdev_t.h).
fn rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(in crate::fs) fn shown(time: StatxTimestamp) -> SystemTime {
    system_time(time.tv_sec, time.tv_nsec)
}

/// What a SETATTR request sets.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Time of access.
    pub atime: Option<TimeOrNow>,
    /// Time of modification.
    pub mtime: Option<TimeOrNow>,
}

impl SetAttr {
    /// All but the size, in the form of the storage.
    pub(in crate::fs) fn attributes(&self) -> Attributes {
        // truncate(2) also asks for the mtime "now", which the change of the size sets
        // anyway.
        let mtime = self
            .mtime
            .filter(|time| self.size.is_none() || !matches!(time, TimeOrNow::Now));
        let times = (self.atime.is_some() || mtime.is_some()).then(|| Timestamps {
            last_access: timespec(self.atime),
            last_modification: timespec(mtime),
        });
        Attributes {
            mode: self.mode.map(|mode| mode & 0o7777),
            uid: self.uid,
            gid: self.gid,
            times,
        }
    }
}

/// "Now" is passed on as such: a caller that may write a file without owning it may set
/// its times to now, but to nothing else (utimensat(2)).
fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let time = match time {
        None => return special(UTIME_OMIT),
        Some(TimeOrNow::Now) => return special(UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => time,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timespec {
            tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since.subsec_nanos().into(),
        },
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Timespec {
                    tv_sec: -seconds,
                    tv_nsec: 0,
                },
                nanos => Timespec {
                    tv_sec: -seconds - 1,
                    tv_nsec: (1_000_000_000 - nanos).into(),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_converted_both_ways() {
        for (sec, nsec) in [(0, 0), (5, 7), (-1, 0), (-2, 800_000_000), (-1, 1)] {
            let there = system_time(sec, nsec);
            let back = timespec(Some(TimeOrNow::SpecificTime(there)));
            assert_eq!((back.tv_sec, back.tv_nsec), (sec, i64::from(nsec)));
        }
    }
}
