//! `sessionfs umount`

use std::path::PathBuf;

use super::failure::Result;
use crate::mount;

const AFTER_HELP: &str = "\
Examples:
  sessionfs umount ~/sessions
  sessionfs umount --lazy /mnt/sessions";

/// Unmount a repository
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Where it is mounted
    mountpoint: PathBuf,

    /// Detach it now, even if it is in use
    #[arg(short = 'z', long)]
    lazy: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    Ok(mount::unmount(&arguments.mountpoint, arguments.lazy)?)
}
