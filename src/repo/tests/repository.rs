//! The rules of DESIGN section 1.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Sandbox, entries, mkfifo, name, set};
use crate::repo::{Kind, Repository};
use crate::sys::{self, Call, Errno, Mode, RenameFlags, fault};

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
    // link, a and b for their new entries, c for the session, and the directory of link:
    // the process that made that may not have synced it.
    assert_eq!(syncs.get(), 5);
    // What is known to be durable is not synced again.
    let count = syncs.clone();
    let plan = Box::new(move |_, call| {
        count.set(count.get() + usize::from(call == Call::Fsync));
        None
    });
    fault::with(plan, || repository.create("pbox-").unwrap());
    assert_eq!(syncs.get(), 6);
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

fn ids(repository: &Repository) -> Vec<OsString> {
    let list = repository.list().unwrap();
    list.iter().map(|e| e.name.id().to_owned()).collect()
}

/// Sets the mtime, so that the test need not wait for the clock.
fn age(path: &Path, seconds: u32) {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(10_000, seconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Section 1, enumerate: what is a session and what is none.
#[test]
fn list_finds_real_directories_only() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::new(dir.path());
    let long = OsString::from("x".repeat(247));
    let wanted = [
        OsString::from("plain"),
        OsString::from("two\nlines"),
        OsString::from_vec(b"\xff\xfe".to_vec()),
        long,
    ];
    for id in &wanted {
        std::fs::create_dir(dir.path().join(name(id).as_os_str())).unwrap();
    }
    for other in [".hidden.session", "directory", ".session", "a.session.bak"] {
        std::fs::create_dir(dir.path().join(other)).unwrap();
    }
    std::fs::write(dir.path().join("file.session"), "").unwrap();
    std::os::unix::fs::symlink("plain.session", dir.path().join("link.session")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling.session")).unwrap();
    mkfifo(&dir.path().join("fifo.session"));
    let found: BTreeSet<_> = ids(&repository).into_iter().collect();
    assert_eq!(found, wanted.into_iter().collect());
    for none in ["link", "dangling", "file", "fifo", "absent"] {
        let error = repository.session(&name(none)).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{none}");
        assert!(repository.remove(&name(none), |_, _| {}).is_err(), "{none}");
    }
    assert!(dir.path().join("plain.session").is_dir());
    assert!(dir.path().join("file.session").exists());
}

/// Section 1, enumerate: youngest first, among 10,000, to the nanosecond.
#[test]
fn list_orders_10000_sessions_by_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::new(dir.path());
    // Neither the order of making nor that of the names: 7919 is a prime.
    let time = |n: u32| n * 7919 % 10_000;
    for n in 0..10_000 {
        let path = dir.path().join(format!("{n}.session"));
        std::fs::create_dir(&path).unwrap();
        age(&path, time(n));
    }
    let mut wanted: Vec<u32> = (0..10_000).collect();
    wanted.sort_by_key(|&n| std::cmp::Reverse(time(n)));
    let wanted: Vec<_> = wanted
        .iter()
        .map(|n| OsString::from(n.to_string()))
        .collect();
    assert_eq!(ids(&repository), wanted);
}

/// Section 1, enumerate: what vanishes meanwhile is left out, not an error.
#[test]
fn list_leaves_out_what_vanishes_meanwhile() {
    let sandbox = Sandbox::new();
    sandbox
        .repository
        .create_named(&name("gone"), 0o755)
        .unwrap();
    let gone = sandbox.repository.path().join("gone.session");
    let mut read = false;
    let plan = Box::new(move |_, call| {
        read |= call == Call::ReadDir;
        if read && call == Call::Stat {
            let _ = std::fs::remove_dir(&gone);
        }
        None
    });
    let list = fault::with(plan, || ids(&sandbox.repository));
    assert_eq!(list, ["s"]);
}

/// Section 1: a missing repository is an empty list; if it is removed and made again
/// while it is open, the new one is used.
#[test]
fn a_repository_may_go_and_come_back() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let path = sandbox.repository.path().to_owned();
    assert_eq!(ids(&sandbox.repository), ["s"]);
    std::fs::remove_dir_all(&path).unwrap();
    assert!(ids(&sandbox.repository).is_empty());
    let error = sandbox.repository.session(&name("s")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    sandbox.session.save(b"nowhere").unwrap_err();

    std::fs::create_dir_all(path.join("t.session")).unwrap();
    assert_eq!(ids(&sandbox.repository), ["t"]);
    std::fs::remove_dir_all(&path).unwrap();
    sandbox.repository.create_named(&name("u"), 0o755).unwrap();
    assert_eq!(ids(&sandbox.repository), ["u"]);

    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    let error = sandbox.repository.list().unwrap_err();
    assert_eq!(error.errno(), Errno::NOTDIR.raw_os_error());
}

/// Section 1, create: the slug, the time, and a number if that is taken.
#[test]
fn create_numbers_the_sessions_of_one_second() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::new(dir.path());
    let mut made = BTreeSet::new();
    for _ in 0..300 {
        let session = repository.create("my run-").unwrap();
        assert!(made.insert(session.name().clone()), "made twice");
    }
    for name in &made {
        let id = name.id().to_str().unwrap();
        let (first, number) = id.split_once("_(").unwrap_or((id, ""));
        assert!(first.starts_with("my_run-2"), "{id}");
        // Each number has its predecessor.
        if let Some(number) = number.strip_suffix(')') {
            let before = match number.parse::<u32>().unwrap() {
                1 => first.to_owned(),
                n => format!("{first}_({})", n - 1),
            };
            assert!(made.contains(&self::name(before)), "{id}");
        }
    }
    assert!(
        made.len() > 250
            && made
                .iter()
                .any(|n| n.id().to_str().unwrap().ends_with("_(2)"))
    );
    assert_eq!(
        repository.create(".x").unwrap_err().kind(),
        Kind::InvalidName
    );
    let error = repository.create_named(made.first().unwrap(), 0o755);
    assert_eq!(error.unwrap_err().kind(), Kind::Exists);
}

