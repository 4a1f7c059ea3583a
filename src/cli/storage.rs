//! Which repository, which session.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::failure::{self, Failure, Result};
use crate::repo::{self, Repository, Session, SessionName};

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
            Some(path) => Ok(Repository::new(path)),
            None => default_repository().map(Repository::new),
        }
    }

    /// The repository and the name that an argument means.
    pub(super) fn find(&self, argument: &OsStr) -> Result<(Repository, SessionName)> {
        let parsed = repo::parse_argument(argument);
        let (parent, name) = parsed.map_err(|e| Failure::storage(&e, Path::new("")))?;
        let repository = match parent {
            // NAME.session/ is in the current directory.
            Some(parent) if parent.as_os_str().is_empty() => Repository::new("."),
            Some(parent) => Repository::new(parent),
            None => self.repository()?,
        };
        Ok((repository, name))
    }

    /// The session that an argument means, opened.
    pub(super) fn open(&self, argument: &OsStr) -> Result<(Repository, Session)> {
        let (repository, name) = self.find(argument)?;
        let session = repository
            .session(&name)
            .map_err(|e| Failure::storage(&e, repository.path()))?;
        Ok((repository, session))
    }
}

/// The default location, with its warning told.
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
