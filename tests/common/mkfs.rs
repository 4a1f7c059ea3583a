//! The making of filesystems.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::run;

/// Makes an image of this size with a filesystem, by a program of the name
/// `mkfs.TYPE` with these options.
///
/// mkfs.btrfs asks for the source of every mount, whether that is the image
/// (stat(2) of what `/proc/self/mounts` names; btrfs-progs 6.2), and gives up with
/// "cannot check mount status" if one cannot be told. The source of a mount of
/// sessionfs is its repository, and that of another test may lie on an xfs that
/// has shut down: `EIO`. So it sees no mounts but in a namespace of its own, where
/// that file is empty; what others unmount meanwhile is unmounted there too.
pub fn mkfs(program: &str, options: &[&str], image: &Path, bytes: u64) {
    fs::File::create(image).unwrap().set_len(bytes).unwrap();
    // The shell becomes the program, and so /proc/self is that of both.
    let without_mounts = "mount --bind /dev/null /proc/$$/mounts && exec \"$@\"";
    let unshare = ["--mount", "--propagation", "slave", "sh", "-c"];
    let shell = [without_mounts, "sh", program];
    let words = unshare.iter().chain(&shell).chain(options).map(OsStr::new);
    run("unshare", words.chain([image.as_os_str()]));
}
