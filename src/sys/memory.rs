//! Memory, if this process may not have as much as it asks for.
//!
//! Rust ends a process that gets no memory, and most code that needs some cannot handle
//! an error. So code whose memory grows with what a client does first asks whether there
//! is [room](require_room). It gets `ENOMEM` while enough is left for all code that
//! cannot ask.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::call::{Result, errno_of};

/// The memory that is left for code that cannot ask, in bytes: the stack of a thread is 2
/// MiB, and a request needs much less.
pub const CUSHION: usize = 8 << 20;

/// Whether the address space (`ulimit -v`) or the data (`ulimit -d`) of this process is
/// limited. That may be changed while it runs (prlimit(2)).
pub fn is_limited() -> bool {
    let is_limited = |resource| getrlimit(resource).current.is_some();
    is_limited(Resource::As) || is_limited(Resource::Data)
}

/// `ENOMEM` if this process is limited and cannot get this many more bytes. It costs two
/// system calls if there is no limit.
pub fn require(bytes: usize) -> Result<()> {
    if is_limited() {
        try_map(bytes)?;
    }
    Ok(())
}

/// `ENOMEM` if less than [`CUSHION`] is left.
pub fn require_room() -> Result<()> {
    require(CUSHION)
}

/// An empty vector with room for this many bytes; `ENOMEM` if there is no memory for
/// them. Unused room costs nothing.
pub fn block(bytes: usize) -> Result<Vec<u8>> {
    let mut block = Vec::new();
    block.try_reserve_exact(bytes).map_err(|_| Errno::NOMEM)?;
    Ok(block)
}

/// Tests whether this process can get this many more bytes (mmap(2), unmapped at once):
/// `ENOMEM` if not. The C library would answer from its reserve, from which a new thread
/// gets no stack.
#[allow(unsafe_code)]
fn try_map(bytes: usize) -> Result<()> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    );
    // SAFETY: a new mapping, wherever the kernel puts it, takes nothing away.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(errno_of(&std::io::Error::last_os_error()));
    }
    // SAFETY: it is that mapping, of which nothing else knows.
    match unsafe { libc::munmap(mapped, bytes) } {
        0 => Ok(()),
        _ => Err(errno_of(&std::io::Error::last_os_error())),
    }
}

/// Makes the C library return freed memory blocks of more than 256 KiB to the system.
/// Otherwise it keeps up to twice the largest freed one for each of many arenas
/// (mallopt(3), `M_MMAP_THRESHOLD`, "dynamic"): with pieces of 1 MiB that becomes tens of
/// MiB.
#[allow(unsafe_code)]
pub fn give_large_blocks_back() {
    const LARGE: libc::c_int = 256 << 10;
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a parameter of the allocator; a value that it does not
    // take is ignored.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
    #[cfg(target_env = "gnu")]
    if is_limited() {
        // Each thread's arena reserves 64 MiB of address space.
        // SAFETY: as above.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_an_error() {
        assert_eq!(block(usize::MAX).unwrap_err(), Errno::NOMEM);
        assert_eq!(block(1 << 62).unwrap_err(), Errno::NOMEM);
        assert!(block(7).unwrap().capacity() >= 7);
        require_room().unwrap();
    }
}
