//! `sessionfs look-up`: the process that a mount has look up names for it.

use std::path::PathBuf;

use super::failure::{Failure, Result};
use crate::mount::watches;

const AFTER_HELP: &str = "\
Examples:
  printf 'a.session\\0' | sessionfs look-up /mnt/sessions

A mount runs it by itself, for programs that watch a checkpoint (inotify).";

/// Look up the checkpoints of the sessions that standard input names
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The directory with the mount
    mountpoint: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    watches::look_up(&arguments.mountpoint)
        .map_err(|e| Failure::other(format!("cannot say what has been looked up: {e}")))
}
