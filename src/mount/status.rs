//! The mounts of this program that can be seen, and what their daemons report.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::error::{Error, Kind, Result};
use super::is_served_by_us;
use super::table::{self, Entry, Location};
use crate::fs::REPORT_NAME;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A mount.
#[derive(Debug)]
pub struct Status {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// What it shows as its source.
    pub source: String,
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
    /// It does not tell us.
    Unknown(String),
}

/// All mounts of this program, in the order in which they were made.
///
/// # Errors
/// If the table of mounts cannot be read.
pub fn all() -> Result<Vec<Status>> {
    let entries = table::read()
        .map_err(|e| Error::failed(format!("cannot read the table of mounts: {e}")))?;
    Ok(entries
        .iter()
        .filter(|e| is_served_by_us(e))
        .map(of_entry)
        .collect())
}

/// The mount at a mountpoint.
///
/// # Errors
/// [`Kind::NotFound`] if there is none of this program.
pub fn of(mountpoint: &Path) -> Result<Status> {
    let location = Location::of(mountpoint);
    let entry = match &location {
        Ok(location) => location
            .mounted_here()
            .filter(|entry| is_served_by_us(entry)),
        Err(_) => None,
    };
    let reason = || format!("{}: it is not a mount of sessionfs", mountpoint.display());
    let entry = entry.ok_or_else(|| Error::new(Kind::NotFound, reason()))?;
    Ok(of_entry(entry))
}

fn of_entry(entry: &Entry) -> Status {
    Status {
        mountpoint: entry.mountpoint.clone(),
        source: entry.source.to_string_lossy().into_owned(),
        report: read(entry.mountpoint.join(REPORT_NAME)),
    }
}

/// On a thread that may wait for ever.
fn read(path: PathBuf) -> Report {
    let (sender, told) = mpsc::channel();
    let reader = move || drop(sender.send(fs::read(path)));
    if let Err(e) = std::thread::Builder::new().spawn(reader) {
        return Report::Unknown(e.to_string());
    }
    let text = match told.recv_timeout(PATIENCE) {
        Err(_) => return Report::Hangs,
        Ok(Err(e)) => {
            let is_dead = e.kind() == io::ErrorKind::NotConnected;
            let aborted = e.raw_os_error() == Some(libc::ECONNABORTED);
            return match is_dead || aborted {
                true => Report::Dead,
                false => Report::Unknown(e.to_string()),
            };
        }
        Ok(Ok(text)) => text,
    };
    match serde_json::from_slice(&text) {
        Ok(report) => Report::Told(report),
        Err(e) => Report::Unknown(format!("its report is not understood: {e}")),
    }
}
