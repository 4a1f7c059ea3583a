//! Open files of the backing filesystem, which the kernel reads and writes by itself
//! where it can (passthrough).
//!
//! What the kernel demands (Linux 6.18, fs/fuse/iomode.c and passthrough.c):
//!
//! - An inode is open either in passthrough or through the page cache; an open in the
//!   other way is answered `EIO`.
//! - All passthrough opens of an inode use the same backing id.
//! - Each open opens the backing file anew, with its own flags (`O_APPEND`, `O_DIRECT`,
//!   `O_SYNC`, … and the access mode) and with our credentials, and checks nothing. So
//!   the backing id may come from any descriptor of the inode, and our own open must
//!   check the caller's permission.
//! - If that open fails for any reason, the program gets `EIO`. So passthrough is not
//!   used where an open file may vanish (sshfs, while others save).
//!
//! fallocate, copy_file_range, lseek for holes, fsync and attributes still come to us.
//! The setuid and setgid bits are removed by a change of somebody who may not keep them:
//! before a write, truncate(2) and chown(2) the kernel sends a SETATTR of the mode. Only
//! for an open with `O_TRUNC` it leaves that to us. (`HANDLE_KILLPRIV_V2` would announce
//! it, but would also leave WRITE and SETATTR to us, where fuser 0.18 drops the flag.)
//!
//! A file that is open for writing when it is renamed to `session` stays open on the new
//! checkpoint, and what is written later goes into it, as in any directory: a program
//! that renames before it has written everything must not lose the rest. A checkpoint
//! itself cannot be opened in this way, with or without passthrough.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{BackingId, FopenFlags};

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::Version;
use crate::fs::opened::{OpenBacking, Opened, PASSED_ON, changes};
use crate::fs::request::{Caller, Request};
use crate::fs::shares::Share;
use crate::repo::without_privileges;
use crate::sys::{self, Errno, Mode, OFlags};

/// A flag of the open that execve(2) makes (include/linux/fs.h). The file stays open
/// while the program runs. Seen on Linux 6.18.
const FMODE_EXEC: i32 = 0x20;

impl Fs {
    /// Opens a checkpoint for reading.
    pub(in crate::fs) fn open_checkpoint(
        &self,
        id: u64,
        caller: Caller,
        open_backing: OpenBacking<'_>,
    ) -> Result<Opened> {
        let share = self.reserve(caller, 1)?;
        let path = self.path_fd(id)?;
        let file = sys::reopen(&*path, OFlags::RDONLY)?;
        let version = Version::of(&sys::fstat(&file)?);
        let mut opened = self.opened_file((id, share), file, libc::O_RDONLY, open_backing);
        if opened.backing.is_none() {
            if self.has_shared_writers.load(Ordering::SeqCst) {
                opened.flags |= FopenFlags::FOPEN_DIRECT_IO;
            } else {
                let cached = self
                    .lasting
                    .nodes
                    .with(id, |node| node.cached.replace(version));
                if cached.flatten() == Some(version) {
                    opened.flags |= FopenFlags::FOPEN_KEEP_CACHE;
                }
            }
        }
        Ok(opened)
    }

    /// Opens any other file.
    pub(in crate::fs) fn open_other(
        &self,
        id: u64,
        flags: i32,
        request: Request,
        open_backing: OpenBacking<'_>,
    ) -> Result<Opened> {
        let share = self.reserve(request.caller, 1)?;
        // By a descriptor, because `/proc/self/fd/N` leads to files without a name.
        let path = self.path_fd(id)?;
        let stat = sys::fstat(&*path)?;
        if changes(flags) {
            self.check_link(id, request)?;
        }
        // The kernel itself refuses to open a running program for writing. But for an
        // open that only truncates it refuses after we have truncated (Linux 6.18, with
        // ATOMIC_O_TRUNC).
        if flags & libc::O_TRUNC != 0 && self.lasting.nodes.is_executed(id) {
            return Err(Errno::TXTBSY.into());
        }
        let passed = OFlags::from_bits_retain((flags & PASSED_ON).cast_unsigned());
        let file = sys::reopen(&*path, passed | OFlags::NONBLOCK)?;
        if flags & libc::O_TRUNC != 0
            && let Some(mode) = without_privileges(stat.stx_mode.into())
            && !request.caller.keeps_privileges()
        {
            sys::chmod(&file, Mode::from_raw_mode(mode))?;
        }
        Ok(self.opened_file((id, share), file, flags, open_backing))
    }

    /// A handle for a file that has just been opened with these flags, with its part of a
    /// user's share.
    pub(in crate::fs) fn opened_file(
        &self,
        (id, share): (u64, Share),
        file: OwnedFd,
        flags: i32,
        open_backing: OpenBacking<'_>,
    ) -> Opened {
        let file = Arc::new(file);
        if flags & FMODE_EXEC != 0 {
            self.lasting.nodes.executed(id, &file);
        }
        let backing =
            (self.lasting.nodes).opened(id, &file, || self.new_backing(&file, open_backing));
        let is_synced = flags & (libc::O_SYNC | libc::O_DSYNC) != 0;
        let flags = if flags & libc::O_ACCMODE == libc::O_RDONLY {
            FopenFlags::FOPEN_NOFLUSH
        } else {
            FopenFlags::empty()
        };
        Opened {
            handle: self.lasting.handles.add(
                Handle::File {
                    file,
                    is_synced,
                    _backing: backing.clone(),
                },
                share,
            ),
            flags,
            backing,
        }
    }

    fn new_backing(&self, file: &OwnedFd, open_backing: OpenBacking<'_>) -> Option<Arc<BackingId>> {
        if !self.passthrough.load(Ordering::SeqCst) {
            return None;
        }
        if sys::may_lose_open_files(file) {
            self.passthrough.store(false, Ordering::Relaxed);
            log::info!("files are read and written through the daemon on this filesystem");
            return None;
        }
        match open_backing(file.as_fd()) {
            Ok(backing) => Some(Arc::new(backing)),
            Err(e) => {
                // EPERM: CAP_SYS_ADMIN is needed. ELOOP: the backing filesystem is itself
                // a stacked one. Neither changes later.
                if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ELOOP)) {
                    self.passthrough.store(false, Ordering::Relaxed);
                    log::info!("files are read and written through the daemon: {e}");
                } else {
                    log::warn!("a file is read and written through the daemon: {e}");
                }
                None
            }
        }
    }
}