/// Section 1, create: two creators never share a session.
#[test]
fn eight_creators_at_once_never_share_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not/there/yet");
    let start = std::sync::Barrier::new(8);
    let create = || {
        let repository = Repository::new(&path);
        start.wait();
        let names = (0..25).map(|_| repository.create("pbox-").unwrap().name().clone());
        names.collect::<Vec<_>>()
    };
    let names: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (200, 200));
    assert_eq!(Repository::new(&path).list().unwrap().len(), 200);
}

/// Section 1, remove: symlinks are removed, never followed.
#[test]
fn remove_does_not_touch_what_symlinks_point_to() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let outside = sandbox.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "alive").unwrap();
    let inside = sandbox.path("a/b");
    std::fs::create_dir_all(&inside).unwrap();
    for (target, link) in [
        ("", "directory"),
        ("canary", "file"),
        ("nowhere", "dangling"),
    ] {
        std::os::unix::fs::symlink(outside.join(target), inside.join(link)).unwrap();
    }
    std::fs::hard_link(outside.join("canary"), inside.join("hard")).unwrap();
    mkfifo(&inside.join("fifo"));
    let unexpected = |path, error| panic!("{path:?}: {error}");
    sandbox.repository.remove(&name("s"), unexpected).unwrap();
    assert_eq!(std::fs::read(outside.join("canary")).unwrap(), b"alive");
    assert_eq!(entries(&outside), set(["canary"]));
    assert!(entries(sandbox.repository.path()).is_empty());
}

