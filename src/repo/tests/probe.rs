//! Probes of the filesystem, and leftovers of them and of saves.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::rc::Rc;

use super::{Sandbox, entries, faults, open, set, set_xattr};
use crate::repo::{Answer, Feature, Kind, LeftProbe, LockOwner, Repository, lock};
use crate::sys::{self, Call, Errno, fault};

const LEFT: &str = ".sessionfs-probe-1-0";

fn leave_probe(repository: &Repository) {
    std::fs::create_dir(repository.path().join(LEFT)).unwrap();
    std::fs::write(repository.path().join(LEFT).join("half"), "x").unwrap();
}

#[test]
fn a_probe_leaves_nothing_whichever_call_fails() {
    let sandbox = Sandbox::new();
    let root = sandbox.repository.path();
    let calls = Rc::new(RefCell::new(Vec::new()));
    let count = calls.clone();
    let plan = Box::new(move |_, call| {
        count.borrow_mut().push(call);
        None
    });
    let answers = fault::with(plan, || sandbox.repository.probe()).unwrap();
    for feature in [Feature::SyncFile, Feature::Rename, Feature::Flock] {
        assert!(answers.contains(&(feature, Answer::Yes)), "{answers:?}");
    }
    assert_eq!(entries(root), set(["s.session"]));
    let calls = calls.take();
    // The removal begins with opening the directory and a look at it.
    let looked = calls.iter().rposition(|call| *call == Call::Fstat);
    let probes = looked.unwrap() - 1;
    let own = calls.iter().position(|call| *call == Call::OpenTmpfile);
    let own = own.unwrap();
    for (failing, call) in calls.iter().enumerate().take(probes) {
        for errno in faults::chosen(failing, *call) {
            // Another process took the directory for dead, and will remove it.
            let is_taken = [Errno::NOENT, Errno::WOULDBLOCK].contains(&errno);
            if failing < own && is_taken {
                continue;
            }
            let plan = Box::new(move |n, _| (n == failing).then_some(errno));
            let probe = || fault::with(plan, || sandbox.repository.probe());
            let _ = fault::without_syncs(Box::new(|_| true), probe);
            assert_eq!(
                entries(root),
                set(["s.session"]),
                "call {failing}, {call:?}: {errno:?}"
            );
        }
    }
}

#[test]
fn what_a_filesystem_lacks_is_told_from_what_could_not_be_tried() {
    let sandbox = Sandbox::new();
    let answer = |feature, failing, errno| {
        let plan = Box::new(move |_, call| (call == failing).then_some(errno));
        let answers = fault::with(plan, || sandbox.repository.probe()).unwrap();
        let found = answers.into_iter().find(|(f, _)| *f == feature);
        found.unwrap().1
    };
    let no = |errno: Errno| Answer::No(Some(errno.raw_os_error()));
    let unknown = |errno: Errno| Answer::Unknown(errno.raw_os_error());
    for (feature, call, errno, expected) in [
        (
            Feature::UnnamedFile,
            Call::OpenTmpfile,
            Errno::OPNOTSUPP,
            no(Errno::OPNOTSUPP),
        ),
        (
            Feature::LinkUnnamed,
            Call::Link,
            Errno::PERM,
            no(Errno::PERM),
        ),
        (
            Feature::SyncDirectory,
            Call::Fsync,
            Errno::INVAL,
            no(Errno::INVAL),
        ),
        (
            Feature::SyncFile,
            Call::Write,
            Errno::NOSPC,
            unknown(Errno::NOSPC),
        ),
        (
            Feature::Rename,
            Call::Mkdir,
            Errno::ROFS,
            unknown(Errno::ROFS),
        ),
        (
            Feature::Reflink,
            Call::Copy,
            Errno::OPNOTSUPP,
            no(Errno::OPNOTSUPP),
        ),
        (
            Feature::UserXattrs,
            Call::SetXattr,
            Errno::OPNOTSUPP,
            no(Errno::OPNOTSUPP),
        ),
        (Feature::Flock, Call::Flock, Errno::NOLCK, no(Errno::NOLCK)),
    ] {
        assert_eq!(answer(feature, call, errno), expected, "{feature:?}");
    }
    let missing = Repository::new(sandbox.dir.path().join("none"));
    assert_eq!(missing.probe().unwrap_err().kind(), Kind::NotFound);
    assert!(!missing.path().exists());
}

