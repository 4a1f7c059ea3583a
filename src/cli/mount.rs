//! `sessionfs mount`

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command};
use log::LevelFilter;

use super::failure::{self, Failure, Result, one_line};
use super::{logging, output, storage};
use crate::mount::{self, Access, Missing, MountOptions, Request, daemon};

const AFTER_HELP: &str = "\
Examples:
  sessionfs mount ~/sessions
  sessionfs mount /srv/sessions /mnt/sessions -o ro,allow_other";

// Options that the list does not show are named below it.
const HELP: &str = "\
{about-with-newline}
{usage-heading} {usage}

Options:
{options}

Also --allow-root, --default-permissions, --auto-unmount, --noexec, --noatime,
--fsname, --subtype, --max-read, --entry-timeout, --attr-timeout, --missing,
--threads, --nonempty, --no-passthrough: see sessionfs-mount(1).

A missing MOUNTPOINT is made. For the default repository see sessionfs --help.{after-help}";

/// Mount a repository
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, help_template = HELP)]
#[command(args_override_self = true, disable_help_flag = true)]
#[command(override_usage = "sessionfs mount [OPTIONS] [REPOSITORY] <MOUNTPOINT>")]
pub(super) struct Arguments {
    // One list, because of an optional and a required argument clap would assign
    // what follows "--" to the last.
    /// The repository, if given, and the mountpoint
    #[arg(required = true, num_args = 1..=2, value_name = "MOUNTPOINT")]
    paths: Vec<PathBuf>,

    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    pub(super) foreground: bool,

    /// Mount options as in fstab: ro,lock_wait=3
    // Replaced by long options before the arguments are parsed.
    #[arg(short, long, value_name = "LIST")]
    options: Option<OsString>,

    /// Refuse every change
    #[arg(long, overrides_with = "rw")]
    ro: bool,

    /// Allow changes (the default)
    #[arg(long, hide = true, overrides_with = "ro")]
    rw: bool,

    /// Change ro, rw, noexec and noatime of an existing mount
    #[arg(long, hide = true)]
    remount: bool,

    /// Allow other users, with their own permissions
    #[arg(long)]
    allow_other: bool,

    /// Allow root as well
    #[arg(long, hide_short_help = true, conflicts_with = "allow_other")]
    allow_root: bool,

    /// Let the kernel check permissions
    #[arg(long, hide_short_help = true)]
    default_permissions: bool,

    /// Unmount if the daemon dies (needs fusermount3)
    #[arg(long, hide_short_help = true)]
    auto_unmount: bool,

    /// No device files (always)
    #[arg(long, hide = true)]
    nodev: bool,

    /// No setuid programs (always)
    #[arg(long, hide = true)]
    nosuid: bool,

    /// Do not run programs from the mount
    #[arg(long, hide_short_help = true)]
    noexec: bool,

    /// Do not update access times
    #[arg(long, hide_short_help = true)]
    noatime: bool,

    /// The source to show [default: the repository]
    #[arg(long, hide_short_help = true)]
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    fsname: Option<String>,

    /// The type to show, after "fuse."
    #[arg(long, hide_short_help = true)]
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    subtype: Option<String>,

    /// The largest read in one piece
    #[arg(long, hide_short_help = true)]
    #[arg(value_name = "BYTES", value_parser = clap::value_parser!(u32).range(4096..))]
    max_read: Option<u32>,

    /// How long the kernel may cache directory names
    #[arg(long, hide_short_help = true)]
    #[arg(value_name = "SEC", value_parser = seconds)]
    entry_timeout: Option<Duration>,

    /// The same for attributes, but not of checkpoints
    #[arg(long, hide_short_help = true)]
    #[arg(value_name = "SEC", value_parser = seconds)]
    attr_timeout: Option<Duration>,

    /// Mount on a directory that is not empty
    #[arg(long, hide_short_help = true)]
    nonempty: bool,

    /// How long a writer waits for another
    #[arg(long, value_name = "SEC", default_value = "0", value_parser = seconds)]
    lock_wait: Duration,

    /// Show a missing checkpoint as empty or absent
    #[arg(long, hide_short_help = true, hide_possible_values = true)]
    #[arg(value_name = "WHAT", default_value = "empty", value_parser = missing())]
    missing: Missing,

    /// Threads that answer the kernel
    #[arg(long, hide_short_help = true)]
    #[arg(value_name = "N", default_value = "8",
          value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,

    /// Read and write through the daemon only
    #[arg(long, hide_short_help = true)]
    no_passthrough: bool,

