//! Random operations on a mount and on a model of DESIGN 2, compared after
//! each step: results, what descriptors show, and names and contents on the
//! mount and in the repository.
//!
//! All is done by one process, which is what rules 2.4 and 2.12 go by.
//! `SESSIONFS_MODEL_SEED` repeats the sequences of a run, whose seed is printed.

mod chance;
mod compare;
mod real;
mod reference;
mod step;

use std::fs::{self, File};

use rustix::fs::{Mode, OFlags};

use crate::common::{Backing, Mount, alone, is_full};
use chance::{Random, SEED};
use compare::Looks;
use reference::{Rules, Wrong};
use step::{Flags, Step};

on_each_filesystem!(section_2_a_mount_does_what_the_model_does);

/// Steps of a sequence, on sessions of its own.
const SEQUENCE: usize = 100;

/// Sequences of each of the four tests by chance: 100,000 steps in full.
fn sequences() -> u64 {
    if is_full() { 250 } else { 8 }
}

fn section_2_a_mount_does_what_the_model_does(backing: Backing) {
    alone(|| compare_by_chance(&mounted(backing, &[])));
}

#[test]
fn section_2_a_mount_without_passthrough_does_what_the_model_does() {
    alone(|| compare_by_chance(&mounted(Backing::Tmpfs, &["--no-passthrough"])));
}

fn compare_by_chance(mount: &Mount) {
    let seed = Random::seed();
    println!("{SEED}={seed}");
    let rules = rules(mount, Wrong::Nothing);
    for number in 0..sequences() {
        let mut random = Random::new(seed.wrapping_add(number));
        let compared = compare::by_chance(mount, &mut random, SEQUENCE, rules);
        if let Err(difference) = compared {
            let first = seed.wrapping_add(number);
            let all = difference.steps.len();
            let difference = compare::shrink(mount, difference, rules);
            panic!("{SEED}={first}, {all} steps\n{}", difference.in_words());
        }
    }
    println!("by chance: {} steps", sequences() * SEQUENCE as u64);
}

/// A difference shows in as many steps, shrunk: each can be left out no more.
const MOST: usize = 8;

/// The comparison sees each rule that it is there for: a model that is wrong
/// in it is found out, by a sequence that says why.
#[test]
fn teeth_a_model_with_a_wrong_rule_is_found_out_in_a_few_steps() {
    alone(find_each_wrong_rule);
}

fn find_each_wrong_rule() {
    let seed = Random::seed();
    println!("{SEED}={seed}");
    let mount = mounted(Backing::Tmpfs, &[]);
    for wrong in [
        Wrong::LostUpdate,
        Wrong::TwoWriters,
        Wrong::NoSavePoint,
        Wrong::ReaderFollows,
        Wrong::ForeignLockIgnored,
        Wrong::RemovedAtOnce,
        Wrong::KeepsName,
    ] {
        let rules = rules(&mount, wrong);
        let mut tries = (0..1000).filter_map(|number| {
            let mut random = Random::new(seed.wrapping_add(number));
            compare::by_chance(&mount, &mut random, SEQUENCE, rules).err()
        });
        let found = tries.next();
        let found = found.unwrap_or_else(|| panic!("{wrong:?} is not found"));
        let shrunk = compare::shrink(&mount, found, rules);
        println!("{wrong:?}: {}", shrunk.in_words());
        let count = shrunk.steps.len();
        assert!(count <= MOST, "{wrong:?} takes {count} steps");
        // It is the rule that makes the difference, and nothing else.
        agree(&mount, &shrunk.steps);
    }
}

/// What the comparison has found, as short as it was made.
#[test]
fn rule_2_3_a_close_saves_while_another_writer_of_the_session_is_open() {
    let mount = mounted(Backing::Here, &[]);
    let open = |descriptor, flags| Step::Open(descriptor, 0, Flags(flags));
    for first in [Step::Sync(0), Step::DirectSave(0, 3, b'a')] {
        agree(
            &mount,
            &[
                Step::Mkdir(0),
                first,
                open(0, libc::O_WRONLY),
                open(1, libc::O_RDWR),
                Step::Write(1, 1, b'v'),
                Step::Close(1),
                Step::Write(0, 1, b'w'),
                Step::Close(0),
            ],
        );
    }
}

