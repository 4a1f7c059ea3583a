//! The operations of the storage that change something.
//!
//! The directory of a session is durable before anything is saved in it:
//! `create` syncs the repository. One that another program has made and not
//! synced is that program's to sync; ext4, xfs and btrfs make it durable with
//! the first sync of what is in it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;

use super::{ALL_WAYS, Operation, Promise, Sandbox, Ways, run};
use crate::repo::tests::{name, open, set_xattr};
use crate::repo::{Attributes, Base, Commit, Repository, Result, lock};
use crate::sys::{self, Mode, OFlags, RenameFlags, XattrFlags};

/// For operations that stage nothing.
const PLAIN: &[Ways] = &[ALL_WAYS[0]];

/// More than two blocks.
pub fn bytes(number: usize) -> Vec<u8> {
    (0..9000)
        .map(|i| (i / 16 * 7 + number * 31) as u8)
        .collect()
}

pub fn with_checkpoint() -> Sandbox {
    let sandbox = Sandbox::with_checkpoint(&bytes(1)[..5000]);
    let path = sandbox.path("session");
    set_xattr(&path, c"user.color", b"red");
    std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o640)).unwrap();
    sandbox
}

fn with_dead_lock() -> Sandbox {
    let sandbox = with_checkpoint();
    let path = sandbox.path("session.next");
    std::fs::write(&path, b"half").unwrap();
    set_xattr(&path, lock::MARK, b"");
    sandbox
}

fn with_foreign_lock() -> Sandbox {
    let sandbox = with_checkpoint();
    std::fs::write(sandbox.path("session.next"), b"foreign").unwrap();
    sandbox
}

fn with_another_session() -> Sandbox {
    let sandbox = with_checkpoint();
    let path = sandbox.repository.path().join("t.session");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("session"), &bytes(4)[..6000]).unwrap();
    sandbox
}

fn two_empty_sessions() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.repository.path().join("t.session")).unwrap();
    sandbox
}

/// A session with other files in it.
fn tree() -> Sandbox {
    let sandbox = with_checkpoint();
    std::fs::create_dir(sandbox.path("logs")).unwrap();
    std::fs::write(sandbox.path("logs/one"), b"x").unwrap();
    std::fs::write(sandbox.path("other"), b"y").unwrap();
    sandbox
}

pub fn without_repository() -> Sandbox {
    let mut sandbox = Sandbox::new();
    std::fs::remove_dir_all(sandbox.repository.path()).unwrap();
    sandbox.repository = Repository::new(sandbox.dir.path().join("a/b/repository"));
    sandbox
}

/// Writes a file as a program that does not sync does.
fn write(sandbox: &Sandbox, path: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mode = Mode::from_raw_mode(0o644);
    let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
    let dir = open(sandbox.path(dir));
    let file = sys::openat(dir, OsStr::new(name), flags, mode).unwrap();
    sys::write_at(file, &bytes(3), 0).unwrap();
}

fn nothing(_: &Sandbox) {}

fn save(sandbox: &Sandbox) -> Result<()> {
    sandbox.session.save(&bytes(2))
}

fn append(sandbox: &Sandbox) -> Result<()> {
    let base = sandbox.session.checkpoint()?;
    let how = Commit {
        base: Base::Only(base.as_ref()),
        ..Commit::default()
    };
    let mut staged = sandbox.session.stage()?;
    staged.begin(base.as_ref(), &how)?;
    if let Some(base) = &base {
        staged.copy_from(base)?;
    }
    staged.write_at(&bytes(2)[..2000], staged.len()?)?;
    staged.set_len(staged.len()? - 10)?;
    staged.set_xattr(c"user.shape", Some(b"round"), XattrFlags::empty())?;
    staged.set_attributes(&Attributes {
        mode: Some(0o600),
        ..Attributes::default()
    })?;
    staged.replace(&how)?;
    Ok(())
}

fn adopt(sandbox: &Sandbox, from: &str, flags: RenameFlags) -> Result<()> {
    let (dir, name) = from.rsplit_once('/').unwrap_or((".", from));
    sandbox
        .session
        .adopt(open(sandbox.path(dir)), OsStr::new(name), flags)
}

fn exchange_names(sandbox: &Sandbox) -> Result<()> {
    let (from, to) = (name("s"), name("t"));
    sandbox.repository.rename_by(&from, |root| {
        let flags = RenameFlags::EXCHANGE;
        sys::rename(root, from.as_os_str(), root, to.as_os_str(), flags)
    })
}

fn link(sandbox: &Sandbox, name: &str) -> Result<()> {
    let checkpoint = sandbox.session.checkpoint()?.expect("is there");
    let (dir, plain) = (sandbox.session.dir(), RenameFlags::empty());
    checkpoint.link(dir, OsStr::new(name), plain).map(drop)
}

fn exchange(sandbox: &Sandbox) -> Result<()> {
    sandbox
        .session
        .exchange(&sandbox.repository.session(&name("t"))?)
}

fn generate(sandbox: &Sandbox) -> Result<()> {
    sandbox.repository.create("pbox-").map(drop)
}

