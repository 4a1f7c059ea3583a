//! Where names of sessions come from: a whole name, an id, an argument of a command, or a
//! prefix and the time. Only the name of a single directory entry that no listing hides
//! is accepted.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::{Error, Kind, Result};
use super::name::{SUFFIX, SessionName};
use crate::sys::{self, Errno};

/// The longest name of a directory entry, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;

impl SessionName {
    /// A whole name, with its ending.
    ///
    /// # Errors
    /// [`Kind::InvalidName`]: `ENAMETOOLONG` or `EINVAL`
    pub fn new(name: impl AsRef<OsStr>) -> Result<Self> {
        let bytes = name.as_ref().as_bytes();
        let valid = bytes.ends_with(SUFFIX)
            && !bytes.starts_with(b".")
            && !bytes.contains(&b'/')
            && !bytes.contains(&0);
        let fits = bytes.len() <= NAME_MAX;
        let name = Self(name.as_ref().to_owned());
        let errno = match (valid, fits) {
            (true, true) => return Ok(name),
            (true, false) => Errno::NAMETOOLONG,
            (false, _) => Errno::INVAL,
        };
        Err(Error::new(Kind::InvalidName, "check the name", errno).of(&name))
    }

    /// The name of the session with this id.
    ///
    /// # Errors
    /// [`Kind::InvalidName`]
    pub fn from_id(id: impl AsRef<OsStr>) -> Result<Self> {
        let mut bytes = id.as_ref().as_bytes().to_vec();
        bytes.extend_from_slice(SUFFIX);
        Self::new(OsString::from_vec(bytes))
    }

    /// The id or the name of a session, told apart by the ending.
    ///
    /// # Errors
    /// [`Kind::InvalidName`]
    pub fn from_id_or_name(text: impl AsRef<OsStr>) -> Result<Self> {
        if text.as_ref().as_bytes().ends_with(SUFFIX) {
            Self::new(text)
        } else {
            Self::from_id(text)
        }
    }

    /// The name that [`create`](super::Repository::create) tries in its `attempt`th
    /// attempt: the slug of the prefix, the time in UTC, and a number from the second
    /// attempt on.
    pub(super) fn generate(prefix: &str, seconds: i64, attempt: u32) -> Result<Self> {
        let [year, month, day, hour, minute, second] =
            sys::utc(seconds).ok_or(Error::new(Kind::Os, "read the clock", Errno::OVERFLOW))?;
        let mut id = format!(
            "{}{year:04}-{month:02}-{day:02}T{hour:02}.{minute:02}.{second:02}",
            slug(prefix)
        );
        if attempt > 0 {
            id.push_str(&format!("_({attempt})"));
        }
        Self::from_id(id)
    }
}

/// The session that an argument means: an id, a name, or the path of a session's
/// directory, whose parent then is the repository.
///
/// # Errors
/// [`Kind::InvalidName`]
pub(crate) fn parse_argument(argument: &OsStr) -> Result<(Option<PathBuf>, SessionName)> {
    let path = Path::new(argument);
    if argument.as_encoded_bytes().contains(&b'/') {
        let name = SessionName::new(path.file_name().unwrap_or_default())?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        return Ok((Some(parent.to_owned()), name));
    }
    Ok((None, SessionName::from_id_or_name(argument)?))
}

/// Every character but ASCII letters, digits, `-`, `_` and `.` becomes `_`
/// (the original's `slugify`).
fn slug(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_follow_the_original() {
        let name = |prefix, attempt| {
            let name = SessionName::generate(prefix, 1_700_000_000, attempt).unwrap();
            name.as_os_str().to_str().unwrap().to_owned()
        };
        assert_eq!(name("pbox-", 0), "pbox-2023-11-14T22.13.20.session");
        assert_eq!(name("pbox-", 2), "pbox-2023-11-14T22.13.20_(2).session");
        assert_eq!(name("my run/é-", 0), "my_run__-2023-11-14T22.13.20.session");
    }

    #[test]
    fn names_are_checked() {
        assert!(SessionName::new("a b\n.session").is_ok());
        assert!(SessionName::new(OsStr::from_bytes(b"\xff.session")).is_ok());
        assert!(SessionName::new("x".repeat(247) + ".session").is_ok());
        assert!(SessionName::new("x".repeat(248) + ".session").is_err());
        for bad in [
            "",
            ".session",
            "a",
            "a/b.session",
            "..",
            "a.session/",
            "a\0.session",
        ] {
            assert!(SessionName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            SessionName::from_id_or_name("a.session").unwrap(),
            SessionName::from_id_or_name("a").unwrap()
        );
    }
}
