//! `session.next`: whose it is, and what becomes of it (I3, I4).

use super::{Sandbox, Ways, set, set_xattr};
use crate::repo::{Kind, lock};
use crate::sys::{Call, Errno, fault};

/// Leaves what a save leaves that was killed before its rename.
fn leave_dead(sandbox: &Sandbox) {
    std::fs::write(sandbox.path("session.next"), b"half").unwrap();
    set_xattr(&sandbox.path("session.next"), lock::MARK, b"");
}

/// I5: "locked" is no answer to a call that failed for another reason.
#[test]
fn i5_a_lock_that_could_not_be_looked_at_is_not_called_locked() {
    for (denied, errno) in [(Call::Open, Errno::MFILE), (Call::Flock, Errno::IO)] {
        let sandbox = Sandbox::with_checkpoint(b"old");
        leave_dead(&sandbox);
        let mut opened = 0;
        let plan = Box::new(move |_, call| {
            opened += usize::from(call == Call::Open);
            // The first open is that of the name, the second of the content.
            let now = call == denied && (call != Call::Open || opened == 2);
            now.then_some(errno)
        });
        let error = fault::with(plan, || sandbox.session.is_locked()).unwrap_err();
        assert_eq!(error.errno(), errno.raw_os_error(), "{denied:?}: {error}");
        assert!(!sandbox.session.is_locked().unwrap());
    }
}

/// I3: without `O_TMPFILE` there is a moment between the creation of
/// session.next and its flock, in which another save takes it for dead. Then
/// that one removes it, and only that one: the name may be a third's by the
/// time the creator gets to it.
#[test]
fn i3_a_lock_taken_for_dead_is_left_to_the_one_who_took_it() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let next = sandbox.path("session.next");
    let other = std::rc::Rc::new(std::cell::RefCell::new(None));
    let held = other.clone();
    let no_tmpfile = Ways {
        tmpfile: false,
        xattr: true,
    };
    let plan = no_tmpfile.plan(move |_, call| {
        if call == Call::Flock {
            let file = std::fs::File::open(&next).unwrap();
            crate::sys::try_flock(&file).unwrap();
            *held.borrow_mut() = Some(file);
        }
        None
    });
    let error = fault::with(plan, || sandbox.session.stage()).unwrap_err();
    assert_eq!(error.kind(), Kind::Locked);
    assert_eq!(sandbox.entries(), set(["session", "session.next"]));
    drop(other.take());
    sandbox.session.save(b"new").unwrap();
    assert_eq!(sandbox.entries(), set(["session"]));
}
