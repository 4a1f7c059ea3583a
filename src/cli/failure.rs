//! Failures: one line, one exit status.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::{mount, repo};

/// What a command answers.
pub(super) type Result<T> = std::result::Result<T, Failure>;

/// The exit statuses of failures; `MEANINGS` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// I/O error, or any other.
    Other = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// There is no such session or directory.
    NotFound = 3,
    /// A `session.next` stands in the way.
    Locked = 4,
    /// A mount that would do harm, an invalid name, a name that is taken.
    Refused = 5,
    /// The mount is in use, or the owner of a lock lives.
    Busy = 6,
}

/// What the exit statuses mean: in a word or two for the help, and in full for
/// the manual pages.
pub(super) const MEANINGS: [(u8, &str, &str); 7] = [
    (0, "done", "Done."),
    (
        Status::Other as u8,
        "error",
        "An error of the disk, or any other.",
    ),
    (Status::Usage as u8, "usage", "The arguments make no sense."),
    (
        Status::NotFound as u8,
        "not found",
        "There is no such session, directory or mount.",
    ),
    (
        Status::Locked as u8,
        "locked",
        "Locked: another program saves, or left its session.next.",
    ),
    (
        Status::Refused as u8,
        "refused",
        "Refused: a mount that would do harm, a name that is none or is taken.",
    ),
    (
        Status::Busy as u8,
        "busy",
        "Busy: the mount is in use, files were open for writing at its end, or the lock to be \
         broken is that of a live program.",
    ),
];

/// The exit statuses in one line.
pub(super) fn in_brief() -> String {
    let each = MEANINGS.map(|(status, brief, _)| format!("{status} {brief}"));
    format!("Exit status: {}", each.join(", "))
}

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    status: u8,
    /// `None` if it has been told already.
    message: Option<String>,
}

impl Failure {
    pub(super) fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status: status as u8,
            message: Some(message.into()),
        }
    }

    /// An error that is not told apart from others by its exit status.
    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::new(Status::Other, message)
    }

    /// The failure of another process, which has told why.
    pub(super) fn of_process(status: u8) -> Self {
        Self {
            status,
            message: None,
        }
    }

    /// The same failure, told now, before others are.
    pub(super) fn told(self) -> Self {
        self.tell();
        Self {
            message: None,
            ..self
        }
    }

    /// An error of the storage, with the repository's path.
    pub(super) fn storage(error: &repo::Error, repository: &Path) -> Self {
        use repo::Kind;
        let status = match error.kind() {
            Kind::NotFound => Status::NotFound,
            Kind::Locked => Status::Locked,
            Kind::InvalidName | Kind::Exists => Status::Refused,
            Kind::Superseded
            | Kind::Forbidden
            | Kind::LockBroken
            | Kind::NotAFile
            | Kind::NotDurable
            | Kind::Os => Status::Other,
        };
        let message = match (error.kind(), error.session()) {
            (Kind::InvalidName, _) => error.to_string(),
            // The message begins with the session's name.
            (_, Some(_)) => format!("{}/{error}", repository.display()),
            (_, None) => format!("{}: {error}", repository.display()),
        };
        Self::new(status, message)
    }

    /// The same failure, with more at the end of its line.
    pub(super) fn with_hint(self, hint: &str) -> Self {
        Self {
            message: self.message.map(|message| format!("{message}; {hint}")),
            ..self
        }
    }

    /// What clap has to say, in one line.
    pub(super) fn usage(error: &clap::Error) -> Self {
        let text = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            "no command is given".to_owned()
        } else {
            error.render().to_string()
        };
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let end = text.find("\n\nUsage:").or(text.find("\n\nFor more"));
        let paragraphs: Vec<String> = text[..end.unwrap_or(text.len())]
            .split("\n\n")
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let message = format!("{} (see sessionfs --help)", paragraphs.join("; "));
        Self::new(Status::Usage, message)
    }

    /// Prints the line. There is nobody to tell that stderr is closed.
    pub fn tell(&self) {
        if let Some(message) = &self.message {
            print(message);
        }
    }

    /// The exit status.
    pub fn status(&self) -> ExitCode {
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or_default())
    }
}

impl std::error::Error for Failure {}

impl From<mount::Error> for Failure {
    fn from(error: mount::Error) -> Self {
        let status = match error.kind() {
            mount::Kind::Refused => Status::Refused,
            mount::Kind::NotFound => Status::NotFound,
            mount::Kind::Busy => Status::Busy,
            mount::Kind::Failed => Status::Other,
        };
        Self::new(status, error.to_string())
    }
}

/// Tells of something that is not as it should be, but no failure.
pub(super) fn warn(message: &str) {
    print(&format!("warning: {message}"));
}

fn print(message: &str) {
    let line = format!("sessionfs: {}\n", one_line(message));
    // Nobody is left to be told.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The text with its control characters escaped.
pub(super) fn one_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}
