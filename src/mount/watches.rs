//! Tells who watches the file `session` that a save has replaced it.
//!
//! That takes somebody who looks the name up on the mount (see
//! [`Fs::wait_for_watched`]). It is a process of its own: if this one were
//! killed while a thread of it waits for an answer of its own mount, the kernel
//! would wait for that answer for ever (request_wait_answer, fs/fuse/dev.c).

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use crate::fs::Fs;
use crate::repo::CHECKPOINT;
use crate::sys::{self, OFlags};

/// The command of this program that is the process which looks names up.
pub const COMMAND: &str = "look-up";

/// Does so until the end of the process.
pub(super) fn tell(fs: &Arc<Fs>, notifier: &Notifier, mountpoint: &Path) {
    let mut helper = None;
    loop {
        let watched = fs.wait_for_watched(|session| {
            // ENOENT: it is not there, which is as good.
            let _ = notifier.inval_entry(INodeNo(session), OsStr::new(CHECKPOINT));
        });
        for replaced in watched {
            let Some(session) = fs.session_of(&replaced) else {
                continue;
            };
            let told = Helper::running(&mut helper, mountpoint).and_then(|helper| {
                let pid = helper.process.id();
                fs.show_replaced(&replaced, pid, || helper.look_up(&session))?;
                helper.look_up(&session)
            });
            if let Err(e) = told {
                log::debug!("{}: who watches it is not told: {e}", session.display());
                helper = None;
            }
        }
    }
}

/// The process that looks names up. It ends with its standard input.
struct Helper {
    process: Child,
    names: ChildStdin,
    done: ChildStdout,
}

impl Helper {
    /// The one that runs, or a new one.
    fn running<'a>(helper: &'a mut Option<Self>, mountpoint: &Path) -> io::Result<&'a mut Self> {
        if helper.is_none() {
            *helper = Some(Self::start(mountpoint)?);
        }
        helper
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn start(mountpoint: &Path) -> io::Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .arg0("sessionfs")
            .arg(COMMAND)
            .arg(mountpoint)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(names), Some(done)) => Ok(Self {
                process,
                names,
                done,
            }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Has the checkpoint of a session looked up once.
    fn look_up(&mut self, session: &OsStr) -> io::Result<()> {
        self.names
            .write_all(&[session.as_bytes(), b"\0"].concat())?;
        self.done.read_exact(&mut [0])
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It is done for, or has never been of use.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What that process does: looks up the checkpoint of each session whose name it
/// reads, ended by NUL, and says so with one byte.
///
/// # Errors
/// Those of the standard streams.
pub fn look_up(mountpoint: &Path) -> io::Result<()> {
    let (mut names, mut done) = (io::stdin().lock(), io::stdout().lock());
    let mut name = Vec::new();
    let mut byte = [0];
    while names.read(&mut byte)? > 0 {
        if byte != [0] {
            name.push(byte[0]);
            continue;
        }
        let session = OsStr::from_bytes(&name);
        let path: PathBuf = [mountpoint.as_os_str(), session, OsStr::new(CHECKPOINT)]
            .iter()
            .collect();
        // O_PATH: nothing is opened, and nothing asked but the name.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(sys::openat(
            sys::CWD,
            path.as_os_str(),
            flags,
            sys::Mode::empty(),
        ));
        name.clear();
        done.write_all(&[0])?;
        done.flush()?;
    }
    Ok(())
}