/// Section 1, remove: what cannot be removed is warned about once, by its
/// path, and the rest still goes.
#[test]
fn remove_warns_of_what_stays_and_removes_the_rest() {
    for refused in [Errno::PERM, Errno::ACCESS, Errno::BUSY, Errno::IO] {
        let sandbox = Sandbox::with_checkpoint(b"old");
        std::fs::create_dir_all(sandbox.path("a/b")).unwrap();
        for file in ["a/b/stays", "goes", "goes too"] {
            std::fs::write(sandbox.path(file), "").unwrap();
        }
        // The first removal after the listing of s, of a and then of b.
        let (mut listed, mut listing) = (0, false);
        let plan = Box::new(move |_, call| {
            let first = call == Call::Unlink && std::mem::take(&mut listing);
            listing |= call == Call::ReadDir;
            listed += usize::from(first);
            (first && listed == 3).then_some(refused)
        });
        let mut warned = Vec::new();
        let error = fault::with(plan, || {
            let warn = |path, error: std::io::Error| warned.push((path, error.raw_os_error()));
            sandbox.repository.remove(&name("s"), warn).unwrap_err()
        });
        assert_eq!(error.errno(), Errno::NOTEMPTY.raw_os_error(), "{refused:?}");
        let stays = ("a/b/stays".into(), Some(refused.raw_os_error()));
        assert_eq!(warned, [stays]);
        assert_eq!(entries(&sandbox.path("")), set(["a"]));
        assert_eq!(entries(&sandbox.path("a/b")), set(["stays"]));
    }
}

/// The session itself has no path below itself.
#[test]
fn remove_warns_of_the_session_that_stays() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let mut removals = 0;
    // The second: of the directory, when nothing is in it any more.
    let plan = Box::new(move |_, call| {
        removals += usize::from(call == Call::Unlink);
        (call == Call::Unlink && removals == 2).then_some(Errno::ACCESS)
    });
    let mut warned = Vec::new();
    let result = fault::with(plan, || {
        let warn = |path, error: std::io::Error| warned.push((path, error.raw_os_error()));
        sandbox.repository.remove(&name("s"), warn)
    });
    assert!(result.is_err());
    let refused = Some(Errno::ACCESS.raw_os_error());
    assert_eq!(warned, [(PathBuf::new(), refused)]);
    assert_eq!(sandbox.entries(), set([]));
}

/// The same with a directory that the kernel itself keeps as it is.
#[test]
fn remove_warns_of_all_that_an_immutable_directory_keeps() {
    use rustix::fs::IFlags;
    let sandbox = Sandbox::with_checkpoint(b"old");
    let kept = sandbox.path("kept");
    std::fs::create_dir_all(kept.join("directory")).unwrap();
    std::fs::write(kept.join("file"), "").unwrap();
    std::fs::write(sandbox.path("goes"), "").unwrap();
    std::os::unix::fs::symlink("file", kept.join("symlink")).unwrap();
    let dir = File::open(&kept).unwrap();
    let flags = rustix::fs::ioctl_getflags(&dir).unwrap();
    rustix::fs::ioctl_setflags(&dir, flags | IFlags::IMMUTABLE)
        .expect("this test wants CAP_LINUX_IMMUTABLE and a filesystem with chattr");
    let mut warned = BTreeSet::new();
    let warn = |path: PathBuf, error: std::io::Error| {
        warned.insert((path, error.raw_os_error()));
    };
    let result = sandbox.repository.remove(&name("s"), warn);
    rustix::fs::ioctl_setflags(&dir, flags).unwrap();
    assert!(result.is_err());
    let all = ["kept", "kept/directory", "kept/file", "kept/symlink"];
    let refused = Some(Errno::PERM.raw_os_error());
    assert_eq!(warned, all.map(|path| (path.into(), refused)).into());
    assert_eq!(sandbox.entries(), set(["kept"]));
    sandbox
        .repository
        .remove(&name("s"), |path, error| panic!("{path:?}: {error}"))
        .unwrap();
}

