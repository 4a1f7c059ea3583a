//! Where log lines go, and their form.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use env_logger::{Builder, Env};
use log::{Level, LevelFilter, Record};

use super::failure::{self, Failure, Result, one_line};

/// fuser's levels differ from ours: a request that is answered with an error is not a
/// warning here, and an answer that comes after the end of the mount is not an error.
const FUSER_FILTER: &str = "fuser=error,fuser::reply=off";

/// Warnings, begin and end of a mount, and which process keeps others from saving.
const DEFAULT_FILTER: &str = "warn,sessionfs::mount=info,sessionfs::busy=info";

/// The socket of syslogd(8).
const SYSLOG: &str = "/dev/log";

/// Where log lines go.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To standard error.
    Stderr,
    /// To the end of a file.
    File(PathBuf),
    /// To the system's log, if there is one.
    Syslog,
}

/// Where log lines go, and which ones.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// Where they go.
    pub(super) target: Target,
    /// Our messages from this level on, whatever `RUST_LOG` says.
    pub(super) level: Option<LevelFilter>,
}

/// Warns if the log would be lost because no syslog runs.
pub(super) fn warn_if_lost(log: &Log) {
    let is_wanted = match log.level {
        Some(level) => level != LevelFilter::Off,
        None => std::env::var_os("RUST_LOG").is_none_or(|filter| filter != "off"),
    };
    if let (Target::Syslog, true, Err(e)) = (&log.target, is_wanted, Syslog::connect()) {
        failure::warn(&format!(
            "the log is lost: no syslog is running ({SYSLOG}: {e}); --log-file keeps it"
        ));
    }
}

/// Starts logging, for the whole process.
pub(super) fn start(log: Log) -> Result<()> {
    let mut builder = Builder::new();
    match log.level {
        // Each request of the kernel.
        Some(LevelFilter::Trace) => builder.parse_filters("fuser=debug,sessionfs=trace"),
        Some(level) => builder.parse_filters(&format!("{FUSER_FILTER},sessionfs={level}")),
        None => {
            let default = format!("{FUSER_FILTER},{DEFAULT_FILTER}");
            builder.parse_env(Env::default().default_filter_or(default))
        }
    };
    match log.target {
        Target::Stderr => {
            builder.format(|out, record| {
                let level = level(record);
                writeln!(out, "sessionfs: {level}: {}", message(record))
            });
        }
        Target::File(path) => {
            let file = OpenOptions::new().append(true).create(true).open(&path);
            let file = file.map_err(|e| {
                Failure::other(format!("cannot open the log file {}: {e}", path.display()))
            })?;
            builder.target(env_logger::Target::Pipe(Box::new(file)));
            builder.format(|out, record| {
                let (time, level) = (out.timestamp_millis(), level(record));
                writeln!(out, "{time} {level}: {}", message(record))
            });
        }
        Target::Syslog => {
            builder.target(env_logger::Target::Pipe(Box::new(Syslog::default())));
            let pid = std::process::id();
            builder.format(move |out, record| {
                let (priority, level) = (priority(record.level()), level(record));
                let message = message(record);
                write!(out, "<{priority}>sessionfs[{pid}]: {level}: {message}")
            });
        }
    }
    builder
        .try_init()
        .map_err(|e| Failure::other(format!("cannot start logging: {e}")))?;
    // A panic is reported in the log as well, in one line.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

fn level(record: &Record<'_>) -> &'static str {
    match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn message(record: &Record<'_>) -> String {
    one_line(&record.args().to_string())
}

/// The facility "daemon" and the severity, as syslog(3) numbers them.
fn priority(level: Level) -> u8 {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    3 << 3 | severity
}

/// Sends each record as a datagram. A record that cannot be sent is dropped: the log
/// must not hold up a save.
#[derive(Default)]
struct Syslog {
    socket: Option<UnixDatagram>,
}

impl Syslog {
    fn connect() -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(SYSLOG)?;
        Ok(socket)
    }
}

impl Write for Syslog {
    /// The logger gives a whole record in one call.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let sent = self.socket.as_ref().map(|socket| socket.send(record));
        if !matches!(sent, Some(Ok(_))) {
            // There was no syslog yet, or it has been restarted.
            self.socket = Self::connect().ok();
            if let Some(socket) = &self.socket {
                let _ = socket.send(record);
            }
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
