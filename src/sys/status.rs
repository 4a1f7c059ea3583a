//! The results of statx(2), in the form that the rest needs.

use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Statx};

/// Whether it is a directory.
pub fn is_dir(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()).is_dir()
}

/// Whether it is a regular file.
pub fn is_file(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()).is_file()
}

/// Whether it is a symlink.
pub fn is_symlink(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()).is_symlink()
}

/// The device that it is on: major and minor number.
pub fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

/// When its content was last changed.
pub fn modified(stat: &Statx) -> SystemTime {
    system_time(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)
}

/// A time of statx(2), in seconds since 1970 and nanoseconds after that. A time that a
/// clock cannot show becomes 1970.
pub fn system_time(seconds: i64, nanos: u32) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let whole = if seconds < 0 {
        epoch.checked_sub(distance)
    } else {
        epoch.checked_add(distance)
    };
    whole
        .and_then(|t| t.checked_add(Duration::from_nanos(nanos.into())))
        .unwrap_or(epoch)
}
