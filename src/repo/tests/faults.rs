//! Every system call of every operation fails in turn (I1, I4, I5).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use super::{ALL_WAYS, Sandbox, Ways, get_xattr, name, set_xattr, xattr_names};
use crate::repo::error::{During, Error, Kind, Result};
use crate::repo::{Attributes, Base, Commit, lock};
use crate::sys::{self, Call, Errno, RenameFlags, fault};

/// Everything in the repository: by path, content and attributes.
type Snapshot = BTreeMap<String, (Vec<u8>, String)>;

struct Operation {
    setup: fn() -> Sandbox,
    run: fn(&Sandbox) -> Result<Vec<u8>>,
    /// Whether it may have done a part when it fails.
    partial: bool,
    /// What it may answer well in spite of, by its own rules.
    survives: fn(&Fault) -> bool,
}

/// What one call of an operation was, and what became of the ones before it.
struct Fault {
    call: Call,
    index: usize,
    /// The first such call of the run.
    first: bool,
    /// The operation has changed what it is about by then: what is left to
    /// do cannot make it fail any more, but for the sync of the directory.
    done: bool,
    /// Some name has been changed by then.
    changed: bool,
    errno: Errno,
}

const COMMON: [Errno; 5] = [
    Errno::IO,
    Errno::NOSPC,
    Errno::ACCESS,
    Errno::MFILE,
    Errno::INTR,
];

fn errnos(call: Call) -> Vec<Errno> {
    let own: &[Errno] = match call {
        Call::Open => &[Errno::NOENT, Errno::EXIST],
        Call::OpenTmpfile | Call::Stat => &[Errno::NOENT],
        Call::Link | Call::Mkdir => &[Errno::NOENT, Errno::EXIST],
        Call::Rename | Call::Unlink => &[Errno::NOENT, Errno::BUSY],
        _ => &[],
    };
    [&COMMON, own].concat()
}

fn snapshot(sandbox: &Sandbox) -> Snapshot {
    fn walk(dir: &Path, at: &str, into: &mut Snapshot) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let mut name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if at.is_empty() && name.starts_with("pbox-") {
                // The one that `create` named by the time.
                name = "pbox-.session".to_owned();
            }
            let name = format!("{at}/{name}");
            let stat = path.symlink_metadata().unwrap();
            if stat.is_dir() {
                into.insert(name.clone(), (Vec::new(), "directory".to_owned()));
                walk(&path, &name, into);
                continue;
            }
            // The mark is without meaning on a checkpoint.
            let names = xattr_names(&path);
            let attributes = names.iter().filter(|&n| n.as_c_str() != lock::MARK);
            let attributes: Vec<_> = attributes.map(|n| (n, get_xattr(&path, n))).collect();
            let mode = stat.mode() & !lock::MARK_BIT;
            let rest = format!("{mode:o} {}:{} {attributes:?}", stat.uid(), stat.gid());
            into.insert(name, (std::fs::read(&path).unwrap(), rest));
        }
    }
    let mut all = Snapshot::new();
    walk(sandbox.repository.path(), "", &mut all);
    all
}

/// Without the lock: one that is dead may go, whatever comes of the rest.
fn without_lock(mut all: Snapshot) -> Snapshot {
    all.retain(|path, _| !path.ends_with("/session.next"));
    all
}

fn contents(all: &Snapshot) -> BTreeMap<&str, &[u8]> {
    let content = all.iter().map(|(path, (bytes, _))| (&**path, &**bytes));
    content.collect()
}

/// Whether the operation may succeed although this call failed.
fn may_be_survived(fault: &Fault) -> bool {
    match (fault.errno, fault.call) {
        (Errno::INTR, _) => true,
        // What is gone is gone, or was never there.
        (Errno::NOENT, Call::Open | Call::Stat | Call::Unlink) => true,
        // Somebody was faster, but has left nothing.
        (Errno::EXIST, Call::Link | Call::Open | Call::Mkdir) => true,
        // There are other ways to copy than FICLONE.
        (_, Call::Copy) => fault.first,
        // The mark, and what the kernel says of the new checkpoint.
        (_, Call::SetXattr | Call::Chmod | Call::Stat) => fault.done,
        _ => false,
    }
}

