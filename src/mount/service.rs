//! Telling the service manager about the state of the mount (sd_notify(3)), if it has
//! started us and asks for that.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use super::attach;
use crate::fs::REPORT_NAME;

/// Tells that the mount answers.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells that the end has begun.
pub(super) fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager: {e}");
    }
}

/// If the service manager has a watchdog for us, notifies it for as long as the mount
/// answers. It restarts a daemon that hangs.
pub(super) fn watch(mountpoint: &Path) -> io::Result<()> {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return Ok(());
    };
    // The kernel does not cache this file, and answering needs no disk.
    let asked = mountpoint.join(REPORT_NAME);
    // Half of it, as sd_watchdog_enabled(3) advises; never without a pause.
    let pause = (patience / 2).max(Duration::from_millis(1));
    let (tell, told) = mpsc::channel();
    let ask = move || {
        // The other thread logs it: this one may have no descriptors any more.
        if let Err(e) = attach::leave_descriptors() {
            drop(tell.send(Err(e)));
            return;
        }
        loop {
            thread::sleep(pause);
            if rustix::fs::stat(&asked).is_ok() && tell.send(Ok(())).is_err() {
                return;
            }
        }
    };
    let watch = move || {
        for said in told {
            match said {
                Ok(()) => notify(&[NotifyState::Watchdog]),
                Err(e) => log::warn!("cannot tell the service manager that the mount answers: {e}"),
            }
        }
    };
    thread::Builder::new().name("asks".into()).spawn(ask)?;
    thread::Builder::new()
        .name("watchdog".into())
        .spawn(watch)
        .map(drop)
}
