//! What is asked for: of one run on one filesystem, and of all of them.

use std::path::PathBuf;

use crate::finding::Finding;
use crate::place::Filesystem;

/// Runs on several filesystems, two at a time
#[derive(Debug, clap::Args)]
pub struct All {
    /// An empty directory, for everything
    #[arg(long, hide = true)]
    pub work: PathBuf,
    /// A filesystem; by default each of them
    #[arg(long)]
    pub on: Vec<Filesystem>,
    #[command(flatten)]
    pub size: Size,
    /// Repeats all choices, but not the timing
    #[arg(long)]
    pub seed: Option<u64>,
    /// A daemon with defects, each of which has to be found
    #[arg(long, conflicts_with = "without_tmpfile")]
    pub teeth: bool,
    /// As if the filesystem had no O_TMPFILE
    #[arg(long)]
    pub without_tmpfile: bool,
}

/// One run on one filesystem
#[derive(Debug, clap::Args)]
pub struct Run {
    #[arg(long)]
    pub on: Filesystem,
    /// An empty directory
    #[arg(long)]
    pub directory: PathBuf,
    #[arg(long)]
    pub sessionfs: PathBuf,
    #[arg(long)]
    pub seed: u64,
    #[command(flatten)]
    pub size: Size,
    #[arg(long, default_value_t = 4)]
    pub workers: u64,
    /// Stop at the first finding of this kind
    #[arg(long)]
    pub until: Option<Finding>,
    /// Another daemon, for what it does wrong on purpose
    #[arg(long)]
    pub daemon: Option<PathBuf>,
    /// Its defect, one of src/sys/defect.rs
    #[arg(long)]
    pub defect: Option<String>,
    /// Saves that are not safe, instead of the daemon's
    #[arg(long)]
    pub in_place: bool,
}

/// How much is tried, and what is kept of it
#[derive(Clone, Debug, clap::Args)]
pub struct Size {
    /// So many cuts; by default one at each flush, and as many between
    #[arg(long)]
    pub points: Option<usize>,
    /// So many saves, of all processes together
    #[arg(long, default_value_t = 400)]
    pub saves: u64,
    /// Where images with findings are kept
    #[arg(long)]
    pub keep: Option<PathBuf>,
}
