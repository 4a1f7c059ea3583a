//! The threads that work for the filesystem beside those that take requests: each does
//! what no request may wait for, until the end of the process.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::fs::Fs;
use crate::fuse::Waiters;

/// How often replaced checkpoints are let go of.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Starts them.
pub(super) fn start(fs: &Arc<Fs>, waiters: Waiters) -> io::Result<()> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = thread::Builder::new().name(name.into());
        thread.spawn(work).map(drop)
    };
    let (housekeeper, remover) = (fs.clone(), fs.clone());
    spawn("housekeeping", Box::new(move || keep_house(&housekeeper)))?;
    spawn("removals", Box::new(move || remover.carry_out_removals()))?;
    spawn("locks", Box::new(move || waiters.answer()))
}

fn keep_house(fs: &Fs) {
    loop {
        fs.wait_for_housework();
        loop {
            thread::sleep(HOUSEKEEPING);
            if !fs.housekeep() {
                break;
            }
        }
    }
}
