//! `session.next`: its owner, and what becomes of it (I3, I4).

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;

use super::{ALL_WAYS, Made, Sandbox, Ways, get_xattr, mkfifo, name, open, set, set_xattr};
use crate::repo::{Base, Kind, LockOwner, lock};
use crate::sys::{self, Call, Errno, RenameFlags, fault};

/// Leaves a lock as of a save that was killed before its rename.
fn leave_dead(sandbox: &Sandbox) {
    std::fs::write(sandbox.path("session.next"), b"half").unwrap();
    set_xattr(&sandbox.path("session.next"), lock::MARK, b"");
}

/// I5: a call that failed for another reason is not reported as "locked".
#[test]
fn i5_a_lock_that_could_not_be_looked_at_is_not_called_locked() {
    for (denied, errno) in [(Call::Reopen, Errno::MFILE), (Call::Flock, Errno::IO)] {
        let sandbox = Sandbox::with_checkpoint(b"old");
        leave_dead(&sandbox);
        let plan = Box::new(move |_, call| (call == denied).then_some(errno));
        let error = fault::with(plan, || sandbox.session.is_locked()).unwrap_err();
        assert_eq!(error.errno(), errno.raw_os_error(), "{denied:?}: {error}");
        assert!(!sandbox.session.is_locked().unwrap());
    }
}

/// I3: without `O_TMPFILE` there is a moment between the creation of session.next and its
/// flock in which another save takes it for dead. Then only that save removes it: by the
/// time the creator could, the name may belong to a third save.
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
        if call == Call::Flock && held.borrow().is_none() {
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

/// I1: a session.next that a save of ours is still writing is no checkpoint, nor is one
/// whose writer died before the end; a foreign one may be published.
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
    staged.commit(Base::Any).unwrap();
    assert_eq!(sandbox.content(), b"ha");

    leave_dead(&sandbox);
    adopt().unwrap_err();
    assert_eq!(sandbox.content(), b"ha");

    std::fs::write(sandbox.path("session.next"), b"foreign").unwrap();
    adopt().unwrap();
    assert_eq!(sandbox.content(), b"foreign");
    assert_eq!(sandbox.entries(), set(["session"]));
}

/// 2.11: only a regular file can be renamed to `session`, and nothing is followed; a
/// process that waits to write into a FIFO is not woken by a look at it.
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
            let opens = matches!(call, Call::Open | Call::Reopen);
            count.set(count.get() + usize::from(opens));
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

/// I3: a lock broken at any moment between its link and the rename is
/// noticed: nothing is published, and what has the name since then stays.
#[test]
fn i3_a_writer_whose_lock_was_broken_publishes_nothing() {
    for ways in ALL_WAYS {
        for replace in [false, true] {
            let sandbox = Sandbox::with_checkpoint(b"old");
            let staged = fault::with(ways.plan(|_, _| None), || sandbox.session.stage()).unwrap();
            staged.write_at(b"new", 0).unwrap();
            let next = sandbox.path("session.next");
            let mut broken = false;
            let plan = move |_: usize, call: Call| {
                // The first open after the link is that of the base check.
                if !broken && next.exists() && call == Call::Open {
                    broken = true;
                    std::fs::remove_file(&next).unwrap();
                    if replace {
                        std::fs::write(&next, b"foreign").unwrap();
                    }
                }
                None
            };
            let result = fault::with(ways.plan(plan), || staged.commit(Base::Any));
            assert_eq!(result.unwrap_err().kind(), Kind::LockBroken, "{ways:?}");
            assert_eq!(sandbox.content(), b"old");
            if replace {
                let foreign = std::fs::read(sandbox.path("session.next")).unwrap();
                assert_eq!(foreign, b"foreign");
                assert_eq!(sandbox.session.save(b"x").unwrap_err().kind(), Kind::Locked);
                assert!(sandbox.session.break_lock().unwrap());
            }
            assert_eq!(sandbox.entries(), set(["session"]));
            sandbox.session.save(b"later").unwrap();
        }
    }
}

/// I3: also when it is broken between the last look and the rename.
#[test]
fn i3_a_lock_broken_right_before_the_rename_is_noticed() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let next = sandbox.path("session.next");
    let plan = Box::new(move |_, call| {
        if call == Call::Rename {
            std::fs::remove_file(&next).unwrap();
        }
        None
    });
    let error = fault::with(plan, || sandbox.session.save(b"new")).unwrap_err();
    assert_eq!(error.kind(), Kind::LockBroken);
    assert_eq!(sandbox.content(), b"old");
    assert_eq!(sandbox.entries(), set(["session"]));
}

