//! Operations that handle a failing call wrongly: the check must find each of them.

use super::{Operation, check_one_way};
use crate::repo::error::During;
use crate::repo::tests::{ALL_WAYS, Sandbox};
use crate::repo::{Result, lock};
use crate::sys::{self, Mode, OFlags};

fn failures(run: fn(&Sandbox) -> Result<Vec<u8>>) -> String {
    let operation = Operation {
        setup: || Sandbox::with_checkpoint(b"old"),
        run,
        partial: false,
        lacks: None,
        survives: |_| false,
    };
    let mut failures = Vec::new();
    check_one_way(&operation, ALL_WAYS[0], &mut failures);
    failures.join("\n")
}

fn create(sandbox: &Sandbox, name: &str) -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let (dir, mode) = (sandbox.session.dir(), Mode::from_raw_mode(0o644));
    sys::openat(dir, name.as_ref(), flags, mode).during("create")
}

#[test]
fn i5_an_error_that_nobody_is_told_is_found() {
    let found = failures(|s| {
        // The result is ignored.
        let _ = s.session.save(b"new");
        Ok(Vec::new())
    });
    assert!(found.contains("nobody is told"), "{found}");
}

#[test]
fn i5_an_errno_that_is_not_the_true_one_is_found() {
    let found = failures(|s| {
        let saved = s.session.save(b"new");
        saved
            .or(Err(sys::Errno::CANCELED).during("save"))
            .map(|()| Vec::new())
    });
    assert!(found.contains("it is no "), "{found}");
}

#[test]
fn i1_a_change_before_the_error_is_found() {
    let found = failures(|s| {
        let file = create(s, "session")?;
        sys::write_at(&file, b"n", 0).during("write")?;
        sys::write_at(&file, b"ew", 1).during("write")?;
        Ok(Vec::new())
    });
    assert!(found.contains(", not {"), "{found}");
}

#[test]
fn i3_a_lock_that_stays_is_found() {
    let found = failures(|s| {
        let file = create(s, lock::NEXT)?;
        sys::write_at(&file, b"new", 0).during("write")?;
        sys::unlink(s.session.dir(), lock::NEXT.as_ref()).during("remove")?;
        Ok(Vec::new())
    });
    assert!(found.contains("a lock is left behind"), "{found}");
}

#[test]
fn a_descriptor_that_stays_is_found() {
    let found = failures(|s| {
        let staged = s.session.stage()?;
        let written = staged.write_at(b"new", 0);
        if written.is_err() {
            std::mem::forget(s.session.stage()?);
        }
        written.map(|()| Vec::new())
    });
    assert!(found.contains("a descriptor leaks"), "{found}");
}

#[test]
fn a_copy_that_does_not_go_on_is_found() {
    let found = failures(|s| {
        let staged = s.session.stage()?;
        // Takes the first answer of the copy for the last.
        staged.write_at(b"n", 0)?;
        let len = staged.len()?;
        let source = s.session.checkpoint()?.map(|it| it.open());
        let copied = match source {
            Some(file) => staged.copy_range((file?, 0), len, 3)?,
            None => 0,
        };
        Ok(copied.to_string().into_bytes())
    });
    assert!(found.contains("is not made again"), "{found}");
}
