//! Every point at which the power may be cut, and everything that a disk may have kept by
//! then (I1, I2, I4); and that every sync is needed.

mod choice;
mod disk;
mod image;
mod killed;
mod operations;
mod teeth;

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use super::{ALL_WAYS, Sandbox, Ways, full};
use crate::repo::Result;
use crate::sys::{fault, record};
use choice::Random;
use disk::Disk;
use image::State;

/// An operation on a repository, whose result must survive.
struct Operation<'a> {
    name: &'static str,
    ways: &'static [Ways],
    /// The state before, which is durable.
    setup: fn() -> Sandbox,
    /// What a program does before, without a sync.
    prepare: &'a dyn Fn(&Sandbox),
    /// Each of them has returned before the next one begins.
    steps: &'a [fn(&Sandbox) -> Result<()>],
    promise: Promise,
}

/// What an operation must guarantee besides I1, I2 and I4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Nothing,
    /// I2: there is no lock any more.
    NoLock,
    /// Checkpoints come from a program that does not sync: they are whole once the
    /// operation has ended.
    WholeAtTheEnd,
    /// Checkpoints were durable before: syncing them again is for those that were not.
    WholeBefore,
    /// The parent directory of the repository was durable before: the first sync is for
    /// one that was not.
    DurableBefore,
    /// It need not be durable when it returns.
    NotDurable,
}

/// A recorded operation.
struct Record {
    /// Dropped last.
    sandbox: Sandbox,
    disk: Disk,
    /// The states before, and after each step.
    states: Vec<State>,
    /// How many changes there were before the first step.
    prepared: usize,
    syncs: usize,
}

/// Runs it, without the sync of this number.
fn record(operation: &Operation<'_>, ways: Ways, left_out: Option<usize>) -> Record {
    let sandbox = (operation.setup)();
    let disk = Rc::new(RefCell::new(Disk::new(sandbox.dir.path())));
    let syncs = Rc::new(RefCell::new(0));
    let (noted, counted) = (disk.clone(), syncs.clone());
    let mut states = Vec::new();
    let mut prepared = 0;
    let which = Box::new(move |n| {
        *counted.borrow_mut() = n + 1;
        left_out == Some(n)
    });
    let listener = Box::new(move |change: record::Change<'_>| noted.borrow_mut().note(change));
    record::with(listener, || {
        (operation.prepare)(&sandbox);
        prepared = disk.borrow().len();
        states.push(image::look(&sandbox.repository).unwrap());
        fault::without_syncs(which, || {
            for step in operation.steps {
                fault::with(ways.plan(|_, _| None), || step(&sandbox)).unwrap();
                if operation.promise != Promise::NotDurable {
                    disk.borrow_mut().acknowledge();
                }
                states.push(image::look(&sandbox.repository).unwrap());
            }
        });
    });
    Record {
        sandbox,
        disk: Rc::into_inner(disk).unwrap().into_inner(),
        states,
        prepared,
        syncs: syncs.take(),
    }
}

#[derive(Default)]
struct Count {
    images: usize,
    different: usize,
    /// Whether only some images were checked.
    sampled: bool,
}

/// About how many images of each prefix are checked.
fn most() -> usize {
    if full() { 20_000 } else { 150 }
}

fn seed() -> u64 {
    let seed = std::env::var("SESSIONFS_CRASH_SEED").ok();
    seed.map_or(1, |seed| seed.parse().unwrap())
}

/// Checks every image of every prefix, from the last one on.
fn check(
    operation: &Operation<'_>,
    ways: Ways,
    record: &Record,
) -> std::result::Result<Count, String> {
    let mut count = Count::default();
    let mut random = Random(seed());
    let mut seen = HashSet::new();
    let scratch = tempfile::tempdir().unwrap();
    for changes in (record.prepared..=record.disk.len()).rev() {
        let acknowledged = record.disk.acknowledged(changes);
        let mut failed = None;
        let complete = record.disk.crash(changes, most(), &mut random, |image| {
            if failed.is_some() {
                return;
            }
            count.images += 1;
            let mut hash = DefaultHasher::new();
            (&image.tree, acknowledged).hash(&mut hash);
            if !seen.insert(hash.finish()) {
                return;
            }
            count.different += 1;
            let expected = image::Expected {
                states: &record.states,
                acknowledged,
                promise: operation.promise,
                ways,
            };
            match fault::without_syncs(Box::new(|_| true), || {
                expected.check(
                    &image,
                    record.sandbox.repository.path(),
                    &record.sandbox,
                    &scratch,
                )
            }) {
                Ok(()) => {}
                Err(violation) => failed = Some((violation, image)),
            }
        });
        count.sampled |= !complete;
        if let Some((violation, image)) = failed {
            return Err(format!(
                "{} {ways:?}, after {changes} changes ({acknowledged} acknowledged): \
                 {violation}\n{image:#?}\n{:#?}",
                operation.name, record.disk
            ));
        }
    }
    Ok(count)
}

fn run(operation: &Operation<'_>) {
    for &ways in operation.ways {
        let record_all = record(operation, ways, None);
        let count =
            check(operation, ways, &record_all).unwrap_or_else(|violation| panic!("{violation}"));
        println!(
            "{} {ways:?}: {} changes, {} images, {} different{}; {} syncs; seed {}",
            operation.name,
            record_all.disk.len() - record_all.prepared,
            count.images,
            count.different,
            if count.sampled { " (a sample)" } else { "" },
            record_all.syncs,
            seed(),
        );
        // The test of the test.
        let promised = operation.promise != Promise::NotDurable;
        for sync in 0..if promised { record_all.syncs } else { 0 } {
            let again = || record_all.disk.is_sync_of_a_file(sync);
            match operation.promise {
                Promise::WholeBefore if again() => continue,
                Promise::DurableBefore if sync == 0 => continue,
                _ => {}
            }
            let found = check(operation, ways, &record(operation, ways, Some(sync)));
            assert!(
                found.is_err(),
                "{} {ways:?}: nothing is found without sync {sync} of {}",
                operation.name,
                record_all.syncs
            );
        }
    }
}
