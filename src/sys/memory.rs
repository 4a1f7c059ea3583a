//! Memory, where this process may not have all that it asks for.
//!
//! Rust ends a process that gets no memory, and most of what needs some cannot be
//! told so. So what a client can make grow asks first whether there is
//! [`room`](require_room), and is answered `ENOMEM` while enough is left for all
//! that cannot ask.

use rustix::process::{Resource, getrlimit};

use super::{Errno, Result};

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
        super::try_map(bytes)?;
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
