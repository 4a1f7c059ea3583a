//! Every system call of every operation fails in turn, with each errno that it may fail
//! with, or transfers less than requested (I1 to I5).

mod errnos;
mod operations;
mod teeth;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use super::{Sandbox, Ways, get_xattr, name, xattr_names};
use crate::repo::error::{Error, Kind, Result};
use crate::repo::lock;
use crate::sys::{Call, Errno, fault};

/// Everything in the repository: by path, content and attributes.
type Snapshot = BTreeMap<String, (Vec<u8>, String)>;

struct Operation {
    setup: fn() -> Sandbox,
    run: fn(&Sandbox) -> Result<Vec<u8>>,
    /// Whether it may have done a part of its work when it fails.
    partial: bool,
    /// A call that the filesystem does not have.
    lacks: Option<Call>,
    /// Faults in spite of which it may succeed, by its own rules.
    survives: fn(&Fault) -> bool,
}

/// One call of an operation, and what had happened before it.
struct Fault {
    call: Call,
    index: usize,
    /// Whether it is the first call of its kind in the run.
    first: bool,
    /// Whether the operation has made its change by then: what is left to do cannot make
    /// it fail, except the sync of the directory.
    done: bool,
    /// Whether some name has been changed by then.
    changed: bool,
    errno: Errno,
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
    if sandbox.repository.path().exists() {
        walk(sandbox.repository.path(), "", &mut all);
    }
    all
}

/// Without the lock: a dead one may be removed, whatever else happens.
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
        // The file is gone, or was never there.
        (Errno::NOENT, Call::Open | Call::Stat | Call::Unlink) => true,
        // An open file is gone with its name: then another file has the name, and is
        // looked at.
        (Errno::NOENT | Errno::STALE, Call::Reopen | Call::Fstat) => true,
        (Errno::NODATA | Errno::OPNOTSUPP, Call::GetXattr) => true,
        // Asked again, with more room for the answer.
        (Errno::RANGE, Call::GetXattr) => true,
        // Another process was faster, but has left nothing behind.
        (Errno::EXIST, Call::Link | Call::Open | Call::Mkdir) => true,
        // A filesystem that lacks something has another way.
        (Errno::OPNOTSUPP | Errno::INVAL | Errno::ISDIR, Call::OpenTmpfile) => true,
        (Errno::OPNOTSUPP, Call::SetXattr) => fault.first || fault.done,
        // The mark makes way for what is kept, which is begun anew.
        (Errno::NOSPC | Errno::TOOBIG, Call::SetXattr) => !fault.first,
        (Errno::NOSPC | Errno::TOOBIG, Call::GetXattr | Call::Chown | Call::Chmod) => true,
        // The mark, where the first attribute was not one.
        (Errno::PERM | Errno::OPNOTSUPP, Call::Chmod) => fault.first || fault.done,
        (Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK, Call::Flock) => true,
        (Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::XDEV, Call::Copy) => true,
        // One of a directory; that of a file comes before any change of a name.
        (Errno::INVAL, Call::Fsync) => fault.changed,
        // A look kept it from the lock, for a moment.
        (Errno::WOULDBLOCK, Call::Flock) => true,
        // If a hole is not known, it is copied as data.
        (_, Call::Seek) => true,
        // There are other ways to copy than FICLONE.
        (_, Call::Copy) => fault.first,
        // The mark, and what the kernel says of the new checkpoint.
        (_, Call::SetXattr | Call::Chmod | Call::Stat | Call::Fstat) => fault.done,
        _ => false,
    }
}

/// Whether a call that fails like this says that a file is not there.
fn may_lose(fault: &Fault) -> bool {
    let is_gone = match fault.call {
        Call::GetXattr => matches!(fault.errno, Errno::NODATA | Errno::OPNOTSUPP),
        Call::SetXattr => fault.errno == Errno::NODATA,
        _ => false,
    };
    let by_name = !matches!(fault.call, Call::Reopen | Call::Fstat);
    fault.errno == Errno::NOENT && by_name || is_gone
}

