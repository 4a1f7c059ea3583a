//! The seam: every system call that touches a repository goes through here, so that tests
//! can make it fail, or transfer less. A call that a signal has interrupted is made
//! again.

use rustix::io::Errno;

use super::call::{Call, Result};
#[cfg(test)]
use super::fault;

/// Makes a system call.
pub(super) fn call<T>(call: Call, mut f: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        #[cfg(test)]
        let result = fault::next(call).map_or_else(&mut f, Err);
        #[cfg(not(test))]
        let result = {
            let _ = call;
            f()
        };
        match result {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// How many bytes a call may read or write at once: all of them, unless a test limits it.
pub(super) fn limit(len: usize) -> usize {
    #[cfg(test)]
    return fault::limit(len);
    #[cfg(not(test))]
    len
}
