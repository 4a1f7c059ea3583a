//! What a save keeps, refuses and leaves behind.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{ALL_WAYS, Made, Sandbox, Ways, get_xattr, mkfifo, set, set_xattr, xattr_names};
use crate::repo::{Attributes, Base, Commit, DEFAULT_ACL, Kind, Result, lock};
use crate::sys::{Call, Errno, Timestamps, XattrFlags, fault};

/// 2.3: when the rename is done, only the directory's sync can still fail the save, and
/// is reported as such. The checkpoint is not reported as unsaved because no descriptor
/// is left for it.
#[test]
fn rule_2_3_a_published_checkpoint_is_not_reported_as_unsaved() {
    for ways in ALL_WAYS {
        for denied in [
            Call::Open,
            Call::Reopen,
            Call::Stat,
            Call::Fstat,
            Call::SetXattr,
            Call::Chmod,
        ] {
            let sandbox = Sandbox::with_checkpoint(b"old");
            let staged = sandbox.session.stage().unwrap();
            staged.write_at(b"new", 0).unwrap();
            let mut renamed = false;
            let plan = ways.plan(move |_, call| {
                renamed |= call == Call::Rename;
                (renamed && call == denied).then_some(Errno::MFILE)
            });
            let new = fault::with(plan, || staged.commit(Base::Any));
            let new = new.unwrap_or_else(|e| panic!("{ways:?}: {denied:?}: {e}"));
            assert_eq!(sandbox.content(), b"new");
            assert_eq!(new.len(), 3);
            let stat = std::fs::metadata(sandbox.path("session")).unwrap();
            assert_eq!(new.stat().stx_ino, stat.ino());
            if denied == Call::Fstat {
                assert_eq!(u32::from(new.stat().stx_mode), stat.mode(), "{ways:?}");
            }
        }
    }
}

/// 2.3: a failing sync of the directory is reported, and nothing is undone.
#[test]
fn rule_2_3_a_directory_that_cannot_be_synced_is_not_durable() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let mut syncs = 0;
    let plan = Box::new(move |_, call| {
        syncs += usize::from(call == Call::Fsync);
        (call == Call::Fsync && syncs == 2).then_some(Errno::IO)
    });
    let error = fault::with(plan, || sandbox.session.save(b"new")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotDurable);
    assert_eq!(error.errno(), Errno::IO.raw_os_error());
    assert_eq!(sandbox.content(), b"new");
}

/// 2.7: a mark that a crash left on the checkpoint, between the rename and
/// its removal, does not stay in the mode for ever.
#[test]
fn rule_2_7_a_mark_left_on_the_checkpoint_is_healed_by_the_next_save() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"old");
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(sandbox.path("session"), mode(0o640)).unwrap();
        for fail in [true, false] {
            let mut renamed = false;
            let plan = ways.plan(move |_, call| {
                renamed |= call == Call::Rename;
                let unmark = matches!(call, Call::Chmod | Call::SetXattr);
                (fail && renamed && unmark).then_some(Errno::IO)
            });
            fault::with(plan, || sandbox.session.save(b"new")).unwrap();
        }
        let path = sandbox.path("session");
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640, "{ways:?}");
        assert_eq!(get_xattr(&path, lock::MARK), None, "{ways:?}");
    }
}

/// A POSIX ACL as its extended attribute holds it: user 42 may read.
fn acl(mask: u8) -> Vec<u8> {
    let entry = |tag: u16, permissions: u8, id: u32| {
        let permissions = u16::from(permissions);
        [
            &tag.to_le_bytes()[..],
            &permissions.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let none = u32::MAX;
    [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, 6, none),
        entry(0x02, 4, 42),
        entry(0x04, 4, none),
        entry(0x10, mask, none),
        entry(0x20, 0, none),
    ]
    .concat()
}

const ACCESS_ACL: &CStr = c"system.posix_acl_access";

fn save(sandbox: &Sandbox, ways: Ways, content: &[u8]) -> Result<()> {
    fault::with(ways.plan(|_, _| None), || sandbox.session.save(content))
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// 2.7: a save replaces the content and nothing else.
#[test]
fn rule_2_7_mode_owner_xattrs_and_acl_survive_a_save() {
    for ways in ALL_WAYS {
        for (bits, uid, gid) in [(0o600, 0, 0), (0o444, 7, 8), (0o4751, 0, 8), (0, 7, 0)] {
            let sandbox = Sandbox::with_checkpoint(b"old");
            let path = sandbox.path("session");
            set_xattr(&path, c"user.color", b"red");
            set_xattr(&path, c"user.empty", b"");
            set_xattr(&path, c"user.long", &[7; 1000]);
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(bits)).unwrap();
            let names = xattr_names(&path);
            for content in [&b"new"[..], b"newer"] {
                save(&sandbox, ways, content).unwrap();
                let stat = std::fs::metadata(&path).unwrap();
                assert_eq!(
                    (mode(&path), stat.uid(), stat.gid()),
                    (bits, uid, gid),
                    "{ways:?}"
                );
                assert_eq!(xattr_names(&path), names, "{ways:?}");
                assert_eq!(get_xattr(&path, c"user.color").unwrap(), b"red");
                assert_eq!(get_xattr(&path, c"user.empty").unwrap(), b"");
                assert_eq!(get_xattr(&path, c"user.long").unwrap(), [7; 1000]);
                assert_eq!(sandbox.content(), content);
            }
        }
    }
}

#[test]
fn rule_2_7_an_acl_survives_a_save() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"old");
        let path = sandbox.path("session");
        set_xattr(&path, ACCESS_ACL, &acl(4));
        let bits = mode(&path);
        save(&sandbox, ways, b"new").unwrap();
        assert_eq!(get_xattr(&path, ACCESS_ACL).unwrap(), acl(4), "{ways:?}");
        assert_eq!(mode(&path), bits, "{ways:?}");
    }
}

