//! The rules of DESIGN section 1.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use super::{Sandbox, entries, name, set};
use crate::repo::Repository;
use crate::sys::{self, Call, Errno, Mode, fault};

/// A directory in a directory, and so on: too deep for any path.
fn deep(top: &Path, levels: usize) {
    let mut dir = sys::open_dir(sys::CWD, top.as_os_str()).unwrap();
    for _ in 0..levels {
        sys::mkdir(&dir, "d".as_ref(), Mode::from_raw_mode(0o755)).unwrap();
        sys::mkdir(&dir, "e".as_ref(), Mode::from_raw_mode(0o755)).unwrap();
        dir = sys::open_dir(&dir, "d".as_ref()).unwrap();
    }
}

/// Section 1, remove: any depth, with few descriptors. A usual limit is 1024.
#[test]
fn remove_takes_a_tree_of_2000_levels_with_few_descriptors() {
    let sandbox = Rc::new(Sandbox::with_checkpoint(b"old"));
    deep(&sandbox.path(""), 2000);
    let most = Rc::new(Cell::new(0));
    let (seen, held) = (most.clone(), sandbox.clone());
    let mut n = 0;
    let plan = Box::new(move |_, call| {
        n += usize::from(call == Call::Unlink);
        // Counting is slow.
        if call == Call::Unlink && n % 500 == 0 {
            seen.set(seen.get().max(held.descriptors()));
        }
        None
    });
    fault::with(plan, || {
        let unexpected = |path, error| panic!("{path:?}: {error}");
        sandbox.repository.remove(&name("s"), unexpected).unwrap();
    });
    assert!(most.get() < 100, "{} descriptors", most.get());
    assert!(!sandbox.path("").exists());
}

/// Section 1, create: the base directory is made if it is missing, and I2:
/// each directory that got a new entry for it is synced.
#[test]
fn create_makes_the_base_directory_durably() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    // A parent that is a symlink is synced too.
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    let repository = Repository::new(dir.path().join("link/a/b/c"));
    let syncs = Rc::new(Cell::new(0));
    let count = syncs.clone();
    let plan = Box::new(move |_, call| {
        count.set(count.get() + usize::from(call == Call::Fsync));
        None
    });
    fault::with(plan, || repository.create("pbox-").unwrap());
    // link, a and b for their new entries, and c for the session.
    assert_eq!(syncs.get(), 4);
    assert!(dir.path().join("real/a/b/c").is_dir());
}

/// I5: a create that failed has made no session.
#[test]
fn i5_a_create_that_failed_leaves_no_session() {
    let sandbox = Sandbox::new();
    let mut made = false;
    let plan = Box::new(move |_, call| {
        made |= call == Call::Mkdir;
        (made && call == Call::Open).then_some(Errno::MFILE)
    });
    let error = fault::with(plan, || sandbox.repository.create("pbox-")).unwrap_err();
    assert_eq!(error.errno(), Errno::MFILE.raw_os_error());
    assert_eq!(entries(sandbox.repository.path()), set(["s.session"]));
}
