//! A process that saves: in one session after the other, which it makes, renames and
//! removes.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::acknowledged::{RENAMED, State, name};
use crate::progress::{Arguments, Progress};
use crate::result::Result;
use crate::ways;

/// After so many saves it goes on in a new session: so few that also a short run
/// renames and removes some.
const SAVES_OF_A_SESSION: u64 = 10;

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut progress = Progress::new(arguments)?;
    for save in 0..arguments.saves {
        if save % SAVES_OF_A_SESSION == 0 {
            next_session(&mut progress, save / SAVES_OF_A_SESSION)?;
        }
        let way = ways::choose(&mut progress);
        let saved = if arguments.in_place {
            ways::save_in_place(&mut progress)
        } else {
            ways::save(&mut progress, way)
        };
        saved.map_err(|e| format!("session {}, {way:?}: {e}", progress.session))?;
    }
    Ok(())
}

/// Goes on in a new session; the one before is removed or renamed.
fn next_session(progress: &mut Progress<'_>, number: u64) -> Result<()> {
    let arguments = progress.arguments;
    if let (Some(last), false) = (progress.last, arguments.in_place) {
        let (before, directory) = (progress.session, progress.directory());
        progress.tell(before, State::Going)?;
        if number.is_multiple_of(4) {
            let mut remove = Command::new(&arguments.sessionfs);
            remove.args(["remove", "--repository"]);
            remove.arg(&arguments.repository).arg(name(before));
            crate::place::run(&mut remove)?;
        } else if number.is_multiple_of(2) {
            fs::remove_dir_all(directory)?;
            // As in any directory: it is for good only then.
            File::open(progress.home())?.sync_all()?;
        } else {
            let to = before + RENAMED;
            fs::rename(directory, progress.home().join(name(to)))?;
            progress.tell(to, State::Saved(last.counter))?;
        }
        progress.tell(before, State::Gone)?;
    }
    progress.begin(1000 * arguments.number + number);
    let directory = progress.directory();
    fs::create_dir(&directory)?;
    // Other users make checkpoints there, too.
    fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
    if arguments.in_place {
        File::open(progress.home())?.sync_all()?;
    }
    progress.tell(progress.session, State::Saved(0))
}
