//! The making of filesystems.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::run;

/// Where the images of disks are: in memory, if there is room. The disk of a rented
/// machine may pause for more than a minute when it has been busy, and each sync of
/// each test with it.
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

/// Makes an image of this size with a filesystem, by a program of the name
/// `mkfs.TYPE` with these options.
pub fn mkfs(program: &str, options: &[&str], image: &Path, bytes: u64) {
    fs::File::create(image).unwrap().set_len(bytes).unwrap();
    let options = options.iter().map(OsStr::new);
    run(program, options.chain([image.as_os_str()]));
}

/// Options of a mount whose repository may not even tell its attributes. mkfs.btrfs
/// asks for the source of every mount, whether that is its image (stat(2) of what
/// `/proc/self/mounts` names; btrfs-progs 6.2), and gives up with "cannot check mount
/// status" if it is told `EIO`, as of a repository on an xfs that has shut down. It
/// may run for any other test: so the source is no path then. A namespace without
/// mounts for it would be a copy of all of them at first, and keep what others
/// unmount meanwhile.
pub const NO_PATH: [&str; 2] = ["--fsname", "a-disk-that-fails"];