/// I5: the errno of the call that failed, or what follows from it.
fn is_true(error: &Error, fault: &Fault) -> bool {
    match error.kind() {
        Kind::Os => error.errno() == fault.errno.raw_os_error(),
        Kind::NotDurable => {
            fault.call == Call::Fsync && error.errno() == fault.errno.raw_os_error()
        }
        Kind::NotFound | Kind::LockBroken | Kind::Superseded => fault.errno == Errno::NOENT,
        Kind::Exists => fault.errno == Errno::EXIST,
        Kind::Locked => match fault.errno {
            // A lock that we may not look into is not ours.
            Errno::ACCESS => matches!(fault.call, Call::Open | Call::GetXattr),
            // It went while we looked, and yet it is there.
            Errno::NOENT => matches!(fault.call, Call::Open | Call::Stat | Call::Unlink),
            Errno::EXIST => matches!(fault.call, Call::Link | Call::Open),
            _ => false,
        },
        _ => false,
    }
}

/// Answers the number of cases.
fn check(operation: &Operation, ways: &[Ways]) -> usize {
    ways.iter()
        .map(|&ways| check_one_way(operation, ways))
        .sum()
}

fn check_one_way(operation: &Operation, ways: Ways) -> usize {
    let clean = (operation.setup)();
    let before = snapshot(&clean);
    let calls = Rc::new(RefCell::new(Vec::new()));
    let log = calls.clone();
    let plan = ways.plan(move |_, call| {
        log.borrow_mut().push(call);
        None
    });
    let value = fault::with(plan, || (operation.run)(&clean)).unwrap();
    let after = snapshot(&clean);
    let calls = calls.take();
    assert!(!calls.is_empty());

    let rename = calls.iter().position(|&call| call == Call::Rename);
    let changes = [Call::Rename, Call::Link, Call::Unlink];
    let change = calls.iter().position(|call| changes.contains(call));
    let mut cases = 0;
    for (k, &call) in calls.iter().enumerate() {
        for errno in errnos(call) {
            let fault = Fault {
                call,
                index: k,
                first: !calls[..k].contains(&call),
                done: rename.is_some_and(|rename| k > rename),
                changed: change.is_some_and(|change| k > change),
                errno,
            };
            let what = format!("{ways:?}: call {k} of {calls:?} fails with {errno:?}");
            check_case(operation, ways, k, &fault, (&before, &after, &value), &what);
            cases += 1;
        }
    }
    cases
}

fn check_case(
    operation: &Operation,
    ways: Ways,
    k: usize,
    fault: &Fault,
    (before, after, value): (&Snapshot, &Snapshot, &[u8]),
    what: &str,
) {
    let sandbox = (operation.setup)();
    let descriptors = sandbox.descriptors();
    let (hit, errno) = (Rc::new(Cell::new(false)), fault.errno);
    let mark = hit.clone();
    let plan = ways.plan(move |n, _| (n == k).then(|| mark.set(true)).map(|()| errno));
    let result = fault::with(plan, || (operation.run)(&sandbox));
    assert!(hit.get(), "{what}: was never asked");

    let now = snapshot(&sandbox);
    match &result {
        Ok(got) => {
            assert!(
                may_be_survived(fault) || (operation.survives)(fault),
                "{what}: and nobody is told"
            );
            if fault.errno == Errno::INTR {
                assert_eq!((&now, &**got), (after, value), "{what}");
            } else if fault.errno == Errno::NOENT {
                // What could not be found could not be kept or removed.
                let now = without_lock(now.clone());
                let is_known = |(path, content): (&&str, &&[u8])| {
                    let all = [contents(before), contents(after)];
                    all.iter().any(|known| known.get(path) == Some(content))
                };
                assert!(contents(&now).iter().all(is_known), "{what}: {now:?}");
            } else {
                let (now, after) = (without_lock(now.clone()), without_lock(after.clone()));
                assert_eq!(now, after, "{what}");
            }
        }
        Err(error) => {
            assert!(is_true(error, fault), "{what}: {error:?}");
            if error.kind() == Kind::NotDurable {
                assert_eq!(&now, after, "{what}");
            } else if !operation.partial {
                let (now, before) = (without_lock(now.clone()), without_lock(before.clone()));
                assert_eq!(now, before, "{what}: {error:?}");
            }
        }
    }
    let was_there = before.contains_key("/s.session/session.next");
    let is_there = now.contains_key("/s.session/session.next");
    // A lock that could not be removed is a dead one: the next save's to heal.
    let may_stay = fault.changed && matches!(fault.call, Call::Stat | Call::Unlink);
    assert!(
        was_there || !is_there || may_stay,
        "{what}: a lock is left behind"
    );
    assert_eq!(
        sandbox.descriptors(),
        descriptors,
        "{what}: a descriptor leaks"
    );

    if let Ok(session) = sandbox.repository.session(&name("s")) {
        if was_there && is_there && get_xattr(&sandbox.path("session.next"), lock::MARK).is_none() {
            session.break_lock().expect(what);
        }
        session.save(b"afterwards").expect(what);
        assert_eq!(session.load().unwrap(), b"afterwards", "{what}");
        assert!(!sandbox.path("session.next").exists(), "{what}");
    }
}

