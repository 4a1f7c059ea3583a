//! Unsafe ways of saving, with all their syncs: the model must find what is wrong with
//! each.

use std::ffi::OsStr;

use super::operations::{bytes, with_checkpoint};
use super::{ALL_WAYS, Operation, Promise, Sandbox, check, record};
use crate::repo::Result;
use crate::repo::error::During;
use crate::sys::{self, Mode, OFlags, RenameFlags};

fn violation(step: fn(&Sandbox) -> Result<()>) -> String {
    let operation = Operation {
        name: "a way that is not safe",
        ways: &ALL_WAYS[..1],
        setup: with_checkpoint,
        prepare: &|_| {},
        steps: &[step],
        promise: Promise::Nothing,
    };
    let done = record(&operation, ALL_WAYS[0], None);
    let found = check(&operation, ALL_WAYS[0], &done).map(drop);
    let found = found.expect_err("nothing is found");
    found.lines().next().unwrap().to_owned()
}

fn write(sandbox: &Sandbox, name: &str, flags: OFlags) -> Result<()> {
    let (dir, mode) = (sandbox.session.dir(), Mode::from_raw_mode(0o640));
    let flags = OFlags::WRONLY | OFlags::CREATE | flags;
    let file = sys::openat(dir, OsStr::new(name), flags, mode).during("open")?;
    sys::write_at(&file, &bytes(2), 0).during("write")?;
    sys::fsync(&file).during("sync")?;
    sys::fsync(dir).during("sync")
}

fn rename(sandbox: &Sandbox, from: &str, to: &str) -> Result<()> {
    let dir = sandbox.session.dir();
    let [from, to] = [from, to].map(OsStr::new);
    sys::rename(dir, from, dir, to, RenameFlags::empty()).during("rename")?;
    sys::fsync(dir).during("sync")
}

/// I1: neither with a truncation nor over the old bytes.
#[test]
fn i1_a_write_in_place_is_found() {
    for write_in_place in [
        (|s| write(s, "session", OFlags::TRUNC)) as fn(&Sandbox) -> Result<()>,
        |s| write(s, "session", OFlags::empty()),
    ] {
        let found = violation(write_in_place);
        assert!(found.contains("I1: s.session has"), "{found}");
    }
}

/// I1: there is a moment without a checkpoint.
#[test]
fn i1_a_checkpoint_that_is_out_of_its_way_first_is_found() {
    let found = violation(|s| {
        write(s, "session.new", OFlags::EXCL)?;
        rename(s, "session", "session.old")?;
        rename(s, "session.new", "session")
    });
    assert!(found.contains("I1: s.session has None"), "{found}");
}

/// I4: a lock without a mark stays for ever.
#[test]
fn i4_a_lock_that_is_not_marked_is_found() {
    let found = violation(|s| {
        write(s, "session.next", OFlags::EXCL)?;
        rename(s, "session.next", "session")
    });
    assert!(found.contains("I4: the lock in s.session"), "{found}");
}

/// I4: partial data under a name that the storage does not know.
#[test]
fn i4_a_temporary_file_is_found() {
    let found = violation(|s| {
        write(s, "session.tmp", OFlags::EXCL)?;
        rename(s, "session.tmp", "session")
    });
    assert!(found.contains("I4: session.tmp is there"), "{found}");
}
