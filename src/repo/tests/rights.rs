//! What a save may replace besides the checkpoint it was begun from (DESIGN 13.1 and 2.12).

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::{ALL_WAYS, Sandbox, get_xattr, set, set_xattr};
use crate::repo::{Attributes, Base, Checkpoint, Commit, Kind, OnBehalf, Permit, Session};
use crate::sys::{self, Call, Errno, RenameFlags, fault};

/// Denies what it is told to deny, and remembers the files it was asked about.
#[derive(Debug, Default)]
struct Asked {
    denied: Option<Errno>,
    of: RefCell<Vec<u64>>,
}

impl Permit for Asked {
    fn may_write(&self, checkpoint: &Checkpoint) -> sys::Result<()> {
        self.of.borrow_mut().push(checkpoint.stat().stx_ino);
        self.denied.map_or(Ok(()), Err)
    }

    fn may_create(&self, _: BorrowedFd<'_>) -> sys::Result<()> {
        self.of.borrow_mut().push(0);
        self.denied.map_or(Ok(()), Err)
    }
}

/// Replaces the checkpoint by another file, as a program does that does not know the
/// lock.
fn put(sandbox: &Sandbox) -> u64 {
    let other = sandbox.path("other");
    std::fs::write(&other, b"other").unwrap();
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o4604)).unwrap();
    set_xattr(&other, c"user.shape", b"round");
    std::fs::rename(&other, sandbox.path("session")).unwrap();
    std::fs::metadata(sandbox.path("session")).unwrap().ino()
}

/// The file that is checked is the one that is replaced, whenever it came; and only its
/// attributes are taken.
#[test]
fn rule_13_1_a_save_asks_of_the_file_that_it_replaces() {
    for ways in ALL_WAYS {
        // At the second sync, it had prepared for another file.
        for when in [Call::Write, Call::Fsync] {
            for denied in [None, Some(Errno::ACCESS), Some(Errno::PERM)] {
                let sandbox = std::rc::Rc::new(Sandbox::with_checkpoint(b"old"));
                set_xattr(&sandbox.path("session"), c"user.color", b"red");
                let permit = Asked {
                    denied,
                    ..Asked::default()
                };
                let how = Commit {
                    permit: &permit,
                    keeps_privileges: false,
                    ..Commit::default()
                };
                let (at, put_in) = (sandbox.clone(), std::rc::Rc::new(RefCell::new(None)));
                let inode = put_in.clone();
                let plan = move |_, call| {
                    if call == when {
                        inode.borrow_mut().get_or_insert_with(|| put(&at));
                    }
                    None
                };
                let save = || {
                    let base = sandbox.session.checkpoint()?;
                    let mut staged = sandbox.session.stage()?;
                    staged.begin(base.as_ref(), &how)?;
                    staged.write_at(b"new", 0)?;
                    staged.replace(&how)
                };
                let saved = fault::with(ways.plan(plan), save);
                let path = sandbox.path("session");
                let inode = put_in.take().unwrap();
                let asked = permit.of.take();
                assert!(!asked.is_empty() && asked.iter().all(|of| *of == inode));
                assert_eq!(sandbox.entries(), set(["session"]), "{ways:?} {when:?}");
                let mode = std::fs::metadata(&path).unwrap().mode() & 0o7777;
                assert_eq!(get_xattr(&path, c"user.shape").unwrap(), b"round");
                assert_eq!(get_xattr(&path, c"user.color"), None);
                let Some(denied) = denied else {
                    saved.unwrap();
                    assert_eq!((mode, sandbox.content()), (0o604, b"new".to_vec()));
                    continue;
                };
                let error = saved.unwrap_err();
                assert_eq!(error.kind(), Kind::Forbidden, "{ways:?} {when:?}");
                assert_eq!(error.errno(), denied.raw_os_error());
                assert_eq!((mode, sandbox.content()), (0o4604, b"other".to_vec()));
            }
        }
    }
}

