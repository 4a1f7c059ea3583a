//! The operations of the storage, each of whose calls is made to fail.

use super::{Fault, Operation, check};
use crate::repo::error::{During, Error, Kind, Result};
use crate::repo::tests::{ALL_WAYS, Sandbox, Ways, name, open, set_xattr};
use crate::repo::{Attributes, Base, Commit, Repository, lock};
use crate::sys::{self, Call, Errno, RenameFlags, XattrFlags};

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
    let how = Commit {
        base: Base::Only(base.as_ref()),
        ..Commit::default()
    };
    let mut staged = sandbox.session.stage()?;
    staged.begin(base.as_ref(), &how)?;
    if let Some(base) = &base {
        staged.copy_from(base)?;
    }
    staged.write_at(b" and new", staged.len()?)?;
    staged.set_len(staged.len()? - 1)?;
    staged.set_xattr(c"user.shape", Some(b"round"), XattrFlags::empty())?;
    staged.set_attributes(&Attributes {
        mode: Some(0o640),
        ..Attributes::default()
    })?;
    let committed = staged.replace(&how)?;
    Ok(committed.new.len().to_string().into_bytes())
}

fn ranges(sandbox: &Sandbox) -> Result<Vec<u8>> {
    let base = sandbox.session.checkpoint()?;
    let staged = sandbox.session.stage()?;
    if let Some(base) = &base {
        let file = base.open()?;
        let mut copied = 0;
        while copied < 2 {
            let at = copied as u64;
            copied += staged.copy_range((&file, 1 + at), 2 + at, 9)?;
        }
        assert_eq!(copied, 2);
    }
    staged.allocate(0, 0, 8192)?;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    staged.allocate(punch, 3, 8189)?;
    let mut content = vec![0; 8192];
    sys::read_at(staged.reader()?, &mut content, 0).during("read")?;
    let base = Base::Only(base.as_ref());
    staged.replace(&Commit {
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
                lacks: (stringify!($name) == "i1_i5_copy_by_hand").then_some(Call::Copy),
            };
            let cases = check(&operation, &$ways);
            println!("{}: {cases} cases", stringify!($name));
        }
    )* };
}

/// For operations that stage nothing.
const PLAIN: [Ways; 1] = [ALL_WAYS[0]];

operations! {
    i1_i5_copy_by_hand, ALL_WAYS, false, with_checkpoint, append;
    i1_i5_copy_of_a_sparse_file, ALL_WAYS, false, || {
        let sandbox = with_checkpoint();
        let file = std::fs::File::options().write(true).open(sandbox.path("session")).unwrap();
        file.set_len(1 << 16).unwrap();
        sandbox
    }, append;
    i5_abandon, ALL_WAYS, false, with_checkpoint, |s| {
        let mut staged = s.session.stage()?;
        staged.fill(&b"given up"[..]).map_err(|e| e.downcast::<Error>().unwrap())?;
        assert!(!staged.is_empty()?);
        staged.withdraw();
        Ok(Vec::new())
    };
    i5_create_in_a_missing_repository, PLAIN, true, without_repository, |s| nothing(s.repository.create_named(&name("t"), 0o755));
    i5_lock, PLAIN, false, with_dead_lock, |s| Ok(format!("{:?}", s.session.lock()?.map(|lock| lock.owner())).into_bytes());
    i5_remove_dead_lock, PLAIN, false, with_dead_lock, |s| nothing(s.session.remove_dead_lock());
    i5_debris, PLAIN, false, with_dead_lock, |s| Ok(format!("{:?}", s.session.debris()?.links).into_bytes());
    i5_unlink_this_checkpoint, PLAIN, false, with_checkpoint, |s| {
        let checkpoint = s.session.checkpoint()?;
        nothing(checkpoint.map_or(Ok(false), |it| s.session.unlink_this_checkpoint(&it)))
    };
    i5_link, PLAIN, false, with_checkpoint, |s| link(s, "linked");
    i5_link_over_a_file, PLAIN, false, tree, |s| link(s, "other");
    i1_i5_adopt_lock, PLAIN, false, || {
        let sandbox = with_checkpoint();
        std::fs::write(sandbox.path("session.next"), b"new").unwrap();
        sandbox
    }, |s| nothing(s.session.adopt_lock());
    i1_i5_adopt_from_another_directory, PLAIN, false, tree, |s| {
        nothing(s.session.adopt(open(s.path("a/b")), "file".as_ref(), RenameFlags::empty()))
    };
    i5_left_probes, PLAIN, false, with_a_dead_probe, |s| {
        let left = s.repository.left_probes()?;
        Ok(left.len().to_string().into_bytes())
    };
    i5_remove_dead_probe, PLAIN, true, with_a_dead_probe, |s| {
        Ok(s.repository.remove_dead_probe(".sessionfs-probe-1-0".as_ref())?.to_string().into_bytes())
    };
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
        nothing(s.repository.rename(&name("s"), &name("t")))
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
    }, |s| nothing(s.session.adopt_link(open(s.path("upload"))));
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
            ..Attributes::default()
        };
        s.session.set_attributes(&checkpoint, &attributes)?;
        s.session.set_xattr(&checkpoint, c"user.a", Some(b"1"), XattrFlags::empty())?;
        nothing(s.session.set_xattr(&checkpoint, c"user.color", None, XattrFlags::empty()))
    };
}