#[test]
fn a_probe_that_was_killed_is_told_from_one_that_goes_on() {
    let sandbox = Sandbox::new();
    let repository = &sandbox.repository;
    assert_eq!(repository.left_probes().unwrap(), []);
    leave_probe(repository);
    let left = |is_dead| {
        let name = LEFT.into();
        vec![LeftProbe { name, is_dead }]
    };
    assert_eq!(repository.left_probes().unwrap(), left(true));
    let no_flock = || Box::new(|_, call| (call == Call::Flock).then_some(Errno::OPNOTSUPP));
    let undecided = fault::with(no_flock(), || repository.left_probes());
    assert_eq!(undecided.unwrap(), left(false));
    let remove = || repository.remove_dead_probe(OsStr::new(LEFT));
    assert!(!fault::with(no_flock(), remove).unwrap());

    let owned = open(repository.path().join(LEFT));
    sys::try_flock(&owned).unwrap();
    assert_eq!(repository.left_probes().unwrap(), []);
    assert!(!remove().unwrap());
    drop(owned);
    assert!(remove().unwrap());
    assert!(!remove().unwrap());
    assert_eq!(entries(repository.path()), set(["s.session"]));

    // Nothing else is removed, by whatever name.
    assert!(
        !repository
            .remove_dead_probe(OsStr::new("s.session"))
            .unwrap()
    );
    std::os::unix::fs::symlink("s.session", repository.path().join(LEFT)).unwrap();
    assert_eq!(repository.left_probes().unwrap(), []);
    assert!(!remove().unwrap());
    assert_eq!(entries(repository.path()), set([LEFT, "s.session"]));
}

#[test]
fn a_probe_that_is_taken_for_dead_begins_elsewhere() {
    let sandbox = Sandbox::new();
    let root = sandbox.repository.path().to_owned();
    let mut taken = false;
    let plan = Box::new(move |_, call| {
        if call == Call::Flock && !std::mem::replace(&mut taken, true) {
            let repository = Repository::new(&root);
            let [left] = &repository.left_probes().unwrap()[..] else {
                panic!()
            };
            assert!(left.is_dead);
            assert!(repository.remove_dead_probe(&left.name).unwrap());
        }
        None
    });
    let answers = fault::with(plan, || sandbox.repository.probe()).unwrap();
    assert!(answers.contains(&(Feature::Rename, Answer::Yes)));
    assert_eq!(entries(sandbox.repository.path()), set(["s.session"]));
}

#[test]
fn debris_in_a_session_is_found_and_left_there() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let found = || sandbox.session.debris().unwrap();
    let owner = || found().lock.map(|lock| lock.owner());
    assert!(!found().is_no_file && found().links.is_empty());
    assert_eq!(owner(), None);
    std::fs::write(sandbox.path(".session.12.0"), "").unwrap();
    std::fs::write(sandbox.path(".session.swp"), "").unwrap();
    std::fs::write(sandbox.path("session.next"), "").unwrap();
    set_xattr(&sandbox.path("session.next"), lock::MARK, b"");
    assert_eq!(found().links, [".session.12.0"]);
    assert_eq!(owner(), Some(LockOwner::Dead));

    let owned = open(sandbox.path("session.next"));
    sys::try_flock(&owned).unwrap();
    std::fs::remove_file(sandbox.path("session")).unwrap();
    std::fs::create_dir(sandbox.path("session")).unwrap();
    assert!(found().is_no_file);
    assert_eq!(owner(), Some(LockOwner::Living));
    let there = [".session.12.0", ".session.swp", "session", "session.next"];
    assert_eq!(sandbox.entries(), set(there));
}
