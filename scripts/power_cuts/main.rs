//! Power cuts on a real filesystem: records what a load of saves writes to a
//! disk, rebuilds the disk as cuts would have left it, and looks whether all
//! that was acknowledged is there. `scripts/power-cuts` runs it.

#![allow(missing_docs, reason = "a program, and nobody's library")]

mod attributes;
mod check;
mod content;
mod disk;
#[path = "../../tests/common/image.rs"]
mod image;
mod load;
mod place;
mod points;
#[path = "../../tests/common/random.rs"]
#[allow(dead_code, reason = "every run is given its seed")]
mod random;
mod server;
mod worker;
mod writers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use disk::Entry;

/// What ends a run; what is found by it is no error.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, Parser)]
enum Command {
    /// Records, cuts and looks
    Run(Run),
    /// A process of the load
    Worker(worker::Arguments),
    /// A writer of the load that is going to be killed
    Endless(writers::Endless),
}

/// One run on one filesystem
#[derive(Debug, clap::Args)]
struct Run {
    #[arg(long = "on")]
    kind: place::Kind,
    /// An empty directory
    #[arg(long)]
    directory: PathBuf,
    #[arg(long)]
    sessionfs: PathBuf,
    #[arg(long)]
    seed: u64,
    /// So many cuts; by default one at each flush, and as many between
    #[arg(long)]
    points: Option<usize>,
    #[arg(long)]
    saves: u64,
    #[arg(long, default_value_t = 4)]
    workers: u64,
    /// Where images with findings are kept
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Stop at the first finding of this kind
    #[arg(long)]
    until: Option<check::Kind>,
    /// Another daemon, for what it does wrong on purpose
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// Its defect, one of src/sys/defect.rs
    #[arg(long)]
    defect: Option<String>,
    /// Saves that are not safe, instead of the daemon's
    #[arg(long)]
    in_place: bool,
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(run) => cut(&run),
        Command::Worker(arguments) => worker::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Endless(arguments) => writers::endless(&arguments).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|e| {
        eprintln!("power-cuts: {e}");
        ExitCode::from(2)
    })
}

/// Status 1 if anything was found, or what was looked for.
fn cut(run: &Run) -> Result<ExitCode> {
    let started = Instant::now();
    let recording = load::record(run)?;
    let recorded = started.elapsed().as_secs();
    let is_save = |state| matches!(state, worker::State::Saved(1..));
    let saves = recording.acknowledged.iter().map(|a| a.state);
    let saves = saves.filter(|state| is_save(*state)).count();
    let is_refused = |a: &&worker::Acknowledged| matches!(a.state, worker::State::Refused(_));
    let refused = recording.acknowledged.iter().filter(is_refused).count();
    let is_flush = |entry: &&Entry| matches!(entry, Entry::Flush);
    let flushes = recording.entries.iter().filter(is_flush).count();
    let writes = recording.entries.len() - flushes;
    if saves == 0 || flushes == 0 {
        return Err(format!("nothing to cut: {saves} saves, {flushes} flushes").into());
    }

    let outcome = check::check(run, recording)?;
    let findings: Vec<_> = outcome.findings.iter().collect();
    let found = match &findings[..] {
        [] => "nothing".to_owned(),
        some => {
            let one = |(kind, n): &(&check::Kind, &usize)| format!("{n} {kind}");
            some.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    println!(
        "{}: {saves} saves, {refused} refused or killed, in {recorded} s, {writes} writes, {flushes} flushes; {} cuts in {} s, \
         {} of them at a flush; {} checkpoints, {} dead and {} foreign locks met; \
         found: {found} (seed {})",
        run.kind.name(),
        outcome.points,
        started.elapsed().as_secs() - recorded,
        outcome.at_flushes,
        outcome.compared,
        outcome.dead_locks,
        outcome.foreign_locks,
        run.seed,
    );
    let is_found = match &run.until {
        Some(kind) => outcome.findings.contains_key(kind),
        None => !findings.is_empty(),
    };
    Ok(ExitCode::from(u8::from(is_found)))
}
