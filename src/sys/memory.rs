//! Memory, where this process may not have all that it asks for.
//!
//! Rust ends a process that gets no memory, and most of what needs some cannot be
//! told so. So what a client can make grow asks first whether there is
//! [`room`](require_room), and is answered `ENOMEM` while enough is left for all
//! that cannot ask.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::call::{Result, errno_of};

/// What is left to those who cannot ask: the stack of a thread is 2 MiB, and a
/// request needs much less.
pub const CUSHION: usize = 8 << 20;

/// Whether the addresses (`ulimit -v`) or the data (`ulimit -d`) of this process
/// are limited. Anybody may change that while it runs (prlimit(2)).
pub fn is_limited() -> bool {
    let is_limited = |resource| getrlimit(resource).current.is_some();
    is_limited(Resource::As) || is_limited(Resource::Data)
}

/// `ENOMEM` if this process is limited and has not got so many bytes more to
/// take. It costs two system calls where there is no limit.
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

/// An empty vector that can take this many bytes; `ENOMEM` if there is no memory
/// for them. What is not used of it costs nothing.
pub fn block(bytes: usize) -> Result<Vec<u8>> {
    let mut block = Vec::new();
    block.try_reserve_exact(bytes).map_err(|_| Errno::NOMEM)?;
    Ok(block)
}

/// Whether this process may have so many bytes more (mmap(2), which are given back
/// at once): `ENOMEM` if not. The C library would answer from what it keeps in
/// reserve, of which a new thread gets no stack.
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
    // SAFETY: it is that mapping, which nobody has been told of.
    match unsafe { libc::munmap(mapped, bytes) } {
        0 => Ok(()),
        _ => Err(errno_of(&std::io::Error::last_os_error())),
    }
}

/// Has memory blocks of more than 256 KiB given back to the system when they
/// are freed. The C library otherwise keeps up to twice the largest freed one
/// for each of many arenas (mallopt(3), `M_MMAP_THRESHOLD`, "dynamic"): with
/// pieces of 1 MiB that becomes tens of MiB.
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
        // An arena reserves 64 MiB of addresses, for each thread.
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
