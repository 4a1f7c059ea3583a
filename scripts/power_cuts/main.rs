//! Power cuts on a real filesystem: records what a load of saves writes to a
//! disk, rebuilds the disk as cuts would have left it, and looks whether all
//! that was acknowledged is there. `scripts/power-cuts` runs it.

#![allow(missing_docs, reason = "a program, and nobody's library")]

mod acknowledged;
mod all;
mod attributes;
mod check;
mod content;
mod disk;
mod finding;
#[path = "../../tests/common/image.rs"]
mod image;
mod load;
mod one;
mod options;
mod place;
mod points;
mod progress;
#[path = "../../tests/common/random.rs"]
mod random;
mod result;
mod saving;
mod ways;
mod worker;
mod writers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "scripts/power-cuts")]
enum Command {
    /// Runs on several filesystems
    All(options::All),
    /// Ends what runs have left, and removes it
    Clean {
        /// What they were given
        work: PathBuf,
    },
    /// Records, cuts and looks
    Run(options::Run),
    /// A process of the load
    Worker(progress::Arguments),
    /// A writer of the load that is going to be killed
    Endless(writers::Endless),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::All(all) => all::run(&all),
        Command::Clean { work } => place::clean(&work).map(|()| ExitCode::SUCCESS),
        Command::Run(run) => one::cut(&run),
        Command::Worker(arguments) => worker::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Endless(arguments) => writers::endless(&arguments).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|e| {
        eprintln!("power-cuts: {e}");
        ExitCode::from(2)
    })
}
