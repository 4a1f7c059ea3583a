//! Running in the background. The program starts itself again instead of forking; the
//! new process writes to its standard output when the mount answers.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use super::error::{Error, Result};
use crate::sys::{self, Errno};

/// What the background process writes when it is ready.
const READY: u8 = b'+';

/// How the start of a background process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It runs, and the mount answers.
    Ready,
    /// It has ended with this exit status, and has printed the reason.
    Ended(u8),
}

/// Starts this program with other arguments, and waits until it is
/// [ready](announce) or has ended.
///
/// # Errors
/// If it cannot be started, or has been killed.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> Result<Started> {
    let cannot = |e: io::Error| Error::failed(format!("cannot start the background process: {e}"));
    match sys::keep_descriptors() {
        // An older kernel: then the background process inherits what the starting
        // process has left open.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {}
        Err(errno) => return Err(cannot(errno.into())),
    }
    let mut child = Command::new("/proc/self/exe")
        .arg0("sessionfs")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(1).read_to_end(&mut said).map_err(cannot)?;
    }
    if said == [READY] {
        return Ok(Started::Ready);
    }
    let status = child.wait().map_err(cannot)?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Err(Error::failed(
            "the background process ended before the mount was ready",
        )),
        (Some(code), _) => Ok(Started::Ended(u8::try_from(code).unwrap_or(1))),
        (None, signal) => Err(Error::failed(format!(
            "the background process was killed by signal {}",
            signal.unwrap_or_default()
        ))),
    }
}

/// Detaches this process from the terminal and the directory that it was started
/// from.
///
/// # Errors
/// Those of setsid(2) and chdir(2).
pub fn leave_terminal() -> Result<()> {
    let cannot = |e: io::Error| Error::failed(format!("cannot go into the background: {e}"));
    rustix::process::setsid().map_err(|errno| cannot(errno.into()))?;
    std::env::set_current_dir("/").map_err(cannot)?;
    // Otherwise its name would be "exe", from /proc/self/exe.
    rustix::thread::set_name(c"sessionfs").map_err(|errno| cannot(errno.into()))
}

/// Tells the starting process that the mount answers, and closes all three standard
/// streams, so that no process waits for their end.
///
/// # Errors
/// If the starting process is gone, or `/dev/null` cannot be opened.
pub fn announce() -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    // Before the announcement: the starting process may close its end after it.
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&[READY])?;
    stdout.flush()?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}
