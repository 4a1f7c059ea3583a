//! Removals of a checkpoint, for the requests that ask for them, or find them due (DESIGN
//! 2.12): see `removal`.

use std::ffi::OsStr;

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::request::{Caller, Patience, Request};
use crate::fs::session::removal::{OF_REMOVAL, wait_to_retry};
use crate::fs::session::removals::Deferral;
use crate::fs::shares::Share;
use crate::repo::{Checkpoint, Kind, Session};
use crate::sys::{self, Errno};

impl Fs {
    /// Defers the removal of a checkpoint, or carries it out: see `removal`.
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
            // Other callers are still shown an empty `session`, which can be removed any
            // number of times.
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
        // A removal that would fail is not deferred: EROFS, EPERM in an immutable
        // directory, EACCES for a daemon without privileges.
        sys::access(session.dir(), libc::W_OK | libc::X_OK)?;
        request.patience.must_wait()?;
        may_be_changed(&session)?;
        self.defer_removal(node, session, checkpoint, request)?;
        self.own_writers_lose_names(node, request.caller);
        Ok(())
    }

    /// Defers the removal of this checkpoint by the calling process, with its rights, or
    /// carries it out at once.
    pub(in crate::fs) fn defer_removal(
        &self,
        node: u64,
        session: Session,
        checkpoint: Checkpoint,
        request: Request,
    ) -> Result<()> {
        let share = self.share_of_removal(request.caller);
        let whom = request.caller.behalf_later(session.dir())?;
        let session = session.on_behalf_of(whom);
        let deferral = self.lasting.sessions.defer_removal(
            node,
            session,
            checkpoint,
            request.caller.tid,
            share,
        );
        match deferral {
            Deferral::Due(removal) => removal.carry_out_for_request(request.patience),
            Deferral::Deferred => Ok(()),
        }
    }

    /// A share of the caller's user for the descriptors of a removal. `None` if it is
    /// used up: then the removal is not refused, but carried out at once.
    fn share_of_removal(&self, caller: Caller) -> Option<Share> {
        self.reserve(caller, OF_REMOVAL).ok()
    }

    /// The writers of the calling process have lost their name: they are files without a
    /// name now, as after unlink(2) on any filesystem.
    fn own_writers_lose_names(&self, session: u64, caller: Caller) {
        if let Some(live) = self.lasting.sessions.find(session) {
            for writer in live.writers_of(caller.tid) {
                writer.lose_name();
            }
        }
    }

    /// Carries out the removal of a session if it is due, for a caller that looks.
    pub(in crate::fs) fn carry_out_due_removal(&self, node: u64, patience: Patience) -> Result<()> {
        let Some(removal) = self.lasting.sessions.due(node) else {
            return Ok(());
        };
        if removal.is_blocked() {
            return Ok(());
        }
        patience.must_wait()?;
        match removal.carry_out_due() {
            // A save in progress, or a lock that stays: `carry_out_removals` tries it
            // again.
            Err(error) if error.kind() == Kind::Locked => {}
            // The caller has not asked for the removal; it is shown what is there.
            Err(error) => log::warn!("the checkpoint was not removed: {error}"),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Carries out, at once, the removal that the calling process has asked for.
    pub(in crate::fs) fn carry_out_own_removal(&self, node: u64, request: Request) -> Result<()> {
        match self.lasting.sessions.removed_by(request.caller.tid, node) {
            Some(removal) => removal.carry_out_for_request(request.patience),
            None => Ok(()),
        }
    }

    /// As [`carry_out_own_removal`](Self::carry_out_own_removal), if this name is a
    /// checkpoint's: for a call that is about to make the name otherwise than by a save.
    pub(in crate::fs) fn carry_out_own_removal_of(
        &self,
        parent: u64,
        name: &OsStr,
        request: Request,
    ) -> Result<()> {
        if self.is_checkpoint(parent, name)? {
            self.carry_out_own_removal(parent, request)?;
        }
        Ok(())
    }

    /// Whether the calling process has removed this checkpoint: it does not see it then.
    pub(in crate::fs) fn has_removed(
        &self,
        node: u64,
        checkpoint: &Checkpoint,
        caller: Caller,
    ) -> bool {
        self.has_removed_inode(node, checkpoint.stat().stx_ino, caller)
    }

    pub(in crate::fs) fn has_removed_inode(&self, node: u64, ino: u64, caller: Caller) -> bool {
        let removal = self.lasting.sessions.removed_by(caller.tid, node);
        removal.is_some_and(|removal| removal.is_of(ino))
    }

    /// Carries out removals when they are due. Never returns.
    pub fn carry_out_removals(&self) {
        loop {
            let mut is_left = false;
            for removal in self.lasting.sessions.wait_for_due() {
                if let Err(error) = removal.carry_out_due() {
                    let is_locked = error.kind() == Kind::Locked;
                    if !is_locked {
                        log::error!("the checkpoint was not removed: {error}");
                    } else if removal.is_stuck() {
                        log::warn!("the checkpoint will be removed when the lock is gone: {error}");
                    }
                    is_left |= is_locked;
                }
            }
            if is_left {
                wait_to_retry();
            }
        }
    }

    /// Carries out all deferred removals, at the end of the mount.
    pub(in crate::fs) fn carry_out_all_removals(&self) {
        for removal in self.lasting.sessions.pending() {
            if let Err(error) = removal.carry_out_patiently() {
                log::error!("the checkpoint was not removed: {error}");
            }
        }
    }
}

/// Fails if nothing can be changed in a session's directory, tried with a file that never
/// gets a name. After an error, ext4 is read-only and refuses every change
/// (`emergency_ro`), but neither access(2) nor fsync(2) of synced files says so (Linux
/// 6.18). A full disk or another save's lock do not prevent a removal.
fn may_be_changed(session: &Session) -> Result<()> {
    match session.stage() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == Kind::Locked => Ok(()),
        Err(e) if [libc::ENOSPC, libc::EDQUOT].contains(&e.errno()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
