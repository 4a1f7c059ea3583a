//! Makes chosen system calls of this thread fail.

use std::cell::RefCell;

use super::{Call, Errno};

/// Decides for each call, counted from 0 since [`with`] began.
pub type Plan = Box<dyn FnMut(usize, Call) -> Option<Errno>>;

thread_local! {
    static STATE: RefCell<Option<(usize, Plan)>> = const { RefCell::new(None) };
}

/// Runs `f` with every system call of this thread shown to `plan` first;
/// a call for which it answers an errno is not made and fails with it.
pub fn with<T>(plan: Plan, f: impl FnOnce() -> T) -> T {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            STATE.with(|state| state.borrow_mut().take());
        }
    }
    STATE.with(|state| *state.borrow_mut() = Some((0, plan)));
    let _restore = Restore;
    f()
}

pub(super) fn next(call: Call) -> Option<Errno> {
    // Taken out while the plan runs: it may make calls of its own.
    let (count, mut plan) = STATE.with(|state| state.borrow_mut().take())?;
    let verdict = plan(count, call);
    STATE.with(|state| *state.borrow_mut() = Some((count + 1, plan)));
    verdict
}
