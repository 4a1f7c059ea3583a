//! Removals of a checkpoint, for the requests that ask for them or find them due
//! (DESIGN 2.12): see `removal`.

use std::ffi::OsStr;

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::request::{Caller, Patience, Request};
use crate::fs::session::removal::{OF_REMOVAL, wait_to_retry};
use crate::fs::session::removals::Asked;
use crate::fs::shares::Share;
use crate::repo::{Checkpoint, Kind, Session};
use crate::sys::{self, Errno};

impl Fs {
    /// Promises the removal of a checkpoint, or does it: see [`Removal`](crate::fs::session::removal::Removal).
    pub(in crate::fs) fn remove_checkpoint(
        &self,
        node: u64,
        session: Session,
        request: Request,
    ) -> Result<()> {
        let checkpoint = match session.checkpoint() {
            Err(error) if error.kind() == Kind::NotAFile => {
                request.patience.must_wait()?;
                session.remove_checkpoint()?;
                return Ok(());
            }
            other => other?,
        };
        let Some(checkpoint) = checkpoint else {
            // An empty `session` is shown to others still: that one can be
            // removed as often as anybody likes.
            let share = self.share_of_removal(request.caller);
            self.lasting
                .sessions
                .note_absence(node, session, request.caller.tid, share);
            self.own_writers_lose_names(node, request.caller);
            return Ok(());
        };
        if session.is_locked()? {
            return Err(Errno::BUSY.into());
        }
        // Nothing is promised that is refused already: EROFS, EPERM of an
        // immutable directory, EACCES to a daemon without privileges.
        sys::access(session.dir(), libc::W_OK | libc::X_OK)?;
        request.patience.must_wait()?;
        may_be_changed(&session)?;
        let share = self.share_of_removal(request.caller);
        let asked = self
            .lasting
            .sessions
            .ask(node, session, checkpoint, request.caller.tid, share);
        if let Asked::Due(removal) = asked {
            removal.complete(request.patience)?;
        }
        self.own_writers_lose_names(node, request.caller);
        Ok(())
    }

    /// For the descriptors that a removal keeps. Whoever has none left is not
    /// refused: the removal is done at once.
    pub(in crate::fs) fn share_of_removal(&self, caller: Caller) -> Option<Share> {
        self.reserve(caller, OF_REMOVAL).ok()
    }

    /// What the caller's process has open for writing has lost its name to it:
    /// that is a file without a name, as anywhere.
    fn own_writers_lose_names(&self, session: u64, caller: Caller) {
        if let Some(live) = self.lasting.sessions.find(session) {
            for writer in live.writers_of(caller.tid) {
                writer.lose_name();
            }
        }
    }

    /// Does a removal whose process has ended, for one who looks.
    pub(in crate::fs) fn settle_removal(&self, node: u64, patience: Patience) -> Result<()> {
        let Some(removal) = self.lasting.sessions.due(node) else {
            return Ok(());
        };
        if removal.is_blocked() {
            return Ok(());
        }
        patience.must_wait()?;
        match removal.carry_out_due() {
            // A save in progress, or a lock that stays: it is tried again.
            Err(error) if error.kind() == Kind::Locked => {}
            // Nobody asks for it here; what is there is shown.
            Err(error) => log::warn!("{error}; it is to be removed"),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Does a removal at once that the caller has asked for, and relies on.
    pub(in crate::fs) fn complete_removal(&self, node: u64, request: Request) -> Result<()> {
        match self.lasting.sessions.asked_by(request.caller.tid, node) {
            Some(removal) => removal.complete(request.patience),
            None => Ok(()),
        }
    }

    /// The same before something is made of that name otherwise than by a
    /// save, which replaces it.
    pub(in crate::fs) fn make_way(
        &self,
        parent: u64,
        name: &OsStr,
        request: Request,
    ) -> Result<()> {
        if self.is_checkpoint(parent, name)? {
            self.complete_removal(parent, request)?;
        }
        Ok(())
    }

    /// Whether the caller has removed this checkpoint: to him it is not there.
    pub(in crate::fs) fn has_removed(
        &self,
        node: u64,
        checkpoint: &Checkpoint,
        caller: Caller,
    ) -> bool {
        self.has_removed_inode(node, checkpoint.stat().stx_ino, caller)
    }

    pub(in crate::fs) fn has_removed_inode(&self, node: u64, ino: u64, caller: Caller) -> bool {
        let removal = self.lasting.sessions.asked_by(caller.tid, node);
        removal.is_some_and(|removal| removal.is_of(ino))
    }

    /// Removals that are due are done, from time to time; never returns.
    pub fn carry_out_removals(&self) {
        loop {
            let mut is_left = false;
            for removal in self.lasting.sessions.wait_for_due() {
                if let Err(error) = removal.carry_out_due() {
                    let is_locked = error.kind() == Kind::Locked;
                    if !is_locked {
                        log::error!("{error}; it is to be removed");
                    } else if removal.is_stuck() {
                        log::warn!("{error}; it is to be removed");
                    }
                    is_left |= is_locked;
                }
            }
            if is_left {
                wait_to_retry();
            }
        }
    }

    /// Does all removals that have been promised, at the end of the mount.
    pub(in crate::fs) fn finish_removals(&self) {
        for removal in self.lasting.sessions.pending() {
            if let Err(error) = removal.carry_out_at_last() {
                log::error!("{error}; it was to be removed");
            }
        }
    }
}

/// Whether anything can be changed in a session's directory, tried with a file
/// that never gets a name: ext4 that an error has made read-only (`emergency_ro`)
/// tells access(2) nothing of it, nor fsync(2) of what was synced before, and
/// refuses every change (Linux 6.18). To remove works on a full disk, and beside a
/// save that has the lock.
fn may_be_changed(session: &Session) -> Result<()> {
    match session.stage() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == Kind::Locked => Ok(()),
        Err(e) if [libc::ENOSPC, libc::EDQUOT].contains(&e.errno()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