/// I5: whether the error has the errno of the call that failed, or one that follows from
/// it.
fn is_true(error: &Error, fault: &Fault) -> bool {
    let same = error.errno() == fault.errno.raw_os_error();
    match error.kind() {
        Kind::Os => same || is_put_differently(error, fault),
        Kind::NotDurable => fault.call == Call::Fsync && same,
        Kind::NotFound => match fault.errno {
            // No directory is no session.
            Errno::NOTDIR | Errno::LOOP => fault.call == Call::Open,
            errno => errno == Errno::NOENT,
        },
        // An open file is gone with its name.
        Kind::LockBroken if fault.errno == Errno::STALE => fault.call == Call::Fstat,
        Kind::Superseded if fault.errno == Errno::STALE => fault.call == Call::Reopen,
        Kind::LockBroken | Kind::Superseded => fault.errno == Errno::NOENT,
        Kind::Exists => match fault.errno {
            Errno::NOTEMPTY => fault.call == Call::Rename,
            errno => errno == Errno::EXIST,
        },
        Kind::Locked => match fault.errno {
            // A lock that we may not look into is not ours.
            Errno::ACCESS | Errno::PERM => matches!(fault.call, Call::Reopen | Call::GetXattr),
            // Nor one without a mark.
            Errno::NODATA => fault.call == Call::GetXattr,
            Errno::OPNOTSUPP => matches!(fault.call, Call::GetXattr | Call::Flock),
            // Without flock, the dead cannot be told from the living.
            Errno::NOSYS | Errno::NOLCK | Errno::BADF | Errno::WOULDBLOCK => {
                fault.call == Call::Flock
            }
            // It went while we looked, and yet it is there.
            Errno::NOENT => matches!(
                fault.call,
                Call::Open
                    | Call::Reopen
                    | Call::Stat
                    | Call::Fstat
                    | Call::GetXattr
                    | Call::Unlink
            ),
            Errno::STALE => matches!(fault.call, Call::Reopen | Call::Fstat | Call::GetXattr),
            Errno::EXIST => matches!(fault.call, Call::Link | Call::Open),
            _ => false,
        },
        _ => false,
    }
}

fn is_put_differently(error: &Error, fault: &Fault) -> bool {
    let errno = Errno::from_raw_os_error(error.errno());
    match (fault.call, fault.errno) {
        // What is held was there (src/sys/call.rs, `stale_if_gone`).
        (Call::Reopen | Call::Fstat, Errno::NOENT) => errno == Errno::STALE,
        // The filesystem cannot do it, for whatever reason.
        (Call::Copy, Errno::NOSYS | Errno::XDEV) => errno == Errno::OPNOTSUPP,
        // unlink(2) said that it is a directory, and then it is none.
        (Call::Open | Call::Stat | Call::Fstat | Call::ReadDir, Errno::NOTDIR) => {
            errno == Errno::ISDIR
        }
        // `remove` of these tests: there is nothing else to tell.
        (Call::Unlink, Errno::NOTEMPTY) => errno == Errno::NOENT,
        _ => false,
    }
}

/// How a call does less than requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Fails(Errno),
    /// It reads or writes this many bytes.
    Shortened(usize),
}

/// Returns the number of cases.
fn check(operation: &Operation, ways: &[Ways]) -> usize {
    let mut failures = Vec::new();
    let cases = ways
        .iter()
        .map(|&ways| check_one_way(operation, ways, &mut failures))
        .sum();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    cases
}

/// The errnos with which a call fails in this run of the tests: all of them in a full
/// run; otherwise some always, and a third of the others in turn.
pub(super) fn chosen(number: usize, call: Call) -> impl Iterator<Item = Errno> {
    let all = super::full();
    let always = [Errno::INTR, Errno::IO, Errno::NOSPC, Errno::NOENT];
    let numbered = errnos::of(call).into_iter().enumerate();
    numbered
        .filter(move |(n, errno)| all || always.contains(errno) || (n + number).is_multiple_of(3))
        .map(|(_, errno)| errno)
}

fn planned(
    operation: &Operation,
    ways: Ways,
    plan: impl FnMut(usize, Call) -> Option<Errno> + 'static,
    run: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let (lacks, mut plan) = (operation.lacks, plan);
    let plan = move |n, call| {
        let planned = plan(n, call);
        planned.or((lacks == Some(call)).then_some(Errno::OPNOTSUPP))
    };
    // The tests of crashes check what is durable.
    fault::without_syncs(Box::new(|_| true), || fault::with(ways.plan(plan), run))
}

fn check_one_way(operation: &Operation, ways: Ways, failures: &mut Vec<String>) -> usize {
    let clean = (operation.setup)();
    let before = snapshot(&clean);
    let calls = Rc::new(RefCell::new(Vec::new()));
    let log = calls.clone();
    let plan = move |_, call| {
        log.borrow_mut().push(call);
        None
    };
    let value = planned(operation, ways, plan, || (operation.run)(&clean)).unwrap();
    let after = snapshot(&clean);
    let calls = calls.take();
    assert!(!calls.is_empty());

    let rename = calls.iter().position(|&call| call == Call::Rename);
    let changes = [Call::Rename, Call::Link, Call::Unlink, Call::Mkdir];
    let change = calls.iter().position(|call| changes.contains(call));
    let mut cases = 0;
    for (k, &call) in calls.iter().enumerate() {
        let mut ways_to_fail: Vec<_> = chosen(k, call).map(How::Fails).collect();
        if matches!(call, Call::Read | Call::Write | Call::Copy) {
            ways_to_fail.extend([How::Shortened(1), How::Shortened(2)]);
        }
        if call == Call::Write {
            ways_to_fail.push(How::Shortened(0));
        }
        for how in ways_to_fail {
            let errno = match how {
                How::Fails(errno) => errno,
                // Nothing else can be told of it.
                How::Shortened(0) => Errno::IO,
                // As one that was interrupted: it goes on.
                How::Shortened(_) => Errno::INTR,
            };
            let fault = Fault {
                call,
                index: k,
                first: !calls[..k].contains(&call),
                done: rename.is_some_and(|rename| k > rename),
                changed: change.is_some_and(|change| k > change),
                errno,
            };
            if let Err(failure) =
                check_case(operation, ways, &fault, how, (&before, &after, &value))
            {
                failures.push(format!(
                    "{ways:?}: call {k} of {calls:?}: {how:?}: {failure}"
                ));
            }
            cases += 1;
        }
    }
    cases
}

