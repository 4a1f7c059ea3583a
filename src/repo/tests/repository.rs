//! The rules of DESIGN section 1.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use super::{Sandbox, name};
use crate::sys::{self, Call, Mode, fault};

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
