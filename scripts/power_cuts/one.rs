//! One run on one filesystem, and the line that says what came of it.

use std::process::ExitCode;
use std::time::Instant;

use crate::acknowledged::{Acknowledged, State};
use crate::check;
use crate::disk::Entry;
use crate::finding::Finding;
use crate::load;
use crate::options::Run;
use crate::result::Result;

/// Status 1 if anything was found, or what was looked for.
pub fn cut(run: &Run) -> Result<ExitCode> {
    let started = Instant::now();
    let recording = load::record(run)?;
    let recorded = started.elapsed().as_secs();
    let is_save = |state| matches!(state, State::Saved(1..));
    let saves = recording.acknowledged.iter().map(|a| a.state);
    let saves = saves.filter(|state| is_save(*state)).count();
    let is_refused = |a: &&Acknowledged| matches!(a.state, State::Refused(_));
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
            let one = |(kind, n): &(&Finding, &usize)| format!("{n} {kind}");
            some.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    println!(
        "{}: {saves} saves, {refused} refused or killed, in {recorded} s, {writes} writes, {flushes} flushes; \
         {} cuts in {} s, {} of them at a flush; {} checkpoints, {} dead and {} foreign locks met; \
         found: {found} (seed {})",
        run.on.name(),
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