/// I3: an abandoned save removes its own session.next, and no other.
#[test]
fn i3_an_abandoned_save_removes_only_its_own_lock() {
    let no_tmpfile = ALL_WAYS[2];
    assert!(!no_tmpfile.tmpfile);
    let sandbox = Sandbox::with_checkpoint(b"old");
    let stage = || fault::with(no_tmpfile.plan(|_, _| None), || sandbox.session.stage());
    drop(stage().unwrap());
    assert_eq!(sandbox.entries(), set(["session"]));

    let staged = stage().unwrap();
    std::fs::remove_file(sandbox.path("session.next")).unwrap();
    std::fs::write(sandbox.path("session.next"), b"foreign").unwrap();
    drop(staged);
    let foreign = std::fs::read(sandbox.path("session.next")).unwrap();
    assert_eq!(foreign, b"foreign");
}

/// I4: marked and not flock'ed is dead, and the next save removes it.
#[test]
fn i4_a_dead_lock_is_removed_by_the_next_save() {
    for ways in ALL_WAYS {
        for by_xattr in [true, false] {
            let sandbox = Sandbox::with_checkpoint(b"old");
            leave_dead(&sandbox);
            let next = sandbox.path("session.next");
            if !by_xattr {
                sys::remove_xattr(open(&next), lock::MARK).unwrap();
                let sticky = std::fs::Permissions::from_mode(0o600 | lock::MARK_BIT);
                std::fs::set_permissions(&next, sticky).unwrap();
            }
            fault::with(ways.plan(|_, _| None), || sandbox.session.save(b"new")).unwrap();
            assert_eq!(sandbox.content(), b"new");
            assert_eq!(sandbox.entries(), set(["session"]));
        }
    }
}

/// I4: while its owner lives, a lock stays, whatever other saves or looks come.
#[test]
fn i4_a_living_lock_refuses_every_save() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"old");
        let other = sandbox.repository.session(&name("s")).unwrap();
        let next = sandbox.path("session.next");
        let staged = fault::with(ways.plan(|_, _| None), || sandbox.session.stage()).unwrap();
        let plan = move |_: usize, call: Call| {
            if call == Call::Rename {
                assert!(next.exists());
                assert!(other.is_locked().unwrap());
                for ways in ALL_WAYS {
                    let save = fault::with(ways.plan(|_, _| None), || other.save(b"other"));
                    assert_eq!(save.unwrap_err().kind(), Kind::Locked);
                }
                assert_eq!(other.remove_checkpoint().unwrap_err().kind(), Kind::Locked);
                std::fs::write(next.with_file_name("upload"), b"upload").unwrap();
                let adopt = other.adopt(other.dir(), "upload".as_ref(), RenameFlags::empty());
                assert_eq!(adopt.unwrap_err().kind(), Kind::Locked);
            }
            None
        };
        fault::with(ways.plan(plan), || staged.commit(Base::Any)).unwrap();
        assert_eq!(sandbox.content(), b"");
        assert_eq!(sandbox.entries(), set(["session", "upload"]));
    }
}

/// I4 and section 1: an unmarked lock is foreign, and refuses saves until it is broken.
#[test]
fn i4_a_foreign_lock_refuses_until_it_is_broken() {
    let kinds: [Made; 4] = [
        ("file", |path| std::fs::write(path, b"foreign").unwrap()),
        ("fifo", mkfifo),
        ("symlink", |path| {
            std::os::unix::fs::symlink("session", path).unwrap()
        }),
        ("directory", |path| std::fs::create_dir(path).unwrap()),
    ];
    for ways in ALL_WAYS {
        for (kind, make) in kinds {
            let sandbox = Sandbox::with_checkpoint(b"old");
            make(&sandbox.path("session.next"));
            let save = || fault::with(ways.plan(|_, _| None), || sandbox.session.save(b"new"));
            assert_eq!(save().unwrap_err().kind(), Kind::Locked, "{kind}");
            assert!(sandbox.session.is_locked().unwrap(), "{kind}");
            assert_eq!(sandbox.content(), b"old");
            assert_eq!(sandbox.entries(), set(["session", "session.next"]));
            if kind == "directory" {
                // Section 1 says `rm`: that is no `rmdir`.
                let error = sandbox.session.break_lock().unwrap_err();
                assert_eq!(error.errno(), Errno::ISDIR.raw_os_error());
                continue;
            }
            assert!(sandbox.session.break_lock().unwrap(), "{kind}");
            assert!(!sandbox.session.break_lock().unwrap(), "{kind}");
            save().unwrap();
            assert_eq!(sandbox.content(), b"new");
        }
    }
}