macro_rules! operations {
    ($($test:ident: $ways:expr, $setup:expr, $prepare:expr, [$($step:expr),*], $promise:ident;)*) => { $(
        #[test]
        fn $test() {
            run(&Operation {
                name: stringify!($test),
                ways: $ways,
                setup: $setup,
                prepare: &$prepare,
                steps: &[$($step),*],
                promise: Promise::$promise,
            });
        }
    )* };
}

operations! {
    first_save: &ALL_WAYS, Sandbox::new, nothing, [save], Nothing;
    save_over_a_checkpoint: &ALL_WAYS, with_checkpoint, nothing, [save], Nothing;
    two_saves: &ALL_WAYS, with_checkpoint, nothing, [save, |s| s.session.save(&bytes(5))], Nothing;
    stage_copy_and_commit: &ALL_WAYS, with_checkpoint, nothing, [append], Nothing;
    save_over_a_dead_lock: &ALL_WAYS, with_dead_lock, nothing, [save], Nothing;
    break_a_foreign_lock: PLAIN, with_foreign_lock, nothing, [|s| s.session.break_lock().map(drop)], NoLock;
    break_a_foreign_lock_and_save: &ALL_WAYS, with_foreign_lock, nothing, [|s| s.session.break_lock().map(drop), save], NoLock;
    remove_a_dead_lock: PLAIN, with_dead_lock, nothing, [|s| s.session.remove_dead_lock().map(drop)], NoLock;
    rename_to_session: PLAIN, with_checkpoint, |s| write(s, "upload"), [|s| adopt(s, "upload", RenameFlags::empty())], Nothing;
    rename_to_a_first_session: PLAIN, Sandbox::new, |s| write(s, "upload"), [|s| adopt(s, "upload", RenameFlags::NOREPLACE)], Nothing;
    rename_to_session_from_another_directory: PLAIN, tree, |s| write(s, "logs/upload"), [|s| adopt(s, "logs/upload", RenameFlags::empty())], Nothing;
    rename_to_session_over_a_dead_lock: PLAIN, with_dead_lock, |s| write(s, "upload"), [|s| adopt(s, "upload", RenameFlags::empty())], Nothing;
    exchange_with_session: PLAIN, with_checkpoint, |s| write(s, "upload"), [|s| adopt(s, "upload", RenameFlags::EXCHANGE)], Nothing;
    rename_of_a_foreign_next: PLAIN, with_checkpoint, |s| write(s, "session.next"), [|s| adopt(s, "session.next", RenameFlags::empty())], Nothing;
    adopt_lock: PLAIN, with_checkpoint, |s| write(s, "session.next"), [|s| s.session.adopt_lock()], Nothing;
    link_to_session: PLAIN, Sandbox::new, |s| write(s, "upload"), [|s| s.session.adopt_link(open(s.path("upload")))], Nothing;
    exchange_of_two_sessions: PLAIN, with_another_session, nothing, [exchange], WholeBefore;
    exchange_of_two_sessions_that_are_not_durable: PLAIN, two_empty_sessions, |s| {
        write(s, "session");
        write(s, "../t.session/session");
    }, [exchange], WholeAtTheEnd;
    remove_the_checkpoint: PLAIN, with_checkpoint, nothing, [|s| s.session.remove_checkpoint().map(drop)], Nothing;
    remove_the_checkpoint_and_save: &ALL_WAYS, with_checkpoint, nothing, [|s| s.session.remove_checkpoint().map(drop), save], Nothing;
    link_of_the_checkpoint: PLAIN, tree, nothing, [|s| link(s, "new")], NotDurable;
    link_of_the_checkpoint_over_a_file: PLAIN, tree, nothing, [|s| link(s, "other")], NotDurable;
    create: PLAIN, with_checkpoint, nothing, [generate], DurableBefore;
    create_named: PLAIN, with_checkpoint, nothing, [|s| s.repository.create_named(&name("t"), 0o755).map(drop)], DurableBefore;
    create_in_a_missing_repository: PLAIN, without_repository, nothing, [generate], DurableBefore;
    create_in_a_repository_that_is_not_durable: PLAIN, without_repository, |s| {
        let a = s.dir.path().join("a");
        sys::mkdir(open(s.dir.path()), OsStr::new("a"), Mode::from_raw_mode(0o755)).unwrap();
        sys::fsync(open(s.dir.path())).unwrap();
        sys::mkdir(open(a), OsStr::new("b"), Mode::from_raw_mode(0o755)).unwrap();
    }, [generate], Nothing;
    rename_a_session: PLAIN, with_another_session, nothing, [|s| s.repository.rename(&name("s"), &name("u"))], Nothing;
    exchange_the_names_of_sessions: PLAIN, with_another_session, nothing, [exchange_names], Nothing;
    remove_a_session: PLAIN, tree, nothing, [|s| s.repository.remove(&name("s"), |path, e| panic!("{path:?}: {e}"))], Nothing;
    probe: PLAIN, tree, nothing, [|s| s.repository.probe().map(drop)], NotDurable;
    remove_an_empty_session: PLAIN, Sandbox::new, nothing, [|s| s.repository.remove_empty(&name("s"))], Nothing;
}
