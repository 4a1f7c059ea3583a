//! Telling the service manager how the mount is (sd_notify(3)), where it has
//! started us and asks for it.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use super::attach;
use crate::fs::REPORT_NAME;

/// The mount answers.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The end has begun.
pub(super) fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("cannot tell the service manager: {e}");
    }
}

/// If the service manager watches us, tells it that the mount answers for as
/// long as it does: one that hangs is ended and started anew.
pub(super) fn watch(mountpoint: &Path) -> io::Result<()> {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return Ok(());
    };
    // The kernel asks for this one each time, and no disk is asked for it.
    let asked = mountpoint.join(REPORT_NAME);
    // Half of it, as sd_watchdog_enabled(3) advises; never without a pause.
    let pause = (patience / 2).max(Duration::from_millis(1));
    let (tell, told) = mpsc::channel();
    let ask = move || {
        // Whoever is told has a log, which this thread has not any more.
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
                Err(e) => log::warn!("the service manager is not told that it answers: {e}"),
            }
        }
    };
    thread::Builder::new().name("asks".into()).spawn(ask)?;
    thread::Builder::new()
        .name("watchdog".into())
        .spawn(watch)
        .map(drop)
}
