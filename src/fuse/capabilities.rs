//! What is agreed on with the kernel at the beginning (FUSE_INIT).

use std::io;

use fuser::{InitFlags, KernelConfig};

use super::buffers::MAX_PIECE;

/// Requests in the background (read-ahead, for the most part) before the
/// kernel holds them back.
const MAX_BACKGROUND: u16 = 64;

/// Asks the kernel for what the mount needs.
///
/// # Errors
/// If it lacks what it must not.
pub(super) fn negotiate(config: &mut KernelConfig, allows_others: bool) -> io::Result<()> {
    for wanted in [
        // `>` opens with O_TRUNC, instead of a truncation that belongs to
        // no open file.
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        // The umask is ours to apply: where a directory has a default ACL
        // it has no say.
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_PASSTHROUGH,
        // And not those of fcntl(2).
        InitFlags::FUSE_FLOCK_LOCKS,
    ] {
        if config.add_capabilities(wanted).is_err() {
            log::info!("this kernel does not offer {wanted:?}");
        }
    }
    // The kernel checks ACLs as well as modes then; without it anybody's
    // ACL was shown and none had an effect.
    if allows_others && config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_err() {
        return Err(io::Error::other("this kernel does not check ACLs"));
    }
    // Of these three, what the kernel cannot give it cuts down itself.
    let _ = config.set_max_write(MAX_PIECE);
    if let Err(most) = config.set_max_readahead(MAX_PIECE) {
        let _ = config.set_max_readahead(most);
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    // Depth 1: the backing filesystem is no stacked one itself.
    let _ = config.set_max_stack_depth(1);
    Ok(())
}
