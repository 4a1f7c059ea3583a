//! The mounts of this program that can be seen, and what their daemons report.
//!
//! A process that reads the report of a daemon that hangs may wait for ever, and cannot
//! be killed. So a child process reads it, and is left behind in that case.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::beside;
use super::error::{Error, Kind, Result};
use super::presence::is_served_by_us;
use super::table::{self, Location, Mount};
use crate::fs::REPORT_NAME;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest report, in bytes: any user who may mount can have written it.
const MOST: u64 = 64 << 20;

/// A mount.
#[derive(Debug)]
pub struct Status {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// The source that it shows.
    pub source: String,
    /// Other places where its repository is mounted.
    pub also_mounted: Vec<PathBuf>,
    /// What its daemon reports.
    pub report: Report,
}

/// What a daemon reports.
#[derive(Debug)]
pub enum Report {
    /// The report, as in the file [`REPORT_NAME`].
    Told(Value),
    /// It does not answer.
    Hangs,
    /// It is dead: its mount can be removed.
    Dead,
    /// It cannot be asked, for this reason.
    Unknown(String),
}

/// Asks daemons, through a child process for each.
#[derive(Debug)]
pub struct Asker {
    /// A program that writes a file to its standard output, or ends with the errno
    /// as its exit status.
    reader: fn(&Path) -> Command,
    /// Children that still wait for a daemon.
    stuck: Vec<(PathBuf, Child)>,
}

impl Asker {
    /// With a program that writes a file to its standard output, or ends with the
    /// errno as its exit status.
    pub fn new(reader: fn(&Path) -> Command) -> Self {
        Self {
            reader,
            stuck: Vec::new(),
        }
    }

    /// All mounts of this program, in the order in which they were made.
    ///
    /// # Errors
    /// If the table of mounts cannot be read.
    pub fn all(&mut self) -> Result<Vec<Status>> {
        let entries = mounts()?;
        let ours = entries.iter().filter(|entry| is_served_by_us(entry));
        Ok(self.ask(ours.cloned().collect(), &entries))
    }

    /// The mount at a mountpoint.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none of this program.
    pub fn of(&mut self, mountpoint: &Path) -> Result<Vec<Status>> {
        let entry = match &Location::of(mountpoint) {
            Ok(location) => location.mounted_here().cloned(),
            Err(_) => None,
        };
        let reason = || format!("{}: it is not a mount of sessionfs", mountpoint.display());
        let entry = entry.filter(is_served_by_us);
        let entry = entry.ok_or_else(|| Error::new(Kind::NotFound, reason()))?;
        Ok(self.ask(vec![entry], &mounts()?))
    }

    /// All at once: that one hangs costs no more than that several do.
    fn ask(&mut self, entries: Vec<Mount>, all: &[Mount]) -> Vec<Status> {
        self.stuck
            .retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
        let asked: Vec<_> = entries
            .into_iter()
            .map(|entry| {
                let path = entry.mountpoint.join(REPORT_NAME);
                let asked = if self.stuck.iter().any(|(stuck, _)| *stuck == path) {
                    Err(Report::Hangs)
                } else {
                    let owner = entry.owner.filter(|_| rustix::process::geteuid().is_root());
                    start((self.reader)(&path), owner)
                };
                (entry, path, asked)
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        asked
            .into_iter()
            .map(|(entry, path, asked)| Status {
                report: match asked {
                    Ok(asked) => self.answer(asked, path, deadline),
                    Err(report) => report,
                },
                also_mounted: beside::mounts_of(Path::new(&entry.source), Some(entry.device), all),
                mountpoint: entry.mountpoint,
                source: entry.source.to_string_lossy().into_owned(),
            })
            .collect()
    }

    fn answer(&mut self, asked: Asked, path: PathBuf, deadline: Instant) -> Report {
        let Asked { mut child, said } = asked;
        let left = deadline.saturating_duration_since(Instant::now());
        match said.recv_timeout(left) {
            Ok(text) => match child.wait().map(|status| status.code()) {
                Ok(Some(0)) => understood(&text),
                Ok(Some(libc::ENOTCONN | libc::ECONNABORTED)) => Report::Dead,
                Ok(Some(errno)) => {
                    Report::Unknown(std::io::Error::from_raw_os_error(errno).to_string())
                }
                Ok(None) => Report::Unknown("the process that asks it was killed".to_owned()),
                Err(e) => Report::Unknown(e.to_string()),
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                // If it does not end now, it will when the daemon answers.
                if let Err(e) = child.kill() {
                    log::debug!(
                        "{}: the process that asks cannot be ended: {e}",
                        path.display()
                    );
                }
                self.stuck.push((path, child));
                Report::Hangs
            }
        }
    }
}

fn mounts() -> Result<Vec<Mount>> {
    table::read().map_err(|e| Error::failed(format!("cannot read the table of mounts: {e}")))
}

/// A child process that asks a daemon.
#[derive(Debug)]
struct Asked {
    child: Child,
    said: Receiver<Vec<u8>>,
}

/// Asks as the user who mounted: without allow_other nobody else has access, not even
/// root (fuse_permissible_uidgid, fs/fuse/dir.c).
fn start(mut command: Command, owner: Option<(u32, u32)>) -> std::result::Result<Asked, Report> {
    let unknown = |e: std::io::Error| Report::Unknown(e.to_string());
    if let Some((uid, gid)) = owner.filter(|(uid, _)| *uid != 0) {
        command.uid(uid).gid(gid);
    }
    // The child may live long, so it keeps nothing open but this pipe.
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn();
    let mut child = child.map_err(unknown)?;
    let (sender, said) = mpsc::channel();
    let output = child.stdout.take();
    let reader = move || {
        let mut text = Vec::new();
        let read = output.map(|output| output.take(MOST).read_to_end(&mut text));
        if let Some(Err(e)) = read {
            log::debug!("cannot read what a daemon reports: {e}");
        }
        drop(sender.send(text));
    };
    std::thread::Builder::new().spawn(reader).map_err(unknown)?;
    Ok(Asked { child, said })
}

fn understood(text: &[u8]) -> Report {
    match serde_json::from_slice(text) {
        Ok(report) => Report::Told(report),
        Err(e) => Report::Unknown(format!("its report cannot be parsed: {e}")),
    }
}