fn with_checkpoint() -> Sandbox {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let path = sandbox.path("session");
    set_xattr(&path, c"user.color", b"red");
    std::os::unix::fs::chown(path, Some(7), Some(8)).unwrap();
    sandbox.repository.root().unwrap();
    sandbox
}

fn with_dead_lock() -> Sandbox {
    let sandbox = with_checkpoint();
    std::fs::write(sandbox.path("session.next"), b"half").unwrap();
    set_xattr(&sandbox.path("session.next"), lock::MARK, b"");
    sandbox
}

fn append(sandbox: &Sandbox) -> Result<Vec<u8>> {
    let base = sandbox.session.checkpoint()?;
    let staged = sandbox.session.stage()?;
    if let Some(base) = &base {
        staged.copy_from(base)?;
    }
    staged.write_at(b" and new", staged.len()?)?;
    staged.set_len(staged.len()? - 1)?;
    let attributes = Attributes {
        mode: Some(0o640),
        xattrs: vec![(c"user.shape".into(), Some(b"round".to_vec()))],
        ..Attributes::default()
    };
    let base = Base::Only(base.as_ref());
    let new = staged.commit(&Commit {
        base,
        attributes,
        ..Commit::default()
    })?;
    Ok(new.len().to_string().into_bytes())
}

fn ranges(sandbox: &Sandbox) -> Result<Vec<u8>> {
    let base = sandbox.session.checkpoint()?;
    let staged = sandbox.session.stage()?;
    if let Some(base) = &base {
        assert_eq!(staged.copy_range((base.open()?, 1), 2, 9)?, 2);
    }
    staged.allocate(0, 0, 8192)?;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    staged.allocate(punch, 3, 8189)?;
    let mut content = vec![0; 8192];
    sys::read_at(staged.reader()?, &mut content, 0).during("read")?;
    let base = Base::Only(base.as_ref());
    staged.commit(&Commit {
        base,
        ..Commit::default()
    })?;
    assert_eq!(content[..4], *b"\0\0l\0");
    Ok(content)
}

fn nothing<T>(result: Result<T>) -> Result<Vec<u8>> {
    result.map(|_| Vec::new())
}

/// One test for each operation: they run side by side.
macro_rules! operations {
    ($($name:ident, $ways:expr, $partial:literal, $setup:expr, $run:expr;)*) => { $(
        #[test]
        fn $name() {
            let operation = Operation {
                setup: $setup,
                run: $run,
                partial: $partial,
                survives: survives(stringify!($name)),
            };
            let cases = check(&operation, &$ways);
            println!("{}: {cases} cases", stringify!($name));
        }
    )* };
}

/// For operations that stage nothing.
const PLAIN: [Ways; 1] = [ALL_WAYS[0]];