/// 2.13 and section 1: a rename moves the session, and replaces only an empty one; a
/// process that has it open still has the same one.
#[test]
fn rename_moves_a_session_and_replaces_only_an_empty_one() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let rename = |from, to| sandbox.repository.rename(&name(from), &name(to));
    rename("s", "t").unwrap();
    assert_eq!(ids(&sandbox.repository), ["t"]);
    sandbox.session.save(b"new").unwrap();
    let moved = sandbox.repository.session(&name("t")).unwrap();
    assert_eq!(moved.load().unwrap(), b"new");
    assert_eq!(rename("s", "u").unwrap_err().kind(), Kind::NotFound);

    let full = sandbox
        .repository
        .create_named(&name("full"), 0o755)
        .unwrap();
    full.save(b"full").unwrap();
    assert_eq!(rename("t", "full").unwrap_err().kind(), Kind::Exists);
    sandbox
        .repository
        .create_named(&name("empty"), 0o755)
        .unwrap();
    rename("t", "empty").unwrap();
    let (from, to) = (name("empty"), name("full"));
    let taken = sandbox.repository.rename_by(&from, |root| {
        let flags = RenameFlags::NOREPLACE;
        sys::rename(root, from.as_os_str(), root, to.as_os_str(), flags)
    });
    assert_eq!(taken.unwrap_err().kind(), Kind::Exists);
    assert_eq!(full.load().unwrap(), b"full");
}

#[test]
fn remove_empty_refuses_a_session_with_anything_in_it() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let remove = || sandbox.repository.remove_empty(&name("s"));
    assert_eq!(
        remove().unwrap_err().errno(),
        Errno::NOTEMPTY.raw_os_error()
    );
    assert!(sandbox.session.remove_checkpoint().unwrap());
    assert!(!sandbox.session.remove_checkpoint().unwrap());
    assert!(sandbox.session.load().unwrap().is_empty());
    remove().unwrap();
    assert_eq!(remove().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_repository_without_a_path_is_an_error() {
    let error = Repository::new("").create("pbox-").unwrap_err();
    assert_eq!(error.errno(), Errno::NOENT.raw_os_error());
}

/// An error says on which path, in one line, and so does the [`std::io::Error`] that
/// is made of it.
#[test]
fn errors_name_the_path() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("session")).unwrap();
    let session = sandbox.repository.path().join("s.session");
    for error in [
        sandbox.session.load().unwrap_err(),
        sandbox.session.checkpoint().unwrap_err(),
        sandbox.session.save(b"new").unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::NotAFile);
        assert_eq!(error.path(), Some(session.clone()));
        let text = error.to_string();
        assert_eq!(
            text,
            format!("{}: session is not a regular file", session.display())
        );
        let error = std::io::Error::from(error);
        assert_eq!(error.kind(), std::io::ErrorKind::IsADirectory);
        assert_eq!(error.to_string(), text);
    }
    let missing = sandbox.repository.session(&name("t")).unwrap_err();
    let missing = std::io::Error::from(missing);
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);

    // A checkpoint knows whose it is.
    let sandbox = Sandbox::with_checkpoint(b"old");
    let checkpoint = sandbox.session.checkpoint().unwrap().unwrap();
    let denied = |_, call| (call == Call::Reopen).then_some(Errno::ACCESS);
    let error = fault::with(Box::new(denied), || checkpoint.read()).unwrap_err();
    assert_eq!(error.path(), Some(sandbox.path("").components().collect()));

    // Where there is no session, the repository is named.
    let file = sandbox.path("session");
    let other = Repository::new(&file);
    for error in [
        other.list().unwrap_err(),
        other.probe().unwrap_err(),
        other.left_probes().unwrap_err(),
        other.create("x-").unwrap_err(),
    ] {
        assert_eq!(error.path(), Some(file.clone()));
    }
    let missing = Repository::new(sandbox.path("none"));
    let error = missing.probe().unwrap_err();
    assert_eq!(error.path().as_deref(), Some(missing.path()));
}