/// I3: the same if it is gone before its creator's flock. The lock was not broken:
/// nothing has been written yet, and another try helps.
#[test]
fn i3_a_lock_removed_before_its_flock_is_locked_not_broken() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let other = sandbox.repository.session(&name("s")).unwrap();
    let plan = move |_: usize, call: Call| {
        if call == Call::Flock {
            assert!(!other.is_locked().unwrap(), "it looks dead");
        }
        None
    };
    let no_tmpfile = Ways {
        tmpfile: false,
        xattr: true,
    };
    let error = fault::with(no_tmpfile.plan(plan), || sandbox.session.stage()).unwrap_err();
    assert_eq!(error.kind(), Kind::Locked);
    assert_eq!(sandbox.entries(), set(["session"]));
}

/// I4: our lock is marked as long as it has its name: after a crash at any call, the next
/// save knows what it is.
#[test]
fn i4_our_lock_is_marked_for_as_long_as_it_has_its_name() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"old");
        set_xattr(&sandbox.path("session"), c"user.color", b"red");
        let next = sandbox.path("session.next");
        let seen = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = seen.clone();
        let plan = move |_: usize, call: Call| {
            if let Ok(stat) = next.symlink_metadata() {
                let by_bit = stat.permissions().mode() & lock::MARK_BIT != 0;
                let marked = by_bit || get_xattr(&next, lock::MARK).is_some();
                assert!(marked, "{ways:?}: not at the call {call:?}");
                count.set(count.get() + 1);
            }
            None
        };
        fault::with(ways.plan(plan), || sandbox.session.save(b"new")).unwrap();
        assert!(seen.get() > 0);
    }
}

/// If a lock cannot be marked at all, saves work, but one that a crash leaves behind
/// counts as foreign: nothing is removed that might be another program's.
#[test]
fn i4_without_any_mark_a_lock_that_was_left_is_broken_by_hand() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let unmarked = || -> fault::Plan {
        let mut calls = 0;
        let refuse = move |_: usize, call: Call| match (call, calls) {
            (Call::SetXattr, 0) => {
                calls = 1;
                Some(Errno::OPNOTSUPP)
            }
            (Call::Chmod, 1) => {
                calls = 2;
                Some(Errno::PERM)
            }
            _ => None,
        };
        Box::new(refuse)
    };
    fault::with(unmarked(), || sandbox.session.save(b"new")).unwrap();
    assert_eq!(sandbox.session.load().unwrap(), b"new");
    assert_eq!(sandbox.entries(), set(["session"]));

    // A crash between the link and the rename.
    let mut unmarked = unmarked();
    let crash = move |n: usize, call: Call| match call {
        Call::Rename | Call::Unlink => Some(Errno::IO),
        call => unmarked(n, call),
    };
    fault::with(Box::new(crash), || sandbox.session.save(b"lost")).unwrap_err();
    assert_eq!(sandbox.entries(), set(["session", "session.next"]));
    assert_eq!(
        sandbox.session.save(b"newer").unwrap_err().kind(),
        Kind::Locked
    );
    assert!(sandbox.session.break_lock().unwrap());
    sandbox.session.save(b"newer").unwrap();
    assert_eq!(sandbox.session.load().unwrap(), b"newer");
}

/// I4: a look tells the owners apart, changes nothing, and does not prevent a save over a
/// dead lock.
#[test]
fn i4_a_look_at_a_lock_leaves_it_alone() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let owner = || sandbox.session.lock().unwrap().map(|lock| lock.owner());
    assert_eq!(owner(), None);
    std::fs::write(sandbox.path("session.next"), b"foreign").unwrap();
    assert_eq!(owner(), Some(LockOwner::Foreign));
    std::fs::remove_file(sandbox.path("session.next")).unwrap();

    leave_dead(&sandbox);
    let no_flock = Box::new(|_, call| (call == Call::Flock).then_some(Errno::OPNOTSUPP));
    assert_eq!(fault::with(no_flock, owner), Some(LockOwner::Living));
    assert_eq!(owner(), Some(LockOwner::Dead));
    assert_eq!(owner(), Some(LockOwner::Dead), "it is there still");
    let owned = open(sandbox.path("session.next"));
    sys::try_flock(&owned).unwrap();
    assert_eq!(owner(), Some(LockOwner::Living));
    assert!(!sandbox.session.remove_dead_lock().unwrap());
    drop(owned);
    assert!(sandbox.session.remove_dead_lock().unwrap());
    assert_eq!(sandbox.entries(), set(["session"]));

    leave_dead(&sandbox);
    let look = open(sandbox.path("session.next"));
    sys::try_flock_shared(&look).unwrap();
    let look = std::cell::RefCell::new(Some(look));
    let mut flocks = 0;
    // The look ends while the save waits for it.
    let plan = Box::new(move |_, call| {
        flocks += usize::from(call == Call::Flock);
        if flocks == 7 {
            look.take();
        }
        None
    });
    fault::with(plan, || sandbox.session.save(b"new")).unwrap();
    assert_eq!(sandbox.content(), b"new");
    assert_eq!(sandbox.entries(), set(["session"]));
}
