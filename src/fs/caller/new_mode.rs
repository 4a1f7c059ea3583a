//! The mode of what is new: less the umask, or by the default ACL of its directory
//! (DESIGN 2.7).

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::ROOT;
use crate::repo::DEFAULT_ACL;
use crate::sys::{self, Errno};

impl Fs {
    /// The mode for something new in a directory: `mode` less the caller's
    /// `umask`, unless the directory has a default ACL, which takes the place
    /// of the umask (umask(2)). The backing filesystem applies the ACL itself.
    ///
    /// Without `FUSE_DONT_MASK` the kernel applies the umask in any case
    /// (Linux 6.18, fuse_create_open in fs/fuse/dir.c).
    ///
    /// # Errors
    /// `ESTALE` if the directory is not where it was, and those of
    /// getxattr(2).
    pub fn mode_of_new(&self, parent: u64, mode: u32, umask: u32) -> Result<u32> {
        let masked = mode & !umask;
        if mode == masked {
            return Ok(mode);
        }
        // A missing repository is made by the first session in it.
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