operations! {
    i1_i5_save_over_a_checkpoint, ALL_WAYS, false, with_checkpoint, |s| nothing(s.session.save(b"new"));
    i1_i5_first_save, ALL_WAYS, false, Sandbox::new, |s| nothing(s.session.save(b"new"));
    i4_save_over_a_dead_lock, ALL_WAYS, false, with_dead_lock, |s| nothing(s.session.save(b"new"));
    i1_i5_stage_copy_and_commit, ALL_WAYS, false, with_checkpoint, append;
    i1_i5_first_commit, ALL_WAYS, false, Sandbox::new, append;
    i1_i5_ranges_and_commit, ALL_WAYS, false, with_checkpoint, ranges;
    i5_create, PLAIN, false, with_checkpoint, |s| nothing(s.repository.create("pbox-"));
    i5_create_named, PLAIN, false, with_checkpoint, |s| nothing(s.repository.create_named(&name("t"), 0o755));
    i5_list, PLAIN, false, with_checkpoint, |s| {
        let list = s.repository.list()?;
        Ok(format!("{:?}", list.iter().map(|e| &e.name).collect::<Vec<_>>()).into_bytes())
    };
    i5_load, PLAIN, false, with_checkpoint, |s| s.session.load();
    i5_rename, PLAIN, false, with_checkpoint, |s| {
        nothing(s.repository.rename(&name("s"), &name("t"), RenameFlags::empty()))
    };
    i5_remove, PLAIN, true, tree, remove;
    i5_remove_empty, PLAIN, false, Sandbox::new, |s| nothing(s.repository.remove_empty(&name("s")));
    i5_break_lock, PLAIN, false, with_dead_lock, |s| nothing(s.session.break_lock());
    i5_is_locked, PLAIN, false, with_dead_lock, |s| Ok(s.session.is_locked()?.to_string().into_bytes());
    i1_i5_adopt, PLAIN, false, || {
        let sandbox = with_checkpoint();
        std::fs::write(sandbox.path("upload"), b"new").unwrap();
        sandbox
    }, |s| nothing(s.session.adopt(s.session.dir(), "upload".as_ref(), RenameFlags::empty()));
    i1_i5_adopt_session_next, PLAIN, false, || {
        let sandbox = with_checkpoint();
        std::fs::write(sandbox.path("session.next"), b"new").unwrap();
        sandbox
    }, |s| nothing(s.session.adopt(s.session.dir(), "session.next".as_ref(), RenameFlags::empty()));
    i1_i5_adopt_in_exchange, PLAIN, false, || {
        let sandbox = with_checkpoint();
        std::fs::write(sandbox.path("upload"), b"new").unwrap();
        sandbox
    }, |s| nothing(s.session.adopt(s.session.dir(), "upload".as_ref(), RenameFlags::EXCHANGE));
    i1_i5_adopt_a_link, PLAIN, false, || {
        let sandbox = Sandbox::new();
        std::fs::write(sandbox.path("upload"), b"new").unwrap();
        sandbox
    }, |s| nothing(s.session.adopt_link(super::open(s.path("upload"))));
    i1_i5_exchange, PLAIN, false, || {
        let sandbox = with_checkpoint();
        sandbox.repository.create_named(&name("t"), 0o755).unwrap().save(b"other").unwrap();
        sandbox
    }, |s| nothing(s.session.exchange(&s.repository.session(&name("t"))?));
    i5_remove_checkpoint, PLAIN, false, with_checkpoint, |s| nothing(s.session.remove_checkpoint());
    i5_set_attributes, PLAIN, true, with_checkpoint, |s| {
        let Some(checkpoint) = s.session.checkpoint()? else {
            return Err(Error::new(Kind::NotFound, "test", Errno::NOENT));
        };
        let attributes = Attributes {
            mode: Some(0o600),
            uid: Some(1),
            gid: Some(2),
            xattrs: vec![(c"user.color".into(), None), (c"user.a".into(), Some(vec![1]))],
            ..Attributes::default()
        };
        nothing(s.session.set_attributes(&checkpoint, &attributes))
    };
}

fn survives(operation: &str) -> fn(&Fault) -> bool {
    match operation {
        // A session that cannot be looked at is left out; the repository is
        // looked at first.
        "i5_list" => |fault| fault.call == Call::Stat && fault.index > 2,
        // A lock that we may not look into is not ours.
        "i5_is_locked" => |fault| {
            fault.errno == Errno::ACCESS
                && matches!(fault.call, Call::GetXattr | Call::Open)
                && fault.index > 0
        },
        // A lock that may not be opened for writing is opened for reading.
        "i4_save_over_a_dead_lock" => {
            |fault| fault.errno == Errno::ACCESS && fault.call == Call::Open
        }
        // On a full disk it does without the lock. What fails after the rename
        // is the removal of the lock, which is dead then.
        "i1_i5_adopt"
        | "i1_i5_adopt_in_exchange"
        | "i1_i5_adopt_a_link"
        | "i1_i5_exchange"
        | "i5_remove_checkpoint" => |fault| match fault.call {
            Call::Stat | Call::Unlink if fault.changed => true,
            Call::Open | Call::Flock | Call::Stat => {
                [Errno::NOSPC, Errno::DQUOT].contains(&fault.errno)
            }
            _ => false,
        },
        // Without a mark that can be read it is a foreign one.
        "i1_i5_adopt_session_next" => {
            |fault| fault.errno == Errno::ACCESS && fault.call == Call::GetXattr
        }
        _ => |_| false,
    }
}

fn tree() -> Sandbox {
    let sandbox = with_checkpoint();
    std::fs::create_dir_all(sandbox.path("a/b")).unwrap();
    std::fs::write(sandbox.path("a/b/file"), b"x").unwrap();
    sandbox
}

/// The error that `remove` tells of first, as one of its own.
fn remove(sandbox: &Sandbox) -> Result<Vec<u8>> {
    let mut first = None;
    let result = sandbox.repository.remove(&name("s"), |_, error| {
        first.get_or_insert(sys::errno_of(&error));
    });
    match (result, first) {
        (Err(error), Some(errno)) if error.errno() == Errno::NOTEMPTY.raw_os_error() => {
            Err(Error::new(Kind::Os, "remove", errno))
        }
        // Told to be gone by the fault: then its directory is not empty.
        (Err(error), None) if error.errno() == Errno::NOTEMPTY.raw_os_error() => {
            Err(Error::new(Kind::Os, "remove", Errno::NOENT))
        }
        (result, _) => nothing(result),
    }
}