fn survives(operation: &str) -> fn(&Fault) -> bool {
    match operation {
        // It is replaced while it is read, and is gone with its name.
        "i5_load" => |fault| fault.call == Call::Read && fault.errno == Errno::STALE,
        // A session that cannot be looked at is left out; the repository is
        // looked at first.
        "i5_list" => |fault| matches!(fault.call, Call::Stat | Call::Fstat) && fault.index > 2,
        // A lock that we may not look into is not ours.
        // A lock that may not be opened for writing is opened for reading.
        "i4_save_over_a_dead_lock" => |fault| {
            let denied = [Errno::ACCESS, Errno::PERM, Errno::ROFS].contains(&fault.errno);
            denied && fault.call == Call::Reopen
        },
        "i5_is_locked" | "i5_lock" | "i5_debris" | "i5_remove_dead_lock" => |fault| {
            let denied = [Errno::ACCESS, Errno::PERM, Errno::ROFS].contains(&fault.errno);
            let of_the_lock = matches!(fault.call, Call::GetXattr | Call::Reopen);
            // It is removed while we look.
            let gone = [Errno::NOENT, Errno::STALE].contains(&fault.errno);
            denied && of_the_lock
                || gone && fault.call == Call::GetXattr
                || fault.call == Call::Flock && fault.errno == Errno::BADF
        },
        // On a full disk it does without the lock. What fails after the rename
        // is the removal of the lock, which is dead then.
        "i1_i5_adopt"
        | "i1_i5_adopt_in_exchange"
        | "i1_i5_adopt_a_link"
        | "i1_i5_adopt_from_another_directory"
        | "i1_i5_exchange"
        | "i5_remove_checkpoint"
        | "i5_unlink_this_checkpoint" => |fault| match fault.call {
            Call::Stat | Call::Fstat | Call::Unlink if fault.changed => true,
            // Of the lock, when the checkpoint is gone.
            Call::Stat | Call::Fstat if fault.index > 8 => true,
            Call::Open | Call::Flock | Call::Stat | Call::Fstat => {
                [Errno::NOSPC, Errno::DQUOT].contains(&fault.errno)
            }
            _ => false,
        },
        // It looks again at what is there, or does without the flag that is to keep
        // that from being replaced.
        "i1_i5_first_save" | "i1_i5_first_commit" => |fault| {
            let tried_again = [Errno::EXIST, Errno::INVAL, Errno::NOSYS];
            fault.call == Call::Rename && tried_again.contains(&fault.errno)
        },
        // The lock that stays is dead.
        "i5_abandon" => |fault| {
            let of_the_lock = matches!(fault.call, Call::Stat | Call::Fstat | Call::Unlink);
            of_the_lock && fault.index > 6
        },
        // Without a mark that can be read it is a foreign one.
        "i1_i5_adopt_session_next" => |fault| {
            [Errno::ACCESS, Errno::PERM].contains(&fault.errno) && fault.call == Call::GetXattr
        },
        // A directory that may be entered and not read cannot be synced, nor one
        // on a filesystem that cannot do that.
        "i5_create_in_a_missing_repository" => |fault| match fault.call {
            Call::Open => fault.errno == Errno::ACCESS,
            Call::Fsync => fault.errno == Errno::INVAL,
            _ => false,
        },
        "i5_create" | "i5_create_named" => |fault| match fault.call {
            Call::Open => fault.errno == Errno::ACCESS && !fault.changed,
            Call::Fsync => fault.errno == Errno::INVAL,
            _ => false,
        },
        // It says that it is impossible.
        "i5_link" | "i5_link_over_a_file" => {
            |fault| fault.call == Call::Link && [Errno::PERM, Errno::MLINK].contains(&fault.errno)
        }
        // What cannot be looked into is not proven to be dead.
        "i5_left_probes" => {
            |fault| matches!(fault.call, Call::Open | Call::Reopen | Call::Flock) && fault.index > 6
        }
        // It is told that it was not dead, no directory, or is not gone.
        "i5_remove_dead_probe" => |fault| match fault.call {
            Call::Open => [Errno::NOTDIR, Errno::LOOP].contains(&fault.errno),
            Call::Flock => fault.errno == Errno::BADF,
            Call::ReadDir => fault.errno == Errno::NOENT,
            Call::Unlink => fault.errno == Errno::NOTEMPTY,
            _ => false,
        },
        // What is gone meanwhile; and what unlink(2) answers of directories.
        "i5_remove" => |fault| match fault.call {
            Call::ReadDir => fault.errno == Errno::NOENT,
            Call::Unlink => [Errno::ISDIR, Errno::PERM].contains(&fault.errno),
            _ => false,
        },
        // There is nothing to remove.
        "i5_set_attributes" => |fault| fault.call == Call::SetXattr && fault.errno == Errno::NODATA,
        _ => |_| false,
    }
}

fn link(sandbox: &Sandbox, name: &str) -> Result<Vec<u8>> {
    let Some(checkpoint) = sandbox.session.checkpoint()? else {
        return Err(Error::new(Kind::NotFound, "test", Errno::NOENT));
    };
    let dir = sandbox.session.dir();
    let linked = checkpoint.link(dir, name.as_ref(), RenameFlags::empty())?;
    Ok(format!("{linked:?}").into_bytes())
}

fn without_repository() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.repository = Repository::new(sandbox.dir.path().join("a/b/repository"));
    sandbox
}

fn with_a_dead_probe() -> Sandbox {
    let sandbox = with_checkpoint();
    let left = sandbox.repository.path().join(".sessionfs-probe-1-0");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("half"), b"x").unwrap();
    sandbox
}

fn tree() -> Sandbox {
    let sandbox = with_checkpoint();
    std::fs::create_dir_all(sandbox.path("a/b")).unwrap();
    std::fs::write(sandbox.path("a/b/file"), b"x").unwrap();
    std::fs::write(sandbox.path("other"), b"y").unwrap();
    sandbox
}

/// The first error that `remove` reports, as its own.
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
