//! Writing to standard output.

use std::io::{self, StdoutLock, Write};

use super::failure::{Failure, Result};

/// Lets `f` write. A reader that has closed its end of the pipe has seen
/// enough: that is no failure.
pub(super) fn write(f: impl FnOnce(&mut StdoutLock<'static>) -> io::Result<()>) -> Result<()> {
    let mut out = io::stdout().lock();
    match f(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::other(format!(
            "cannot write to standard output: {e}"
        ))),
        _ => Ok(()),
    }
}
