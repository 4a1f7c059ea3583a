//! The name of a session: what it is, and how it is shown.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// The ending that makes a directory of the repository a session.
pub(super) const SUFFIX: &[u8] = b".session";

/// The name of a session's directory: `ID.session`.
///
/// It may contain any bytes but `/` and NUL, does not start with a dot, and has at most
/// 255 bytes.
///
/// ```
/// use sessionfs::repo::SessionName;
///
/// let name = SessionName::new("pbox-1.session")?;
/// assert_eq!(name.id(), "pbox-1");
/// assert_eq!(SessionName::from_id("pbox-1")?, name);
/// assert!(SessionName::new("notes.txt").is_err());
/// assert!(SessionName::new(".hidden.session").is_err());
/// # Ok::<(), sessionfs::repo::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionName(pub(super) OsString);

impl SessionName {
    /// The name without its ending.
    pub fn id(&self) -> &OsStr {
        let bytes = self.0.as_bytes();
        OsStr::from_bytes(bytes.strip_suffix(SUFFIX).unwrap_or(bytes))
    }

    /// The whole name.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl AsRef<OsStr> for SessionName {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

/// For messages: one line, whatever the name contains.
impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_one_line(f, &self.0.to_string_lossy())
    }
}

/// Writes a text as one line, with control characters escaped.
pub(super) fn write_one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            write!(f, "{c}")?;
        }
    }
    Ok(())
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_message_is_one_line() {
        let name = SessionName::new("a\nb.session").unwrap();
        assert_eq!(name.to_string(), "a\\nb.session");
    }
}
