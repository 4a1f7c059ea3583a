//! Removals of a checkpoint, deferred, carried out and cancelled.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::fs::session::removal::OF_REMOVAL;
use crate::fs::shares::Shares;
use crate::repo::{Kind, Linked, Repository};
use crate::sys::RenameFlags;

struct Sandbox {
    _dir: tempfile::TempDir,
    session: Session,
    sessions: Sessions,
    shares: Arc<Shares>,
}

const NODE: u64 = 7;

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let session = Repository::new(dir.path()).create("t-").unwrap();
        session.save(b"old").unwrap();
        Self {
            _dir: dir,
            session,
            sessions: Sessions::default(),
            shares: Shares::new(100, 100),
        }
    }

    fn remove(&self, tid: u32) -> Deferral {
        let checkpoint = self.session.checkpoint().unwrap().unwrap();
        let session = self.session.clone();
        let share = self.shares.take(1, OF_REMOVAL);
        self.sessions
            .defer_removal(NODE, session, checkpoint, tid, share)
    }

    fn has_checkpoint(&self) -> bool {
        self.session.checkpoint().unwrap().is_some()
    }

    fn ino(&self) -> u64 {
        let checkpoint = self.session.checkpoint().unwrap().unwrap();
        checkpoint.stat().stx_ino
    }

    /// The path of the session's lock.
    fn lock(&self) -> PathBuf {
        let root = self._dir.path();
        let session = std::fs::read_dir(root).unwrap().next().unwrap().unwrap();
        session.path().join("session.next")
    }
}

/// A process that lives until its standard input is closed.
fn process() -> Child {
    Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
}

#[test]
fn rule_2_12_a_removal_is_due_when_its_process_has_ended() {
    let sandbox = Sandbox::new();
    let mut child = process();
    assert!(matches!(sandbox.remove(child.id()), Deferral::Deferred));
    assert!(sandbox.sessions.due(NODE).is_none());
    assert!(sandbox.sessions.removed_by(child.id(), NODE).is_some());
    assert!(
        sandbox
            .sessions
            .removed_by(std::process::id(), NODE)
            .is_none()
    );
    child.wait().unwrap();
    let [due] = &sandbox.sessions.wait_for_due()[..] else {
        panic!("no removal");
    };
    assert!(sandbox.sessions.due(NODE).is_some());
    assert!(sandbox.has_checkpoint());
    due.carry_out().unwrap();
    assert!(!sandbox.has_checkpoint());
    assert!(sandbox.sessions.due(NODE).is_none(), "it is done");
    assert!(sandbox.sessions.pending().is_empty());
}

#[test]
fn rule_2_12_a_cancelled_removal_is_not_carried_out_by_a_thread_that_found_it_due() {
    let sandbox = Sandbox::new();
    let mut child = process();
    assert!(matches!(sandbox.remove(child.id()), Deferral::Deferred));
    let [removal] = &sandbox.sessions.pending()[..] else {
        panic!("no removal");
    };
    // The process is refused a new checkpoint, and ends.
    sandbox.sessions.cancel_removal(NODE);
    child.wait().unwrap();
    assert!(!removal.is_due());
    removal.carry_out_due().unwrap();
    // Also where it has been found due before.
    removal.carry_out().unwrap();
    assert!(sandbox.has_checkpoint());
}