#[test]
fn rule_2_11_a_backup_that_is_renamed_back_leaves_no_other_name() {
    let mount = mounted(Backing::Here, &[]);
    agree(
        &mount,
        &[
            Step::Mkdir(0),
            Step::DirectSave(0, 5, b'a'),
            Step::RenameAway(0, 0, 1),
            Step::RenameOnto(0, 1, 0),
            Step::Open(0, 0, Flags(libc::O_WRONLY)),
            Step::Write(0, 1, b'w'),
            Step::Close(0),
        ],
    );
    // Refused by a lock, and by another writer.
    agree(
        &mount,
        &[
            Step::Mkdir(0),
            Step::DirectSave(0, 5, b'a'),
            Step::Mkdir(1),
            Step::RenameAway(0, 1, 1),
            Step::ForeignLock(0),
            Step::RenameOnto(1, 1, 0),
            Step::BreakLock(0),
            Step::Open(0, 0, Flags(libc::O_WRONLY | libc::O_CREAT)),
            Step::RenameOnto(1, 1, 0),
            Step::Close(0),
            Step::RenameOnto(1, 1, 0),
        ],
    );
    // Another program has saved meanwhile.
    agree(
        &mount,
        &[
            Step::Mkdir(0),
            Step::DirectSave(0, 5, b'a'),
            Step::RenameAway(0, 0, 1),
            Step::DirectSave(0, 5, b'b'),
            Step::RenameOnto(0, 1, 0),
        ],
    );
}

#[test]
fn rule_2_12_a_new_checkpoint_is_not_found_again_after_it_was_renamed_away() {
    let mount = mounted(Backing::Here, &[]);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC;
    agree(
        &mount,
        &[
            Step::Mkdir(0),
            Step::Mkdir(1),
            Step::Open(1, 0, Flags(flags)),
            Step::Sync(1),
            Step::ForeignLock(0),
            Step::RenameCheckpoint(0, 1),
            Step::Write(1, 3, 110),
            Step::BreakLock(0),
            Step::RenameAway(0, 0, 0),
            Step::RenameCheckpoint(0, 0),
        ],
    );
}

#[test]
fn rule_2_12_a_session_gives_way_to_another_one_when_its_checkpoint_is_removed() {
    let mount = mounted(Backing::Here, &[]);
    agree(
        &mount,
        &[
            Step::Mkdir(0),
            Step::DirectSave(0, 5, b'a'),
            Step::Mkdir(1),
            Step::RenameSession(1, 0),
            Step::Unlink(0),
            Step::RenameSession(1, 0),
        ],
    );
}

/// Fails if these steps show a difference.
fn agree(mount: &Mount, steps: &[Step]) {
    let rules = rules(mount, Wrong::Nothing);
    for looks in [Looks::Many, Looks::Few] {
        if let Err(difference) = compare::in_order(mount, steps, looks, rules) {
            panic!("{}", difference.in_words());
        }
    }
}

/// A mount whose daemon may complain: sessions are removed under writers, and
/// that is an error.
fn mounted(backing: Backing, options: &[&str]) -> Mount {
    let mut mount = Mount::with(backing, options);
    mount.may_complain = true;
    mount
}

fn rules(mount: &Mount, wrong: Wrong) -> Rules {
    let removed = mount.disk.path().join("removed");
    fs::create_dir(&removed).unwrap();
    let dir = File::open(&removed).unwrap();
    fs::remove_dir(removed).unwrap();
    let (flags, mode) = (OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600));
    let made = rustix::fs::openat(&dir, ".", flags, mode);
    Rules {
        wrong,
        tmpfile_in_removed: made.err().map(|errno| errno.raw_os_error()),
    }
}
