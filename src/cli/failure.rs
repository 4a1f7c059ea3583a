//! Failures of commands: one line on standard error, and one exit status each.

use std::fmt;
use std::io::Write;
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
    /// The arguments are invalid.
    Usage = 2,
    /// There is no such session or directory.
    NotFound = 3,
    /// A `session.next` blocks the save.
    Locked = 4,
    /// A mount that would do harm, an invalid or existing name, an empty
    /// checkpoint in place of one that is not empty.
    Refused = 5,
    /// The mount is in use, or the owner of a lock is alive.
    Busy = 6,
    /// A mount is dead or hangs.
    Down = 7,
    /// The last save of a session failed or was abandoned.
    NotSaved = 8,
}

/// The exit statuses: the number, a word or two for the help (empty where only one
/// command uses it), and the full meaning for the manual pages.
pub(super) const MEANINGS: [(u8, &str, &str); 9] = [
    (0, "done", "Done."),
    (Status::Other as u8, "error", "A disk error, or any other."),
    (Status::Usage as u8, "usage", "Invalid arguments."),
    (
        Status::NotFound as u8,
        "not found",
        "There is no such session, directory or mount.",
    ),
    (
        Status::Locked as u8,
        "locked",
        "Locked: another program is saving, or left a session.next behind.",
    ),
    (
        Status::Refused as u8,
        "refused",
        "Refused: a mount that would do harm, an invalid or existing name, a path that cannot \
         be a repository, an empty checkpoint in place of one that is not empty.",
    ),
    (
        Status::Busy as u8,
        "busy",
        "Busy: the mount is in use, files were open for writing when it ended, or the lock to \
         be broken belongs to a running program.",
    ),
    (
        Status::Down as u8,
        "",
        "Status: a mount is dead or does not answer.",
    ),
    (
        Status::NotSaved as u8,
        "",
        "Status: the last save of a session failed or was abandoned.",
    ),
];

/// The exit statuses in one line.
pub(super) fn in_brief() -> String {
    let each = MEANINGS
        .iter()
        .filter(|(_, brief, _)| !brief.is_empty())
        .map(|(status, brief, _)| format!("{status} {brief}"))
        .collect::<Vec<_>>();
    format!("Exit status: {}", each.join(", "))
}

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    status: u8,
    /// `None` if it has been printed already.
    message: Option<String>,
}

impl Failure {
    pub(super) fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status: status as u8,
            message: Some(message.into()),
        }
    }

    /// An error without an exit status of its own.
    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::new(Status::Other, message)
    }

    /// The failure of another process, which has printed the reason.
    pub(super) fn of_process(status: u8) -> Self {
        Self {
            status,
            message: None,
        }
    }

    /// The failure of a command that we ran; its exit status is passed on.
    pub(super) fn of_command(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            message: Some(message.into()),
        }
    }

    /// Prints the failure now; what remains is its exit status.
    pub(super) fn told(self) -> Self {
        self.tell();
        Self {
            message: None,
            ..self
        }
    }

    /// The same failure, with more at the end of its line.
    pub(super) fn with_hint(self, hint: &str) -> Self {
        Self {
            message: self.message.map(|message| format!("{message}; {hint}")),
            ..self
        }
    }

    /// A complaint of clap about the arguments, in one line that names the help.
    pub(super) fn usage(error: &clap::Error, command: Option<&str>) -> Self {
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
            // An unknown option is not meant as a session or file of that name.
            .filter(|paragraph| !paragraph.starts_with("tip: to pass '"))
            .collect();
        let command = command.map_or_else(String::new, |command| format!("{command} "));
        let message = format!("{} (see sessionfs {command}--help)", paragraphs.join("; "));
        Self::new(Status::Usage, message)
    }

    /// Prints the line. If stderr is closed, nothing can be done about it.
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

impl From<&repo::Error> for Failure {
    /// It names the path.
    fn from(error: &repo::Error) -> Self {
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
        Self::new(status, error.to_string())
    }
}

impl From<repo::Error> for Failure {
    fn from(error: repo::Error) -> Self {
        Self::from(&error)
    }
}

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

/// Prints a warning: something is wrong, but the command goes on.
pub(super) fn warn(message: &str) {
    print(&format!("warning: {message}"));
}

fn print(message: &str) {
    let line = format!("sessionfs: {}\n", one_line(message));
    // There is nowhere else to report an error.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The text with control characters escaped (DESIGN 13.5), and the words of errors
/// without their numbers.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in without_numbers(text).chars() {
        if is_odd(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Whether a terminal would do anything with the character other than show it in its
/// place: control characters, line ends, and changes of the direction of writing.
pub(super) fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Removes the numbers from errors as the standard library shows them:
/// `Not a directory (os error 20)`.
pub(super) fn without_numbers(text: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        kept.push_str(before);
        let number = after.trim_start_matches(|c: char| c.is_ascii_digit());
        match number.strip_prefix(')') {
            Some(behind) => rest = behind,
            None => {
                kept.push_str(BEGIN);
                rest = after;
            }
        }
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_line_moves_the_cursor_or_turns_the_writing() {
        let odd = "a\u{1b}[31m\n\u{9b}\u{202e}\u{2028}é";
        let line = one_line(odd);
        assert_eq!(line, "a\\u{1b}[31m\\n\\u{9b}\\u{202e}\\u{2028}é");
        assert!(!line.contains(is_odd));
    }

    #[test]
    fn errors_are_told_in_words() {
        let error = std::io::Error::from_raw_os_error(libc::ENOTDIR);
        let told = one_line(&format!("x: {error}; y: {error}"));
        assert_eq!(told, "x: Not a directory; y: Not a directory");
        for other in ["(os error 20)", "a (os error x)", "a (os error ", ""] {
            assert_eq!(without_numbers(other), other);
        }
    }
}
