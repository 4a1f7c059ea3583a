//! File handles (name_to_handle_at(2)), which identify a file for ever.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::call::{Result, errno_of};

/// A number that tells the inode of a descriptor from every other that had or will have
/// the same inode number: a digest of its file handle, in which filesystems keep the
/// inode's generation (name_to_handle_at(2)).
///
/// `EOPNOTSUPP` if the filesystem has no file handles.
pub fn handle_digest(fd: impl AsFd) -> Result<u64> {
    let handle = handle(fd.as_fd(), c"", libc::AT_EMPTY_PATH)?;
    let mut digest = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(handle.used(), &mut digest);
    Ok(std::hash::Hasher::finish(&digest))
}

/// The FUSE node id of the file to which the link `name` in an open `/proc/PID/fd` leads.
/// No request is sent for it (fuse_encode_fh, fs/fuse/inode.c, Linux 6.18). `None` if the
/// file cannot be FUSE's.
pub fn fuse_node_at(links: impl AsFd, name: &CStr) -> Result<Option<u64>> {
    /// FILEID_INO64_GEN (include/linux/exportfs.h); xfs uses it, too.
    const TYPE: libc::c_int = 0x81;
    let handle = handle(links.as_fd(), name, libc::AT_SYMLINK_FOLLOW)?;
    let words = handle.used().as_chunks().0;
    Ok(match words {
        [high, low, _generation] if handle.head.handle_type == TYPE => {
            let [high, low] = [high, low].map(|word| u64::from(u32::from_ne_bytes(*word)));
            Some(high << 32 | low)
        }
        _ => None,
    })
}

#[repr(C)]
struct Handle {
    head: libc::file_handle,
    bytes: [u8; libc::MAX_HANDLE_SZ as usize],
}

impl Handle {
    fn used(&self) -> &[u8] {
        let used = self.head.handle_bytes as usize;
        self.bytes.get(..used).unwrap_or(&self.bytes)
    }
}

/// name_to_handle_at(2)
#[allow(unsafe_code)]
fn handle(dir: BorrowedFd<'_>, path: &CStr, flags: libc::c_int) -> Result<Handle> {
    // SAFETY: a file_handle is two integers and a flexible array of bytes,
    // for which all zeroes is a value.
    let mut handle: Handle = unsafe { std::mem::zeroed() };
    handle.head.handle_bytes = libc::MAX_HANDLE_SZ as libc::c_uint;
    let mut mount_id = 0;
    // SAFETY: the handle has handle_bytes bytes behind its head, the path is
    // a C string, and both pointers outlive the call.
    let result = unsafe {
        libc::name_to_handle_at(
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw mut handle.head,
            &raw mut mount_id,
            flags,
        )
    };
    if result != 0 {
        return Err(errno_of(&io::Error::last_os_error()));
    }
    Ok(handle)
}
