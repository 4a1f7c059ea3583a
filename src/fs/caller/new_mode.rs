//! The mode of a new file: less the umask, or by the default ACL of its directory (DESIGN
//! 2.7).

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::ROOT;
use crate::repo::DEFAULT_ACL;
use crate::sys::{self, Errno};

impl Fs {
    /// The mode for a new file in a directory: `mode` less the caller's `umask`. If the
    /// directory has a default ACL, that replaces the umask (umask(2)), and the backing
    /// filesystem applies it.
    ///
    /// Without `FUSE_DONT_MASK` the kernel would always apply the umask (Linux 6.18,
    /// fuse_create_open in fs/fuse/dir.c).
    ///
    /// # Errors
    /// `ESTALE` if the directory has moved, and those of getxattr(2).
    pub fn mode_of_new(&self, parent: u64, mode: u32, umask: u32) -> Result<u32> {
        let masked = mode & !umask;
        if mode == masked {
            return Ok(mode);
        }
        // A missing repository is made with its first session.
        if parent == ROOT && self.repository.root()?.is_none() {
            return Ok(masked);
        }
        match sys::get_xattr(&*self.dir(parent)?.fd, DEFAULT_ACL) {
            Ok(_) => Ok(mode),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(masked),
            Err(errno) => Err(errno.into()),
        }
    }
}
