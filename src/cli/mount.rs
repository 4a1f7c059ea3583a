//! `sessionfs mount`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::failure::{self, Failure, Result};
use super::{logging, storage};
use crate::mount::{self, Request, daemon};

const AFTER_HELP: &str = "\
Examples:
  sessionfs mount ~/sessions
  sessionfs mount /srv/sessions /mnt/sessions --log-file /var/log/sessionfs
  sessionfs mount -f /srv/sessions /mnt/sessions

Returns when the mount is usable. SIGTERM, SIGINT and SIGHUP finish the saves
in progress and unmount; so does sessionfs umount.";

const HELP: &str = "\
{about-with-newline}
{usage-heading} {usage}

Arguments:
  [REPOSITORY]  The repository [default: see sessionfs --help]
  <MOUNTPOINT>  Where to mount it; made if it is missing

Options:
{options}{after-help}";

/// Mount a repository
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, help_template = HELP)]
#[command(override_usage = "sessionfs mount [OPTIONS] [REPOSITORY] <MOUNTPOINT>")]
pub(super) struct Arguments {
    // One list: of an optional argument and a required one, clap would take
    // what follows a "--" for the last.
    /// The repository, if given, and the mountpoint
    #[arg(required = true, num_args = 1..=2, value_name = "MOUNTPOINT")]
    paths: Vec<PathBuf>,

    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    foreground: bool,

    /// Append the log to a file [default: syslog]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Mount on a directory that is not empty
    #[arg(long)]
    nonempty: bool,

    /// Let other users in, each with his own permissions
    #[arg(long)]
    allow_other: bool,

    /// How long an open for writing waits for another writer
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    lock_wait: Duration,

    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value = "8",
          value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,

    /// Read and write through the daemon, not past it
    #[arg(long)]
    no_passthrough: bool,

    /// This is the background process of a mount
    #[arg(long, hide = true, conflicts_with = "foreground")]
    background_process: bool,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

impl Arguments {
    fn repository(&self) -> Option<&Path> {
        match &self.paths[..] {
            [repository, _mountpoint] => Some(repository),
            _ => None,
        }
    }

    fn mountpoint(&self) -> &Path {
        self.paths.last().map_or(Path::new(""), PathBuf::as_path)
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mountpoint = absolute(arguments.mountpoint())?;
    let repository = match arguments.repository() {
        Some(path) => absolute(path)?,
        None => storage::default_repository()?,
    };
    let request = Request {
        repository,
        mountpoint,
        nonempty: arguments.nonempty,
        allow_other: arguments.allow_other,
        threads: arguments.threads.into(),
        passthrough: !arguments.no_passthrough,
        lock_wait: arguments.lock_wait,
    };
    let log_file = arguments.log_file.as_deref().map(absolute).transpose()?;
    let target = match (&log_file, arguments.foreground) {
        (Some(path), _) => logging::Target::File(path.clone()),
        (None, true) => logging::Target::Stderr,
        (None, false) => logging::Target::Syslog,
    };
    if arguments.foreground {
        logging::start(target)?;
        return Ok(mount::serve(&request, &failure::warn, || Ok(()))?);
    }
    if arguments.background_process {
        daemon::leave_terminal()?;
        logging::start(target)?;
        return mount::serve(&request, &failure::warn, daemon::announce).map_err(|e| {
            // The standard error may be closed by now.
            log::error!("{e}");
            e.into()
        });
    }
    match daemon::start(background_arguments(&request, log_file.as_deref()))? {
        daemon::Started::Ready => Ok(()),
        daemon::Started::Ended(status) => Err(Failure::of_process(status)),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|e| Failure::other(format!("cannot make {} absolute: {e}", path.display())))
}

/// The arguments of the background process: the same mount, independent of
/// the directory and the environment.
fn background_arguments(request: &Request, log_file: Option<&Path>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--background-process".into()];
    arguments.push(format!("--threads={}", request.threads).into());
    arguments.push(format!("--lock-wait={}", request.lock_wait.as_secs_f64()).into());
    if request.nonempty {
        arguments.push("--nonempty".into());
    }
    if request.allow_other {
        arguments.push("--allow-other".into());
    }
    if !request.passthrough {
        arguments.push("--no-passthrough".into());
    }
    if let Some(file) = log_file {
        arguments.extend(["--log-file".into(), file.into()]);
    }
    let (repository, mountpoint) = (&request.repository, &request.mountpoint);
    arguments.extend(["--".into(), repository.into(), mountpoint.into()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_repository_comes_first_and_may_be_missing() {
        let parse = |arguments: &[&str]| Only::try_parse_from(arguments).map(|o| o.arguments);
        let one = parse(&["mount", "m"]).unwrap();
        assert_eq!((one.repository(), one.mountpoint()), (None, Path::new("m")));
        let two = parse(&["mount", "r", "m"]).unwrap();
        assert_eq!(two.repository(), Some(Path::new("r")));
        assert_eq!(two.mountpoint(), Path::new("m"));
        let dashes = parse(&["mount", "--", "-r", "-m"]).unwrap();
        assert_eq!(dashes.repository(), Some(Path::new("-r")));
        assert!(parse(&["mount", "a", "b", "c"]).is_err());
        assert!(parse(&["mount"]).is_err());
        assert!(parse(&["mount", "--lock-wait=-1", "m"]).is_err());
        assert!(parse(&["mount", "--lock-wait=x", "m"]).is_err());
    }

    #[test]
    fn the_background_process_gets_the_same_request() {
        let request = Request {
            repository: "/-r".into(),
            mountpoint: "/m".into(),
            nonempty: true,
            allow_other: true,
            threads: 3,
            passthrough: false,
            lock_wait: Duration::from_millis(2500),
        };
        let again =
            Only::try_parse_from(background_arguments(&request, Some(Path::new("/log")))).unwrap();
        let again = again.arguments;
        assert_eq!(again.repository(), Some(Path::new("/-r")));
        assert_eq!(again.mountpoint(), Path::new("/m"));
        assert_eq!(again.log_file, Some("/log".into()));
        assert!(again.nonempty && again.allow_other && again.no_passthrough);
        assert!(again.background_process);
        assert_eq!(again.threads, 3);
        assert_eq!(again.lock_wait, request.lock_wait);
    }
}