/// 2.7: the default ACL of the directory is for new files, not for saves.
#[test]
fn rule_2_7_a_default_acl_gives_a_saved_checkpoint_nothing() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"old");
        let path = sandbox.path("session");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o660)).unwrap();
        set_xattr(&sandbox.path(""), DEFAULT_ACL, &acl(7));
        save(&sandbox, ways, b"new").unwrap();
        assert_eq!(get_xattr(&path, ACCESS_ACL), None, "{ways:?}");
        assert_eq!(mode(&path), 0o660, "{ways:?}");
    }
}

/// 2.7: the first checkpoint gets 0644 less the umask, or what is asked for.
#[test]
fn rule_2_7_the_mode_and_owner_of_a_first_checkpoint() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|l| l.strip_prefix("Umask:\t"));
    let umask = u32::from_str_radix(umask.unwrap(), 8).unwrap();
    for ways in ALL_WAYS {
        let sandbox = Sandbox::new();
        save(&sandbox, ways, b"new").unwrap();
        assert_eq!(mode(&sandbox.path("session")), 0o644 & !umask, "{ways:?}");

        let sandbox = Sandbox::new();
        let first = Commit {
            first_mode: 0o640,
            first_owner: Some((7, 8)),
            ..Commit::default()
        };
        let commit = || sandbox.session.stage().unwrap().replace(&first).map(drop);
        fault::with(ways.plan(|_, _| None), commit).unwrap();
        let stat = std::fs::metadata(sandbox.path("session")).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o640, "{ways:?}");
        assert_eq!((stat.uid(), stat.gid()), (7, 8));
    }
}

/// 2.7, section 4: what the writer has set goes with the save.
#[test]
fn rule_2_7_attributes_that_the_writer_set_are_published_with_its_save() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"old");
        let path = sandbox.path("session");
        set_xattr(&path, c"user.gone", b"1");
        set_xattr(&path, c"user.kept", b"1");
        let time = rustix::fs::Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 5,
        };
        let attributes = Attributes {
            mode: Some(0o5711),
            uid: Some(7),
            gid: Some(8),
            times: Some(Timestamps {
                last_access: time,
                last_modification: time,
            }),
        };
        let run = || {
            let base = sandbox.session.checkpoint()?;
            let mut staged = sandbox.session.stage()?;
            staged.begin(base.as_ref(), &Commit::default())?;
            staged.set_attributes(&attributes)?;
            staged.set_xattr(c"user.gone", None, XattrFlags::empty())?;
            staged.set_xattr(c"user.new", Some(b"2"), XattrFlags::CREATE)?;
            let errno = |result: Result<()>| result.unwrap_err().errno();
            let again = staged.set_xattr(c"user.new", Some(b"3"), XattrFlags::CREATE);
            assert_eq!(errno(again), libc::EEXIST);
            let missing = staged.set_xattr(c"user.gone", Some(b"3"), XattrFlags::REPLACE);
            assert_eq!(errno(missing), libc::ENODATA);
            // The mark is not the writer's.
            let mark = staged.set_xattr(lock::MARK, Some(b"3"), XattrFlags::empty());
            assert_eq!(errno(mark), libc::EPERM);
            let mark = staged.set_xattr(lock::MARK, None, XattrFlags::empty());
            assert_eq!(errno(mark), libc::ENODATA);
            assert_eq!(staged.xattr(lock::MARK).unwrap_err().errno(), libc::ENODATA);
            assert_eq!(staged.xattr(c"user.kept")?, b"1");
            assert_eq!(u32::from(staged.stat()?.stx_mode) & 0o7777, 0o5711);
            // Changed meanwhile, but nothing that the writer has set.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            set_xattr(&path, c"user.kept", b"2");
            set_xattr(&path, c"user.later", b"1");
            staged.commit(Base::Any).map(drop)
        };
        fault::with(ways.plan(|_, _| None), run).unwrap();
        let stat = std::fs::metadata(&path).unwrap();
        assert_eq!(
            (stat.mode() & 0o7777, stat.uid(), stat.gid()),
            (0o5711, 7, 8)
        );
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 5));
        assert_eq!(get_xattr(&path, c"user.gone"), None);
        assert_eq!(get_xattr(&path, c"user.kept").unwrap(), b"2");
        assert_eq!(get_xattr(&path, c"user.later").unwrap(), b"1");
        assert_eq!(get_xattr(&path, c"user.new").unwrap(), b"2");
        assert_eq!(get_xattr(&path, lock::MARK), None);
    }
}

