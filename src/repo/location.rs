//! The default location of the repository: the original's rule.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// The variable that names the repository.
pub(super) const VARIABLE: &str = "PLAINBOX_SESSION_REPOSITORY";

/// The default location of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultLocation {
    /// The directory. It may not exist yet.
    pub path: PathBuf,
    /// Why it is a fresh temporary directory instead of the usual place.
    pub warning: Option<String>,
}

/// `$PLAINBOX_SESSION_REPOSITORY`, made absolute; else
/// `${XDG_CACHE_HOME:-$HOME/.cache}/plainbox/sessions`, where an empty
/// `XDG_CACHE_HOME` counts as unset. If that exists and is no directory, or
/// is not writable, a fresh temporary directory instead, with a warning.
///
/// # Errors
/// Those of making the temporary directory, and of finding the current one.
pub fn default_location() -> io::Result<DefaultLocation> {
    let variable = |name: &str| std::env::var_os(name);
    resolve(&variable)
}

/// As [`default_location`], for commands that only read, which need not be able to write
/// there.
///
/// # Errors
/// Those of finding the current directory.
pub fn default_location_for_reading() -> io::Result<PathBuf> {
    usual_place(&|name| std::env::var_os(name))
}

fn resolve(variable: &dyn Fn(&str) -> Option<OsString>) -> io::Result<DefaultLocation> {
    let path = usual_place(variable)?;
    let problem = match std::fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => Some(e.to_string()),
        Ok(metadata) if !metadata.is_dir() => Some("it is not a directory".to_owned()),
        Ok(_) => rustix::fs::access(&path, Access::WRITE_OK)
            .err()
            .map(|errno| io::Error::from(errno).to_string()),
    };
    let Some(problem) = problem else {
        return Ok(DefaultLocation {
            path,
            warning: None,
        });
    };
    let fresh = temporary_directory(variable)?;
    Ok(DefaultLocation {
        warning: Some(format!(
            "cannot use the repository {}: {problem}; using the temporary directory {} instead",
            path.display(),
            fresh.display()
        )),
        path: fresh,
    })
}

pub(super) fn usual_place(variable: &dyn Fn(&str) -> Option<OsString>) -> io::Result<PathBuf> {
    if let Some(path) = variable(VARIABLE).filter(|path| !path.is_empty()) {
        return std::path::absolute(path);
    }
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let cache = match set("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => {
            let home = set("HOME").ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("neither {VARIABLE} nor HOME is set"),
                )
            })?;
            Path::new(&home).join(".cache")
        }
    };
    std::path::absolute(cache.join("plainbox/sessions"))
}

/// A new directory, mode 0700, which did not exist before.
fn temporary_directory(variable: &dyn Fn(&str) -> Option<OsString>) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = variable("TMPDIR").filter(|base| !base.is_empty());
    let base = std::path::absolute(base.unwrap_or_else(|| OsString::from("/tmp")))?;
    let mut attempt = u64::from(std::process::id());
    loop {
        let path = base.join(format!("sessionfs-{attempt:x}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => attempt += 1 << 32,
            other => return other.map(|()| path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> PathBuf {
        let variable = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        };
        usual_place(&variable).unwrap()
    }

    #[test]
    fn the_usual_place_follows_the_original() {
        let home = ("HOME", "/h");
        assert_eq!(place(&[home]), Path::new("/h/.cache/plainbox/sessions"));
        assert_eq!(
            place(&[home, ("XDG_CACHE_HOME", "")]),
            Path::new("/h/.cache/plainbox/sessions")
        );
        assert_eq!(
            place(&[home, ("XDG_CACHE_HOME", "/c")]),
            Path::new("/c/plainbox/sessions")
        );
        assert_eq!(place(&[home, (VARIABLE, "/r")]), Path::new("/r"));
        let relative = place(&[home, (VARIABLE, "r")]);
        assert_eq!(relative, std::env::current_dir().unwrap().join("r"));
    }

    #[test]
    fn an_unusable_place_is_replaced_with_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let variable = |name: &str| match name {
            VARIABLE => Some(file.clone().into_os_string()),
            "TMPDIR" => Some(dir.path().as_os_str().to_owned()),
            _ => None,
        };
        let location = resolve(&variable).unwrap();
        let warning = location.warning.unwrap();
        assert!(
            warning.contains(location.path.to_str().unwrap()),
            "{warning}"
        );
        assert!(location.path.is_dir());
        assert_ne!(resolve(&variable).unwrap().path, location.path);
    }
}
