//! `session.next`: whose it is, and what becomes of it (I3, I4).

use std::ffi::OsStr;

use super::{Sandbox, Ways, mkfifo, set, set_xattr};
use crate::repo::{Commit, Kind, lock};
use crate::sys::{Call, Errno, RenameFlags, fault};

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

/// I1: a session.next that a save of ours is still writing is no checkpoint,
/// nor one whose writer died over it; a foreign one may be published.
#[test]
fn i1_adopt_never_publishes_a_save_in_progress() {
    let no_tmpfile = Ways {
        tmpfile: false,
        xattr: true,
    };
    let sandbox = Sandbox::with_checkpoint(b"old");
    let next = OsStr::new("session.next");
    let adopt = || {
        sandbox
            .session
            .adopt(sandbox.session.dir(), next, RenameFlags::empty())
    };

    let staged = fault::with(no_tmpfile.plan(|_, _| None), || sandbox.session.stage()).unwrap();
    staged.write_at(b"ha", 0).unwrap();
    assert_eq!(adopt().unwrap_err().kind(), Kind::Locked);
    assert_eq!(sandbox.content(), b"old");
    staged.commit(&Commit::default()).unwrap();
    assert_eq!(sandbox.content(), b"ha");

    leave_dead(&sandbox);
    adopt().unwrap_err();
    assert_eq!(sandbox.content(), b"ha");

    std::fs::write(sandbox.path("session.next"), b"foreign").unwrap();
    adopt().unwrap();
    assert_eq!(sandbox.content(), b"foreign");
    assert_eq!(sandbox.entries(), set(["session"]));
}

/// 2.11: what is no regular file is not renamed to `session`, nor followed;
/// and who waits to write into a FIFO is not woken by a look at it.
#[test]
fn rule_2_11_only_a_regular_file_is_adopted() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    std::fs::create_dir(sandbox.path("directory")).unwrap();
    std::os::unix::fs::symlink("session", sandbox.path("symlink")).unwrap();
    mkfifo(&sandbox.path("fifo"));
    for name in ["directory", "symlink", "fifo"] {
        let opened = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = opened.clone();
        let plan = Box::new(move |_, call| {
            count.set(count.get() + usize::from(call == Call::Open));
            None
        });
        let error = fault::with(plan, || {
            let dir = sandbox.session.dir();
            sandbox
                .session
                .adopt(dir, OsStr::new(name), RenameFlags::empty())
        });
        assert_eq!(error.unwrap_err().kind(), Kind::NotAFile, "{name}");
        assert_eq!(opened.get(), 1, "{name}: opened after the look at it");
        assert_eq!(sandbox.content(), b"old");
    }
}