/// 2.7: attributes that another process sets during the save stay, too.
#[test]
fn rule_2_7_a_chmod_during_the_save_is_not_lost() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"old");
        let path = sandbox.path("session");
        let target = path.clone();
        let mut synced = false;
        let plan = move |_: usize, call: Call| {
            if call == Call::Fsync && !synced {
                synced = true;
                std::fs::set_permissions(&target, PermissionsExt::from_mode(0o604)).unwrap();
            }
            None
        };
        fault::with(ways.plan(plan), || sandbox.session.save(b"new")).unwrap();
        assert_eq!(
            (mode(&path), sandbox.content()),
            (0o604, b"new".to_vec()),
            "{ways:?}"
        );
    }
}

/// 2.9: no update is lost, however and whenever the newer checkpoint came; a writer that
/// has truncated replaces it.
#[test]
fn rule_2_9_a_save_from_a_replaced_base_is_refused() {
    type Replace = fn(&Sandbox);
    let replacements: [(&str, Replace); 3] = [
        ("saved", |s| s.session.save(b"newer").unwrap()),
        ("renamed", |s| {
            std::fs::write(s.path("x"), b"newer").unwrap();
            std::fs::rename(s.path("x"), s.path("session")).unwrap();
        }),
        ("removed", |s| {
            std::fs::remove_file(s.path("session")).unwrap()
        }),
    ];
    for ways in ALL_WAYS {
        for (how, replace) in replacements {
            // Without O_TMPFILE the writer's own lock refuses the other save.
            if how == "saved" && !ways.tmpfile {
                continue;
            }
            let sandbox = Sandbox::with_checkpoint(b"old");
            let base = sandbox.session.checkpoint().unwrap();
            let stage = || sandbox.session.stage().unwrap();
            let lost = fault::with(ways.plan(|_, _| None), stage);
            let truncated = ways.tmpfile.then(stage);
            replace(&sandbox);
            let now = std::fs::read(sandbox.path("session")).ok();
            let commit = Commit {
                base: Base::Only(base.as_ref()),
                ..Commit::default()
            };
            let error = fault::with(ways.plan(|_, _| None), || lost.replace(&commit));
            assert_eq!(
                error.unwrap_err().kind(),
                Kind::Superseded,
                "{ways:?} {how}"
            );
            assert_eq!(std::fs::read(sandbox.path("session")).ok(), now, "{how}");
            assert!(!sandbox.path("session.next").exists());
            if let Some(truncated) = truncated {
                truncated.commit(Base::Any).unwrap();
                assert_eq!(sandbox.content(), b"", "{how}");
            }
        }
    }
}

/// 2.9: also when the base goes between the first look and the link.
#[test]
fn rule_2_9_a_base_replaced_during_the_commit_is_noticed() {
    for base_is_there in [true, false] {
        let sandbox = Sandbox::new();
        if base_is_there {
            std::fs::write(sandbox.path("session"), b"old").unwrap();
        }
        let base = sandbox.session.checkpoint().unwrap();
        let staged = sandbox.session.stage().unwrap();
        let newer = sandbox.path("newer");
        let plan = Box::new(move |_, call| {
            if call == Call::Link {
                std::fs::write(&newer, b"newer").unwrap();
                std::fs::rename(&newer, newer.with_file_name("session")).unwrap();
            }
            None
        });
        let commit = Commit {
            base: Base::Only(base.as_ref()),
            ..Commit::default()
        };
        let error = fault::with(plan, || staged.replace(&commit)).unwrap_err();
        assert_eq!(error.kind(), Kind::Superseded);
        assert_eq!(sandbox.content(), b"newer");
        assert_eq!(sandbox.entries(), set(["session"]));
    }
}