/// The attributes that the writer has set belong to the file it was begun from.
#[test]
fn rule_13_1_what_a_writer_has_set_goes_to_no_other_file() {
    let permit = Asked::default();
    let how = Commit {
        permit: &permit,
        ..Commit::default()
    };
    for is_first in [true, false] {
        let sandbox = Sandbox::new();
        if !is_first {
            std::fs::write(sandbox.path("session"), b"old").unwrap();
        }
        let base = sandbox.session.checkpoint().unwrap();
        let mut staged = sandbox.session.stage().unwrap();
        staged.begin(base.as_ref(), &how).unwrap();
        let mode = Attributes {
            mode: Some(0o4755),
            ..Attributes::default()
        };
        staged.set_attributes(&mode).unwrap();
        put(&sandbox);
        assert_eq!(staged.replace(&how).unwrap_err().kind(), Kind::Superseded);
        assert_eq!(sandbox.content(), b"other");
        assert_eq!(sandbox.entries(), set(["session"]));
    }
}

/// If there is no checkpoint any more, it is as in an empty directory; but a writer that
/// started from one must be allowed to make a file there.
#[test]
fn rule_13_1_a_checkpoint_that_is_gone_is_made_anew() {
    for ways in ALL_WAYS {
        for (owner, denied, left) in [
            (7, None, Some((7, 8, 0o640))),
            (0, None, Some((7, 8, 0o600))),
            (7, Some(Errno::ACCESS), None),
        ] {
            let sandbox = Sandbox::with_checkpoint(b"old");
            let path = sandbox.path("session");
            std::os::unix::fs::chown(&path, Some(owner), Some(8)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
            set_xattr(&path, c"user.color", b"red");
            let permit = Asked {
                denied,
                ..Asked::default()
            };
            let how = Commit {
                permit: &permit,
                first_owner: Some((7, 8)),
                ..Commit::default()
            };
            let save = || {
                let base = sandbox.session.checkpoint()?;
                let mut staged = sandbox.session.stage()?;
                staged.begin(base.as_ref(), &how)?;
                std::fs::remove_file(&path).unwrap();
                staged.replace(&how)
            };
            let saved = fault::with(ways.plan(|_, _| None), save);
            assert!(permit.of.take().iter().all(|of| *of == 0));
            let Some(left) = left else {
                assert_eq!(saved.unwrap_err().kind(), Kind::Superseded);
                assert_eq!(sandbox.entries(), set([]));
                continue;
            };
            saved.unwrap();
            let stat = std::fs::metadata(&path).unwrap();
            let found = (stat.uid(), stat.gid(), stat.mode() & 0o7777);
            assert_eq!(found, left, "{ways:?} {owner}");
            let color = get_xattr(&path, c"user.color").is_some();
            assert_eq!(color, owner == 7, "its own gets its name again");
        }
    }
}

/// 2.12: nothing is kept of a checkpoint that the writer itself has removed, whether it
/// still exists or not; another program's save is not replaced.
#[test]
fn rule_2_12_a_removed_checkpoint_is_replaced_by_a_first_one() {
    for state in ["there", "gone", "replaced"] {
        let sandbox = Sandbox::with_checkpoint(b"old");
        set_xattr(&sandbox.path("session"), c"user.color", b"red");
        let removed = sandbox.session.checkpoint().unwrap().unwrap();
        let staged = sandbox.session.stage().unwrap();
        staged.write_at(b"new", 0).unwrap();
        match state {
            "gone" => assert!(sandbox.session.unlink_this_checkpoint(&removed).unwrap()),
            "replaced" => sandbox.session.save(b"newer").unwrap(),
            _ => {}
        }
        let done = staged.replace(&Commit {
            base: Base::Only(Some(&removed)),
            removed: Some(&removed),
            first_mode: 0o600,
            ..Commit::default()
        });
        if state == "replaced" {
            assert_eq!(done.unwrap_err().kind(), Kind::Superseded);
            assert_eq!(sandbox.content(), b"newer");
            assert!(!sandbox.session.unlink_this_checkpoint(&removed).unwrap());
            continue;
        }
        done.unwrap();
        assert_eq!(sandbox.content(), b"new", "{state}");
        let metadata = std::fs::metadata(sandbox.path("session")).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600, "{state}");
        let color = get_xattr(&sandbox.path("session"), c"user.color");
        assert_eq!(color, None, "{state}");
    }
}

