//! Thin wrappers of system calls. Those that touch a repository are relative to a
//! directory descriptor, and never follow a symlink. Only here is `unsafe` code, and only
//! here is the [`seam`] where tests inject faults, record changes, or make a defect.
//!
//! A call that a signal has interrupted is made again: `EINTR` never reaches a caller.
//! Every other errno is passed on as it is.

mod attributes;
mod call;
mod capabilities;
mod clock;
mod content;
pub mod defect;
#[cfg(feature = "program")]
mod descriptors;
mod entries;
#[cfg(test)]
pub mod fault;
mod filesystem;
mod flock;
mod handle;
mod identity;
#[cfg(feature = "test-switches")]
mod late_attributes;
pub mod memory;
mod open;
mod proc_fd;
#[cfg(feature = "program")]
pub mod process;
mod ranges;
pub mod record;
mod seam;
#[cfg(feature = "program")]
mod signals;
mod status;

pub use self::attributes::{
    access, chmod, chown, fstat, futimens, get_xattr, list_xattrs, remove_xattr, set_xattr, stat,
};
#[cfg(test)]
pub use self::call::Call;
pub use self::call::{Result, errno_of};
pub use self::capabilities::{is_capable_of, obey_limits_of_space};
pub use self::clock::utc;
pub use self::content::{
    clone_file, copy, fdatasync, fsync, read_at, read_to_end, set_len, write_at,
};
#[cfg(feature = "program")]
pub use self::descriptors::{close, keep_descriptors, leave_descriptors};
pub use self::entries::{
    PIECE, is_nameless, link_fd, mkdir, mknod, read_dir, read_link, read_names, rename, rmdir,
    seek_dir, symlink, unlink,
};
pub use self::filesystem::{is_overlay, may_lose_open_files, statvfs};
pub use self::flock::{try_flock, try_flock_shared};
pub use self::handle::{fuse_node_at, handle_digest};
pub use self::identity::{FileIds, umask};
pub use self::memory::give_large_blocks_back;
pub use self::open::{
    into_file, open_dir, open_dir_beneath, open_path, open_root, open_tmpfile, openat, reopen,
};
pub use self::proc_fd::path_of;
#[cfg(test)]
pub use self::proc_fd::proc_path;
pub use self::ranges::{Find, allocate, copy_range, find};
#[cfg(feature = "program")]
pub use self::signals::{
    block_file_size_signal, block_stop_signals, wait_for_stop_signal, with_stop_signals_blocked,
};
pub use self::status::{device, is_dir, is_file, is_symlink, modified, system_time};
#[cfg(test)]
pub use rustix::fs::AtFlags;
pub use rustix::fs::{CWD, Mode, OFlags, RenameFlags, Statx, Timestamps, XattrFlags};
pub use rustix::io::Errno;
pub use rustix::thread::CapabilitySet;
