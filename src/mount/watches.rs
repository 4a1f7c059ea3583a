//! Makes inotify(7) report to programs that watch the file `session` that a save has
//! replaced it.
//!
//! For that, a thread looks the name up on the mount (see [`Fs::wait_for_watched`]). It
//! may have to wait for an answer of its own mount, so it has none of our descriptors
//! (DESIGN 7). A notification (FUSE_NOTIFY_INVAL_ENTRY) would drop the name as well, but
//! from a thread with our descriptors, which waits for the directory's lock: the same
//! deadlock.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use super::attach;
use crate::fs::Fs;
use crate::repo::CHECKPOINT;
use crate::sys::{self, Mode, OFlags};

/// Starts the threads that do this until the end of the process.
pub(super) fn start(fs: Arc<Fs>, mountpoint: PathBuf) -> io::Result<()> {
    let (ask, asked) = mpsc::sync_channel(1);
    let (done, told) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("looks".into())
        .spawn(move || look_up(&asked, &done))?;
    thread::Builder::new()
        .name("watches".into())
        .spawn(move || tell(&fs, &mountpoint, &Looker { ask, told }))?;
    Ok(())
}

fn tell(fs: &Fs, mountpoint: &Path, looker: &Looker) {
    let Some(thread) = looker.thread() else {
        return log::warn!("programs that watch the file session are not told of saves");
    };
    loop {
        let checkpoint = |session: &OsStr| mountpoint.join(session).join(CHECKPOINT);
        let watched = fs.wait_for_watched(|session| looker.look_up(&checkpoint(session)));
        for replaced in watched {
            let Some(session) = fs.session_of(&replaced) else {
                continue;
            };
            let path = checkpoint(&session);
            fs.show_replaced(&replaced, thread, || looker.look_up(&path));
            looker.look_up(&path);
        }
    }
}

/// The thread that looks names up.
struct Looker {
    ask: SyncSender<PathBuf>,
    /// First the thread's id; then one message for each lookup that is done.
    told: Receiver<u32>,
}

impl Looker {
    /// The thread's id; `None` if it cannot leave our descriptors.
    fn thread(&self) -> Option<u32> {
        self.told.recv().ok()
    }

    fn look_up(&self, path: &Path) {
        // The thread ends with the process.
        if self.ask.send(path.to_owned()).is_ok() {
            let _ = self.told.recv();
        }
    }
}

/// The thread has no log, which is a descriptor: errors are reported by `done`.
fn look_up(asked: &Receiver<PathBuf>, done: &SyncSender<u32>) {
    if attach::leave_descriptors().is_err() {
        return;
    }
    let own = rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs();
    let mut told = done.send(own);
    while told.is_ok()
        && let Ok(path) = asked.recv()
    {
        // O_PATH: only the name is looked up, nothing is opened.
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        drop(sys::openat(
            sys::CWD,
            path.as_os_str(),
            flags,
            Mode::empty(),
        ));
        told = done.send(own);
    }
}