/// 2.1 and section 4: every checkpoint is an inode of its own, and a reader of an old one
/// reads it to the end.
#[test]
fn rule_2_1_every_save_makes_a_new_inode() {
    for ways in ALL_WAYS {
        let sandbox = Sandbox::with_checkpoint(b"0");
        let mut held = vec![sandbox.session.checkpoint().unwrap().unwrap()];
        for n in 1..5 {
            save(&sandbox, ways, n.to_string().as_bytes()).unwrap();
            held.push(sandbox.session.checkpoint().unwrap().unwrap());
        }
        let inodes: BTreeSet<_> = held.iter().map(|c| c.stat().stx_ino).collect();
        assert_eq!(inodes.len(), held.len());
        for (n, checkpoint) in held.iter().enumerate() {
            let text = std::io::read_to_string(checkpoint.open().unwrap()).unwrap();
            assert_eq!(text, n.to_string());
        }
    }
}

/// I1: a `session` that is no regular file is neither followed nor replaced.
#[test]
fn i1_what_is_no_file_is_not_followed_and_not_replaced() {
    let kinds: [Made; 4] = [
        ("directory", |path| std::fs::create_dir(path).unwrap()),
        ("symlink", |path| {
            std::os::unix::fs::symlink("target", path).unwrap()
        }),
        ("dangling", |path| {
            std::os::unix::fs::symlink("nowhere", path).unwrap()
        }),
        ("fifo", mkfifo),
    ];
    for ways in ALL_WAYS {
        for (kind, make) in kinds {
            let sandbox = Sandbox::new();
            std::fs::write(sandbox.path("target"), b"canary").unwrap();
            make(&sandbox.path("session"));
            let before = std::fs::symlink_metadata(sandbox.path("session")).unwrap();
            let error = save(&sandbox, ways, b"new").unwrap_err();
            assert_eq!(error.kind(), Kind::NotAFile, "{kind} {ways:?}");
            assert_eq!(sandbox.session.load().unwrap_err().kind(), Kind::NotAFile);
            let after = std::fs::symlink_metadata(sandbox.path("session")).unwrap();
            assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
            assert_eq!(std::fs::read(sandbox.path("target")).unwrap(), b"canary");
            assert_eq!(sandbox.entries(), set(["session", "target"]), "{kind}");
        }
    }
}

/// Section 3: a filesystem that cannot sync directories is no I/O error.
#[test]
fn einval_from_the_sync_of_a_directory_is_no_error() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let mut renamed = false;
    let plan = Box::new(move |_, call| {
        renamed |= call == Call::Rename;
        (renamed && call == Call::Fsync).then_some(Errno::INVAL)
    });
    fault::with(plan, || sandbox.session.save(b"new")).unwrap();
    assert_eq!(sandbox.content(), b"new");
}

/// I2: data is synced before it gets a name, the directory after the rename.
#[test]
fn i2_the_order_of_a_save_is_sync_link_rename_sync() {
    let sandbox = Sandbox::with_checkpoint(b"old");
    let calls = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = calls.clone();
    let plan = Box::new(move |_, call| {
        if matches!(call, Call::Write | Call::Fsync | Call::Link | Call::Rename) {
            log.borrow_mut().push(call);
        }
        None
    });
    fault::with(plan, || sandbox.session.save(b"new")).unwrap();
    let order = [
        Call::Write,
        Call::Fsync,
        Call::Link,
        Call::Rename,
        Call::Fsync,
    ];
    assert_eq!(calls.take(), order);
}

/// 2.1, 2.9, on a filesystem where a file without a name is gone (`ENOENT` or `ESTALE`):
/// a reader that comes then finds the next checkpoint, and one that had this one gets the
/// error that it has been replaced. If a filesystem answers so again and again, the look
/// ends.
#[test]
fn rule_2_9_a_checkpoint_that_is_gone_with_its_name_has_been_replaced() {
    for errno in [Errno::NOENT, Errno::STALE] {
        for (gone, times) in [(Call::Fstat, 1), (Call::Reopen, 1), (Call::Reopen, 100)] {
            let sandbox = Sandbox::with_checkpoint(b"next");
            let mut left = times;
            let plan = Box::new(move |_, call| {
                let now = call == gone && left > 0;
                left -= usize::from(now);
                now.then_some(errno)
            });
            let loaded = fault::with(plan, || sandbox.session.load());
            assert_eq!(loaded.unwrap(), b"next", "{gone:?}: {errno:?}");
        }
        let sandbox = Sandbox::with_checkpoint(b"old");
        let always = || Box::new(move |_, call| (call == Call::Reopen).then_some(errno));
        let error = fault::with(always(), || sandbox.session.load()).unwrap_err();
        let told = (error.kind(), error.errno());
        assert_eq!(told, (Kind::Os, Errno::STALE.raw_os_error()));

        let base = sandbox.session.checkpoint().unwrap().unwrap();
        let staged = sandbox.session.stage().unwrap();
        let error = fault::with(always(), || staged.copy_from(&base)).unwrap_err();
        assert_eq!(error.kind(), Kind::Superseded, "{errno:?}");
    }
}