macro_rules! ensure {
    ($holds:expr, $($otherwise:tt)*) => {
        if !$holds {
            return Err(format!($($otherwise)*));
        }
    };
}

fn check_case(
    operation: &Operation,
    ways: Ways,
    fault: &Fault,
    how: How,
    (before, after, value): (&Snapshot, &Snapshot, &[u8]),
) -> std::result::Result<(), String> {
    let sandbox = (operation.setup)();
    let descriptors = sandbox.descriptors();
    let (hit, k) = (Rc::new(Cell::new(false)), fault.index);
    let mark = hit.clone();
    let plan = move |n, _| {
        if n != k {
            return None;
        }
        mark.set(true);
        match how {
            How::Fails(errno) => Some(errno),
            How::Shortened(bytes) => {
                fault::shorten(bytes);
                None
            }
        }
    };
    let result = planned(operation, ways, plan, || (operation.run)(&sandbox));
    ensure!(hit.get(), "was never asked");

    let now = snapshot(&sandbox);
    match &result {
        Ok(got) => {
            ensure!(
                may_be_survived(fault) || (operation.survives)(fault),
                "nobody is told"
            );
            if fault.errno == Errno::INTR {
                ensure!(
                    (&now, &**got) == (after, value),
                    "is not made again: {now:?}"
                );
            } else if may_lose(fault) {
                // What could not be found could not be kept or removed.
                let now = without_lock(now.clone());
                let is_known = |(path, content): (&&str, &&[u8])| {
                    let all = [contents(before), contents(after)];
                    all.iter().any(|known| known.get(path) == Some(content))
                };
                ensure!(contents(&now).iter().all(is_known), "{now:?}");
            } else {
                let is_as =
                    |other: &Snapshot| without_lock(now.clone()) == without_lock(other.clone());
                // Its result may say that it has done nothing.
                let tells = got != value && (operation.partial || is_as(before));
                ensure!(
                    is_as(after) || tells,
                    "succeeds with {now:?}, not {after:?}"
                );
            }
        }
        Err(error) => {
            ensure!(is_true(error, fault), "it is no {error:?}");
            if error.kind() == Kind::NotDurable {
                ensure!(&now == after, "not durable with {now:?}");
            } else if !operation.partial {
                let (now, before) = (without_lock(now.clone()), without_lock(before.clone()));
                ensure!(now == before, "{error:?} with {now:?}, not {before:?}");
            }
        }
    }
    let was_there = before.contains_key("/s.session/session.next");
    let is_there = now.contains_key("/s.session/session.next");
    // A lock that could not be removed is a dead one, which the next save removes.
    let may_stay = matches!(fault.call, Call::Stat | Call::Fstat | Call::Unlink)
        && (fault.changed || (operation.survives)(fault));
    ensure!(was_there || !is_there || may_stay, "a lock is left behind");
    // The repository stays open, once there is one.
    let opened = usize::from(before.is_empty());
    let is_now = sandbox.descriptors();
    ensure!(
        (descriptors..=descriptors + opened).contains(&is_now),
        "a descriptor leaks"
    );

    let save = |session: &crate::repo::Session| {
        fault::without_syncs(Box::new(|_| true), || session.save(b"afterwards"))
    };
    if let Ok(session) = sandbox.repository.session(&name("s")) {
        let next = sandbox.path("session.next");
        let is_marked = || {
            let by_bit = next
                .metadata()
                .is_ok_and(|stat| stat.mode() & lock::MARK_BIT != 0);
            by_bit || get_xattr(&next, lock::MARK).is_some()
        };
        if was_there && is_there && !is_marked() {
            session.break_lock().map_err(|e| e.to_string())?;
        }
        save(&session).map_err(|e| format!("the next save: {e}"))?;
        ensure!(session.load().unwrap() == b"afterwards", "the next save");
        ensure!(!next.exists(), "a lock after the next save");
    }
    Ok(())
}