#[test]
fn rule_2_11_a_checkpoint_renamed_back_is_not_removed_by_a_thread_that_finds_it_due() {
    let sandbox = Sandbox::new();
    let (dir, bak) = (sandbox.session.dir(), OsStr::new("bak"));
    let mut child = process();
    let link = |flags| {
        let checkpoint = sandbox.session.checkpoint().unwrap().unwrap();
        checkpoint.link(dir, bak, flags).unwrap()
    };
    assert!(matches!(link(RenameFlags::empty()), Linked::Yes));
    assert!(matches!(sandbox.remove(child.id()), Deferral::Deferred));
    let removal = sandbox.sessions.deferred(NODE, sandbox.ino()).unwrap();
    // One that fails with `Locked` has changed nothing.
    std::thread::scope(|scope| {
        let lock = sandbox.lock();
        std::fs::write(&lock, "foreign").unwrap();
        let refused = removal.cancel_by(|| sandbox.session.take_back(dir, bak));
        assert_eq!(refused.unwrap_err().kind(), Kind::Locked);
        std::fs::remove_file(&lock).unwrap();
        assert!(sandbox.sessions.deferred(NODE, sandbox.ino()).is_some());
        let taken = removal.cancel_by(|| {
            sandbox.session.take_back(dir, bak)?;
            child.wait().unwrap();
            assert!(removal.is_due());
            scope.spawn(|| removal.carry_out_due().unwrap());
            Ok(())
        });
        taken.unwrap();
    });
    assert!(sandbox.has_checkpoint());
    assert!(sandbox.sessions.due(NODE).is_none(), "it is done");
}

#[test]
fn rule_2_12_a_removal_leaves_a_newer_checkpoint_alone() {
    let sandbox = Sandbox::new();
    let Deferral::Due(removal) = sandbox.remove(0) else {
        panic!("deferred though no process is watched");
    };
    sandbox.session.save(b"new").unwrap();
    removal.carry_out().unwrap();
    assert_eq!(sandbox.session.load().unwrap(), b"new");
}

#[test]
fn rule_2_12_a_removal_by_two_processes_is_due_at_once() {
    let sandbox = Sandbox::new();
    let mut children = [process(), process()];
    assert!(matches!(
        sandbox.remove(children[0].id()),
        Deferral::Deferred
    ));
    assert!(matches!(sandbox.remove(children[1].id()), Deferral::Due(_)));
    for child in &mut children {
        assert!(sandbox.sessions.removed_by(child.id(), NODE).is_some());
        child.wait().unwrap();
        assert!(sandbox.sessions.removed_by(child.id(), NODE).is_none());
    }
}

#[test]
fn rule_13_3_a_removal_beyond_the_share_of_its_user_is_carried_out_at_once() {
    let sandbox = Sandbox::new();
    let child = process();
    let all = sandbox.shares.take(1, 100 - OF_REMOVAL + 1).unwrap();
    let Deferral::Due(removal) = sandbox.remove(child.id()) else {
        panic!("deferred beyond the share");
    };
    assert!(sandbox.sessions.pending().is_empty());
    removal.carry_out().unwrap();
    assert!(!sandbox.has_checkpoint());
    let note = |tid| {
        let share = sandbox.shares.take(1, OF_REMOVAL);
        let session = sandbox.session.clone();
        sandbox.sessions.note_absence(NODE, session, tid, share);
    };
    note(child.id());
    assert!(sandbox.sessions.removed_by(child.id(), NODE).is_none());
    drop(all);
    let mut children: Vec<_> = (0..17).map(|_| process()).collect();
    for child in &children {
        note(child.id());
    }
    let is_noted = |child: &Child| sandbox.sessions.removed_by(child.id(), NODE).is_some();
    assert_eq!(children.iter().filter(|child| is_noted(child)).count(), 16);
    // Two for the removal, and one for each process.
    assert!(sandbox.shares.take(1, 100 - 18 + 1).is_none());
    drop(sandbox.shares.take(1, 100 - 18).unwrap());
    children.push(child);
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    sandbox.sessions.forget_ended();
    assert!(sandbox.shares.take(1, 100).is_some(), "all is given back");
}

#[test]
fn a_removal_waits_for_a_lock_and_can_be_tried_again() {
    let sandbox = Sandbox::new();
    let Deferral::Due(removal) = sandbox.remove(0) else {
        panic!("deferred though no process is watched");
    };
    let lock = sandbox.lock();
    std::fs::write(&lock, "foreign").unwrap();
    assert_eq!(removal.carry_out().unwrap_err().kind(), Kind::Locked);
    assert!(sandbox.has_checkpoint());
    std::fs::remove_file(&lock).unwrap();
    removal.carry_out().unwrap();
    assert!(!sandbox.has_checkpoint());
}
