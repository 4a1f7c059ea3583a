//! What a save keeps, refuses and leaves behind.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::{ALL_WAYS, Sandbox, get_xattr};
use crate::repo::{Commit, Kind, lock};
use crate::sys::{Call, Errno, fault};

/// 2.3: when the rename is done, only the directory's sync can still fail the
/// save, and it says so; the checkpoint is not reported as unsaved because
/// there is no descriptor left for it.
#[test]
fn rule_2_3_a_published_checkpoint_is_not_reported_as_unsaved() {
    for ways in ALL_WAYS {
        for denied in [Call::Open, Call::Stat, Call::SetXattr, Call::Chmod] {
            let sandbox = Sandbox::with_checkpoint(b"old");
            let staged = sandbox.session.stage().unwrap();
            staged.write_at(b"new", 0).unwrap();
            let mut renamed = false;
            let plan = ways.plan(move |_, call| {
                renamed |= call == Call::Rename;
                (renamed && call == denied).then_some(Errno::MFILE)
            });
            let new = fault::with(plan, || staged.commit(&Commit::default()));
            let new = new.unwrap_or_else(|e| panic!("{ways:?}: {denied:?}: {e}"));
            assert_eq!(sandbox.content(), b"new");
            assert_eq!(new.len(), 3);
            let stat = std::fs::metadata(sandbox.path("session")).unwrap();
            assert_eq!(new.stat().stx_ino, stat.ino());
            if denied == Call::Stat {
                assert_eq!(u32::from(new.stat().stx_mode), stat.mode(), "{ways:?}");
            }
        }
    }
}

/// 2.3: a failing sync of the directory is told, and nothing is undone.
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
