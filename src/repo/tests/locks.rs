//! `session.next`: whose it is, and what becomes of it (I3, I4).

use super::{Sandbox, set_xattr};
use crate::repo::lock;
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
