//! `sessionfs break-lock` (DESIGN 1, I3).

use std::ffi::OsString;
use std::io::Write;

use super::failure::{Failure, Result, Status, one_line};
use super::output;
use super::state::{DIRECTORY, age, is_directory, living_owner};
use super::storage::Storage;
use crate::repo::{LOCK, Lock, LockOwner, SessionName};

const AFTER_HELP: &str = "\
Examples:
  sessionfs break-lock pbox-2024-05-01T10.00.00
  sessionfs break-lock --force nightly

The lock of a running program is left alone (exit status 6). With --force it is
broken, and the save that held it publishes nothing and fails.";

/// Remove the session.next that blocks the saves of a session
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// An id, a name or a path
    session: OsString,

    /// Even if the program that made it is running
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    storage: Storage,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (repository, session) = arguments.storage.open(&arguments.session)?;
    let name = session.name();
    let Some(lock) = session.lock()? else {
        return say(name, "there was no lock");
    };
    let living = living_owner(&lock);
    if is_directory(&lock) {
        let path = repository.path().join(name.as_os_str()).join(LOCK);
        return Err(Failure::new(
            Status::Refused,
            format!("{}: {DIRECTORY}", path.display()),
        ));
    }
    if let (Some(owner), false) = (&living, arguments.force) {
        return Err(Failure::new(
            Status::Busy,
            format!(
                "{}/{name}: the lock is in use by {owner} (--force breaks it anyway)",
                repository.path().display()
            ),
        ));
    }
    // A dead lock may have been replaced by a living one meanwhile.
    let broken = match lock.owner() {
        LockOwner::Dead if !arguments.force => session.remove_dead_lock(),
        _ => session.break_lock(),
    };
    let broken = broken?;
    let said = match (broken, living) {
        (false, _) => "there was no lock".to_owned(),
        (true, Some(owner)) => format!("the lock of {owner} is broken"),
        (true, None) => format!("the lock is broken; {}", former_owner(&lock)),
    };
    say(name, &said)
}

/// Prints one line. Sessions and processes may have any name.
fn say(name: &SessionName, said: &str) -> Result<()> {
    let line = one_line(&format!("{name}: {said}"));
    output::write(|out| writeln!(out, "{line}"))
}

/// The owner of a lock that no process is known to use.
fn former_owner(lock: &Lock) -> String {
    let age = age(lock.modified());
    match lock.owner() {
        LockOwner::Foreign => format!("another program made it {age} ago, and none has it open"),
        LockOwner::Living | LockOwner::Dead => format!("it belonged to a save that died {age} ago"),
    }
}