    /// Append the log to a file [default: syslog]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// off, error, warn, info … [default: $RUST_LOG]
    #[arg(
        long,
        value_name = "LEVEL",
        ignore_case = true,
        hide_possible_values = true
    )]
    #[arg(value_parser = levels())]
    log_level: Option<LevelFilter>,

    // One help for both -h and --help.
    /// Print help
    #[arg(short, long, action = ArgAction::HelpShort)]
    help: Option<bool>,

    /// Be the background process of a mount
    #[arg(long, hide = true, conflicts_with = "foreground")]
    background_process: bool,
}

/// The values of `--missing`, for messages and completions.
fn missing() -> impl TypedValueParser<Value = Missing> {
    PossibleValuesParser::new(["empty", "absent"]).map(|what| match &*what {
        "absent" => Missing::Absent,
        _ => Missing::Empty,
    })
}

/// The values of `--log-level`, likewise.
fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .try_map(|level| level.parse::<LevelFilter>())
}

pub(super) fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    // Longer than anybody waits, and within the range of all clocks.
    if seconds > 1e9 {
        return Err("too long".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

impl Arguments {
    pub(super) fn repository(&self) -> Option<&Path> {
        match &self.paths[..] {
            [repository, _mountpoint] => Some(repository),
            _ => None,
        }
    }

    fn mountpoint(&self) -> &Path {
        self.paths.last().map_or(Path::new(""), PathBuf::as_path)
    }

    fn mount_options(&self) -> MountOptions {
        MountOptions {
            read_only: self.ro,
            no_exec: self.noexec,
            no_atime: self.noatime,
            access: match (self.allow_other, self.allow_root) {
                (true, _) => Access::Everybody,
                (false, true) => Access::OwnerAndRoot,
                (false, false) => Access::Owner,
            },
            default_permissions: self.default_permissions,
            auto_unmount: self.auto_unmount,
            source: self.fsname.clone().map(OsString::from),
            subtype: self.subtype.clone().map(OsString::from),
            max_read: self.max_read,
        }
    }
}

/// The mount that the arguments ask for, and where its log goes.
pub(super) fn request(arguments: &Arguments) -> Result<(Request, logging::Log)> {
    let mountpoint = absolute(arguments.mountpoint())?;
    let repository = match arguments.repository() {
        Some(path) => absolute(path)?,
        None if arguments.ro => storage::default_repository_for_reading()?,
        None => storage::default_repository()?,
    };
    let request = Request {
        repository,
        mountpoint,
        nonempty: arguments.nonempty,
        options: arguments.mount_options(),
        threads: arguments.threads.into(),
        passthrough: !arguments.no_passthrough,
        lock_wait: arguments.lock_wait,
        entry_timeout: arguments.entry_timeout,
        attr_timeout: arguments.attr_timeout,
        missing: arguments.missing,
    };
    let log = logging::Log {
        target: match (&arguments.log_file, arguments.foreground) {
            (Some(path), _) => logging::Target::File(absolute(path)?),
            (None, true) => logging::Target::Stderr,
            (None, false) => logging::Target::Syslog,
        },
        level: arguments.log_level,
    };
    Ok((request, log))
}

/// Changes what the kernel can change by itself. mount(8) also passes the options of
/// the mount's line in fstab(5), so an option that is given need not be a change.
fn remount(arguments: &Arguments, given: &ArgMatches) -> Result<()> {
    const CHANGED: [&str; 4] = ["ro", "rw", "noexec", "noatime"];
    // Fixed for the life of a mount, and shown to mount(8), which passes them back.
    const SHOWN: [&str; 9] = [
        "remount",
        "paths",
        "nodev",
        "nosuid",
        "allow_other",
        "default_permissions",
        "max_read",
        "fsname",
        "subtype",
    ];
    mount::remount(
        &absolute(arguments.mountpoint())?,
        &arguments.mount_options(),
    )?;
    for option in Arguments::augment_args(Command::new("mount")).get_arguments() {
        let id = option.get_id().as_str();
        let is_given = given.value_source(id) == Some(ValueSource::CommandLine);
        if is_given && !CHANGED.contains(&id) && !SHOWN.contains(&id) {
            failure::warn(&format!(
                "{id} stays as it is: a remount changes ro, rw, noexec and noatime; for the \
                 others unmount and mount again"
            ));
        }
    }
    Ok(())
}

/// Mounts; `given` are the same arguments as clap has parsed them.
pub(super) fn run(arguments: &Arguments, given: &ArgMatches) -> Result<()> {
    if arguments.remount {
        return remount(arguments, given);
    }
    let (request, log) = request(arguments)?;
    if arguments.foreground {
        logging::start(log)?;
        return Ok(mount::serve(&request, &failure::warn, || Ok(()))?);
    }
    if arguments.background_process {
        daemon::leave_terminal()?;
        logging::start(log)?;
        return mount::serve(&request, &failure::warn, daemon::announce).map_err(|e| {
            // Standard error may be closed already.
            log::error!("{e}");
            e.into()
        });
    }
    match daemon::start(background_arguments(given, &request, &log))? {
        daemon::Started::Ready => logging::warn_if_lost(&log),
        daemon::Started::Ended(status) => return Err(Failure::of_process(status)),
    }
    if arguments.repository().is_some() {
        return Ok(());
    }
    // With one argument, say what was mounted: it may have been meant as the repository.
    let (from, to) = (request.repository.display(), request.mountpoint.display());
    let line = one_line(&format!("{from} is mounted on {to}"));
    output::write(|out| writeln!(out, "{line}"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|e| Failure::other(format!("cannot make {} absolute: {e}", path.display())))
}

/// The arguments of the background process: the options that were given, and paths
/// that depend neither on the working directory nor on the environment.
pub(super) fn background_arguments(
    given: &ArgMatches,
    request: &Request,
    log: &logging::Log,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--background-process".into()];
    for option in Arguments::augment_args(Command::new("mount")).get_arguments() {
        let id = option.get_id().as_str();
        let is_given = given.value_source(id) == Some(ValueSource::CommandLine);
        let Some(long) = option.get_long().filter(|_| is_given) else {
            continue;
        };
        let long = OsString::from(format!("--{long}"));
        if !option.get_action().takes_values() {
            arguments.push(long);
            continue;
        }
        let values = match &log.target {
            logging::Target::File(path) if id == "log_file" => vec![path.as_os_str()],
            _ => given.get_raw(id).into_iter().flatten().collect(),
        };
        for value in values {
            let mut argument = long.clone();
            argument.push("=");
            argument.push(value);
            arguments.push(argument);
        }
    }
    let (repository, mountpoint) = (&request.repository, &request.mountpoint);
    arguments.extend(["--".into(), repository.into(), mountpoint.into()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

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
        let given = [
            "mount",
            "--nonempty",
            "--no-passthrough",
            "--ro",
            "--noexec",
            "--noatime",
            "--allow-root",
            "--default-permissions",
            "--auto-unmount",
            "--threads=3",
            "--lock-wait=2.5",
            "--entry-timeout=0",
            "--attr-timeout=0.25",
            "--fsname=a b",
            "--subtype=x",
            "--max-read=8192",
            "--log-file=/log",
            "--log-level=debug",
            "--",
            "/-r",
            "/m",
        ];
        let parse = |arguments: Vec<OsString>| {
            let matches = Only::command().try_get_matches_from(arguments).unwrap();
            let parsed = Only::from_arg_matches(&matches).unwrap();
            (parsed.arguments, matches)
        };
        let (first, matches) = parse(given.iter().map(OsString::from).collect());
        let (request, log) = request(&first).unwrap();
        let (mut again, _) = parse(background_arguments(&matches, &request, &log));
        assert!(again.background_process);
        again.background_process = false;
        assert_eq!(format!("{again:?}"), format!("{first:?}"));
    }

    #[test]
    fn the_background_process_depends_on_no_directory() {
        let given = ["mount", "--rw", "--ro", "--rw", "--log-file=log", "r", "m"];
        let matches = Only::command().try_get_matches_from(given).unwrap();
        let parsed = Only::from_arg_matches(&matches).unwrap();
        let (request, log) = request(&parsed.arguments).unwrap();
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        assert_eq!(
            background_arguments(&matches, &request, &log),
            [
                "mount",
                "--background-process",
                "--rw",
                &format!("--log-file={here}/log"),
                "--",
                &format!("{here}/r"),
                &format!("{here}/m"),
            ]
        );
    }

    #[test]
    fn the_last_of_two_contrary_options_counts() {
        let read_only = |arguments: &[&str]| {
            Only::try_parse_from(arguments)
                .unwrap()
                .arguments
                .mount_options()
                .read_only
        };
        assert!(!read_only(&["mount", "m"]));
        assert!(read_only(&["mount", "--rw", "--ro", "m"]));
        assert!(!read_only(&["mount", "--ro", "--rw", "m"]));
        assert!(read_only(&["mount", "--ro", "--ro", "m"]));
        assert!(Only::try_parse_from(["mount", "--allow-root", "--allow-other", "m"]).is_err());
    }
}
