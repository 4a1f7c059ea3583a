//! Making filesystems.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::run;

/// The directory for images of disks: in memory, if there is room. The disk of a rented
/// machine may pause for more than a minute after it has been busy, and with it each sync
/// of each test.
pub fn image_directory() -> PathBuf {
    const ROOM: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= ROOM);
    if has_room {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// Makes an image of this size with a filesystem, by the program `mkfs.TYPE` with these
/// options.
pub fn mkfs(program: &str, options: &[&str], image: &Path, bytes: u64) {
    fs::File::create(image).unwrap().set_len(bytes).unwrap();
    let options = options.iter().map(OsStr::new);
    run(program, options.chain([image.as_os_str()]));
}

/// Options of a mount whose repository may not even return attributes. mkfs.btrfs calls
/// stat(2) on the source of every mount in `/proc/self/mounts`, to see whether it is its
/// image (btrfs-progs 6.2), and gives up with "cannot check mount status" if that fails
/// with `EIO`, as it does for a repository on an xfs that has shut down. Another test may
/// run mkfs.btrfs meanwhile: so the source is no path here. A mount namespace for
/// mkfs.btrfs would not help: it would start as a copy of all mounts, and keep those that
/// others unmount meanwhile.
pub const NO_PATH: [&str; 2] = ["--fsname", "a-disk-that-fails"];
