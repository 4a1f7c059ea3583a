//! Which repository and which session a command is about (DESIGN 1).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::failure::{self, Failure, Result, Status};
use crate::mount;
use crate::repo::{self, Kind, Repository, Session, SessionName};

/// The option that all commands on the storage have.
#[derive(Debug, clap::Args)]
pub(super) struct Storage {
    /// The repository [default: see sessionfs --help]
    #[arg(short, long, value_name = "DIR")]
    repository: Option<PathBuf>,
}

impl Storage {
    /// The repository that is given, else the default one.
    pub(super) fn repository(&self) -> Result<Repository> {
        match &self.repository {
            Some(path) => used(path),
            None => used(&default_repository()?),
        }
    }

    /// The repository for a command that only reads, and makes none: `argument`, which
    /// may be given instead of the option, else the default one.
    pub(super) fn repository_for_reading(&self, argument: Option<&Path>) -> Result<Repository> {
        match argument.or(self.repository.as_deref()) {
            Some(path) => used(path),
            None => used(&default_repository_for_reading()?),
        }
    }

    /// The repository and the name that an argument means.
    pub(super) fn find(&self, argument: &OsStr) -> Result<(Repository, SessionName)> {
        let parsed = repo::parse_argument(argument);
        let (parent, name) = parsed.map_err(|_| no_name(argument))?;
        let repository = match parent {
            // NAME.session/ is in the current directory.
            Some(parent) if parent.as_os_str().is_empty() => used(Path::new("."))?,
            Some(parent) => used(&parent)?,
            None => self.repository()?,
        };
        Ok((repository, name))
    }

    /// The session that an argument means, opened.
    pub(super) fn open(&self, argument: &OsStr) -> Result<(Repository, Session)> {
        let (repository, name) = self.find(argument)?;
        let session = repository
            .session(&name)
            .map_err(|e| explain(&e, &repository))?;
        Ok((repository, session))
    }
}

/// The repository at a path, unless that is something else.
fn used(path: &Path) -> Result<Repository> {
    mount::check_repository(path)?;
    Ok(Repository::new(path))
}

/// What is wrong with an argument that names no session.
fn no_name(argument: &OsStr) -> Failure {
    let bytes = argument.as_bytes();
    let last = Path::new(argument).file_name().unwrap_or_default();
    let reason = if bytes.is_empty() {
        "it is empty"
    } else if last.as_bytes().starts_with(b".") || last.is_empty() {
        "it must not start with a dot"
    } else if bytes.contains(&b'/') && !last.as_bytes().ends_with(b".session") {
        "an id has no \"/\" in it, and a path ends in .session"
    } else {
        "it must have at most 255 bytes, with .session"
    };
    let message = format!("\"{}\": not a session name: {reason}", argument.display());
    Failure::new(Status::Refused, message)
}

/// The failure. If there is no session of that name, it names the one that was
/// probably meant.
pub(super) fn explain(error: &repo::Error, repository: &Repository) -> Failure {
    let failure = Failure::from(error);
    let asked = error.session().filter(|_| error.kind() == Kind::NotFound);
    match asked.and_then(|asked| nearest(asked, repository)) {
        Some(id) => failure.with_hint(&format!("did you mean \"{id}\"?")),
        None => failure,
    }
}

fn nearest(asked: &SessionName, repository: &Repository) -> Option<String> {
    /// Names that are less alike are taken for different ones (1 is the same name).
    const ALIKE: f64 = 0.8;
    let asked = asked.id().to_str()?;
    let entries = repository.list().ok()?;
    entries
        .iter()
        // Only those that can be typed as they are shown.
        .filter_map(|entry| entry.name.id().to_str())
        .filter(|id| !id.contains(char::is_control))
        .map(|id| (strsim::jaro_winkler(asked, id), id))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, id)| id.to_owned())
}

/// The default location; prints its warning.
pub(super) fn default_repository() -> Result<PathBuf> {
    let location = repo::default_location().map_err(|e| not_found(&e))?;
    if let Some(warning) = &location.warning {
        failure::warn(warning);
    }
    Ok(location.path)
}

/// The same for a mount that refuses every change.
pub(super) fn default_repository_for_reading() -> Result<PathBuf> {
    repo::default_location_for_reading().map_err(|e| not_found(&e))
}

fn not_found(error: &io::Error) -> Failure {
    Failure::other(format!("cannot find the default repository: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_name_is_named() {
        for (argument, reason) in [
            ("", "it is empty"),
            (".", "a dot"),
            ("..", "a dot"),
            (".hidden", "a dot"),
            ("x/.session", "a dot"),
            ("a/b", "\"/\""),
            ("nightly.session/session", "\"/\""),
            (&"x".repeat(248), "255 bytes"),
            (&format!("a/{}.session", "x".repeat(248)), "255 bytes"),
        ] {
            assert!(
                repo::parse_argument(OsStr::new(argument)).is_err(),
                "{argument}"
            );
            let said = no_name(OsStr::new(argument)).to_string();
            assert!(said.contains(reason), "{said}");
        }
    }

    #[test]
    fn the_nearest_id_is_offered_if_it_is_near() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::new(dir.path());
        let name = |id: &str| SessionName::from_id(id).unwrap();
        let offered = |id: &str| nearest(&name(id), &repository);
        assert_eq!(offered("nightlx"), None);
        for id in ["nightly", "nightly-2", "release", "a\u{1b}b"] {
            repository.create_named(&name(id), 0o777).unwrap();
        }
        assert_eq!(offered("nightlx").as_deref(), Some("nightly"));
        assert_eq!(offered("nigthly-2").as_deref(), Some("nightly-2"));
        assert_eq!(offered("relaese").as_deref(), Some("release"));
        for far in ["x", "weekly", "a\u{1b}c"] {
            assert_eq!(offered(far), None, "{far}");
        }
    }
}