/// Somebody who may not change a name by now.
#[derive(Debug)]
struct Refused;

impl OnBehalf for Refused {
    fn change(&self, of: &[BorrowedFd<'_>], _: &dyn Fn() -> sys::Result<()>) -> sys::Result<()> {
        assert!(!of.is_empty());
        Err(Errno::PERM)
    }
}

/// All that is done for somebody is done by somebody, and what is not done leaves
/// nothing behind.
#[test]
fn rule_13_1_names_are_changed_on_behalf_of_who_has_asked() {
    type Change = fn(&Session, &Checkpoint) -> crate::repo::Result<()>;
    let changes: [(&str, Change); 9] = [
        ("adopt", |s, _| {
            s.adopt(s.dir(), OsStr::new("file"), RenameFlags::empty())
        }),
        ("exchange", |s, _| {
            s.adopt(s.dir(), OsStr::new("file"), RenameFlags::EXCHANGE)
        }),
        ("take back", |s, _| s.take_back(s.dir(), OsStr::new("bak"))),
        ("link", |s, _| {
            s.adopt_link(sys::open_path(s.dir(), OsStr::new("file")).unwrap())
        }),
        ("link away", |s, which| {
            let linked = s.link_away(which, s.dir(), OsStr::new("x"), RenameFlags::empty());
            linked.map(drop)
        }),
        ("link over", |s, which| {
            let linked = s.link_away(which, s.dir(), OsStr::new("file"), RenameFlags::empty());
            linked.map(drop)
        }),
        ("remove", |s, _| s.remove_checkpoint().map(drop)),
        ("unlink", |s, which| {
            s.unlink_this_checkpoint(which).map(drop)
        }),
        ("break", |s, _| s.break_lock().map(drop)),
    ];
    for (what, change) in changes {
        let sandbox = Sandbox::with_checkpoint(b"old");
        std::fs::write(sandbox.path("file"), b"file").unwrap();
        std::fs::hard_link(sandbox.path("session"), sandbox.path("bak")).unwrap();
        if what == "break" {
            std::fs::write(sandbox.path("session.next"), b"lock").unwrap();
        }
        let before = sandbox.entries();
        let which = sandbox.session.checkpoint().unwrap().unwrap();
        let theirs = sandbox.session.clone();
        let theirs = theirs.on_behalf_of(Some(std::sync::Arc::new(Refused)));
        let error = change(&theirs, &which).unwrap_err();
        assert_eq!(error.errno(), libc::EPERM, "{what}");
        assert_eq!(sandbox.entries(), before, "{what}");
        assert_eq!(sandbox.content(), b"old", "{what}");
    }
}

/// A first checkpoint takes nobody's place: not that of one that a program which
/// knows no lock makes at the last moment.
#[test]
fn rule_13_1_a_first_checkpoint_replaces_nothing_unseen() {
    for ways in ALL_WAYS {
        let sandbox = std::rc::Rc::new(Sandbox::new());
        let permit = Asked {
            denied: Some(Errno::ACCESS),
            ..Asked::default()
        };
        let how = Commit {
            permit: &permit,
            ..Commit::default()
        };
        let at = sandbox.clone();
        let mut is_put = false;
        let plan = move |_, call| {
            if call == Call::Rename && !is_put {
                is_put = true;
                put(&at);
            }
            None
        };
        let save = || {
            let mut staged = sandbox.session.stage()?;
            staged.begin(None, &how)?;
            staged.write_at(b"new", 0)?;
            staged.replace(&how)
        };
        let error = fault::with(ways.plan(plan), save).unwrap_err();
        assert_eq!(error.kind(), Kind::Forbidden, "{ways:?}");
        assert_eq!(sandbox.content(), b"other");
        assert_eq!(sandbox.entries(), set(["session"]));
    }
}
