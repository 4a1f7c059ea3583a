//! Makes chosen system calls of this thread fail, transfer less than requested, or do
//! nothing.

use std::cell::{Cell, RefCell};

use rustix::io::Errno;

use super::call::Call;

/// Decides about each call, counted from 0 since [`with`] began.
pub type Plan = Box<dyn FnMut(usize, Call) -> Option<Errno>>;

/// Whether to leave out a sync, counted from 0 since [`without_syncs`] began.
pub type Which = Box<dyn FnMut(usize) -> bool>;

thread_local! {
    static STATE: RefCell<Option<(usize, Plan)>> = const { RefCell::new(None) };
    static LIMIT: Cell<Option<usize>> = const { Cell::new(None) };
    static LEFT_OUT: RefCell<Option<(usize, Which)>> = const { RefCell::new(None) };
}

/// Runs `f`, and shows every system call of this thread to `plan` first. A call for which
/// it returns an errno is not made, and fails with that.
pub fn with<T>(plan: Plan, f: impl FnOnce() -> T) -> T {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            STATE.take();
            LIMIT.take();
        }
    }
    STATE.set(Some((0, plan)));
    let _restore = Restore;
    f()
}

/// For a plan: the call that it is being shown reads or writes at most this many bytes.
pub fn shorten(bytes: usize) {
    LIMIT.set(Some(bytes));
}

/// Runs `f` without those calls of fsync(2) and fdatasync(2) that `which` selects: they
/// return 0 and are not made.
///
/// The tests of crashes must find every missing sync of a save. Without any syncs, tests
/// are fast that do not depend on durability.
pub fn without_syncs<T>(which: Which, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<(usize, Which)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT_OUT.set(self.0.take());
        }
    }
    let _restore = Restore(LEFT_OUT.replace(Some((0, which))));
    f()
}

pub(super) fn next(call: Call) -> Option<Errno> {
    LIMIT.take();
    // Taken out while the plan runs: it may make calls of its own.
    let (count, mut plan) = STATE.take()?;
    let verdict = plan(count, call);
    STATE.set(Some((count + 1, plan)));
    verdict
}

pub(super) fn limit(len: usize) -> usize {
    LIMIT.take().map_or(len, |limit| limit.min(len))
}

pub(super) fn is_sync_left_out() -> bool {
    let Some((count, mut which)) = LEFT_OUT.take() else {
        return false;
    };
    let left_out = which(count);
    LEFT_OUT.set(Some((count + 1, which)));
    left_out
}
