//! What a crash, or another program, has left behind in a session.

use std::ffi::{OsStr, OsString};

use super::error::{During, Kind, Result};
use super::lock::Lock;
use super::session::{CHECKPOINT, Session};
use crate::sys;

/// Files in a session that do not belong there.
#[derive(Clone, Debug, Default)]
pub struct Debris {
    /// A `session.next`, whatever made it.
    pub lock: Option<Lock>,
    /// Whether there is a `session` that is no regular file.
    pub is_no_file: bool,
    /// Temporary names of checkpoints that were being linked, which a crash has left
    /// behind.
    pub links: Vec<OsString>,
}

impl Session {
    /// Looks for leftovers in the session's directory, and changes nothing.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn debris(&self) -> Result<Debris> {
        let is_no_file = match self.checkpoint() {
            Err(e) if e.kind() == Kind::NotAFile => true,
            other => other.map(|_| false)?,
        };
        let names = sys::read_dir(self.dir()).during("read the session");
        let names = names.map_err(|e| self.tell(e))?;
        Ok(Debris {
            lock: self.lock()?,
            is_no_file,
            links: names.into_iter().filter(|name| is_link(name)).collect(),
        })
    }
}

/// Whether a name is a temporary one of [`Checkpoint::link`](super::Checkpoint::link).
pub(super) fn is_link(name: &OsStr) -> bool {
    let numbers = || {
        let rest = name.to_str()?.strip_prefix('.')?;
        let rest = rest.strip_prefix(CHECKPOINT)?.strip_prefix('.')?;
        rest.split_once('.')
    };
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    numbers().is_some_and(|(pid, number)| is_number(pid) && is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_links_are_told_from_others() {
        assert!(is_link(OsStr::new(".session.123.0")));
        for other in [
            "session.1.0",
            ".session",
            ".session.",
            ".session.1",
            ".session.1.x",
            ".session.a.1",
            ".session.swp",
        ] {
            assert!(!is_link(OsStr::new(other)), "{other}");
        }
    }
}
