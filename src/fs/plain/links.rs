//! A file with two names, of which one may be a session's checkpoint: it must not be
//! changed under the other one either (I1), and to find that out costs who asks
//! (DESIGN 13.2).
//!
//! Nothing leads from an inode to its names, so all sessions may have to be looked
//! at. That is done for nobody but who changes a file with several names; for one
//! request of a user at a time, the others of that user wait; and what has come of it
//! is kept until the file, or the repository's directory, has changed: no file gets a
//! name without a new time of change, and no directory becomes a session without one
//! of the repository. The session that the file was found in comes first: nearly
//! always the other name is there.

use std::sync::{PoisonError, TryLockError};
use std::time::Instant;

use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::Role;
use crate::fs::plain::looks::Times;
use crate::fs::request::{Patience, Request};
use crate::repo::{CHECKPOINT, Session, SessionName};
use crate::sys::{self, Errno};

impl Fs {
    /// Refuses a change of a file that has the name `session` in any session too
    /// (a hard link). If it was renamed to that, it loses the old name now.
    ///
    /// # Errors
    /// `EBUSY`; that it would wait.
    pub(in crate::fs) fn check_link(&self, id: u64, request: Request) -> Result<()> {
        if sys::fstat(&*self.path_fd(id)?)?.stx_nlink < 2 {
            return Ok(());
        }
        let looks = self.links.of(request.caller.uid);
        let mut looks = match (looks.try_lock(), request.patience) {
            (Ok(looks), _) => looks,
            (Err(TryLockError::Poisoned(poisoned)), _) => poisoned.into_inner(),
            (Err(TryLockError::WouldBlock), Patience::None) => return Err(Fail::WouldBlock),
            (Err(TryLockError::WouldBlock), Patience::Wait) => {
                looks.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        // In this order: what changes from here on has other times.
        let root = self.repository.root()?.ok_or(Errno::NOENT)?;
        let began = Instant::now();
        let times = Times::new(&sys::fstat(&*self.path_fd(id)?)?, &sys::fstat(&*root)?);
        let known = looks.find(id, times);
        if known.is_some_and(|known| known.is_sure && known.session.is_none()) {
            return Ok(());
        }
        let known = known.and_then(|known| known.session.clone());
        request.patience.must_wait()?;
        let near = known.or_else(|| self.session_around(id));
        let near = near.and_then(|name| self.repository.session(&name).ok());
        let found = match near {
            Some(near) if is_checkpoint_of(id, &near)? => Some(near),
            _ => self.session_with(id)?,
        };
        looks.note(id, times, began, found.as_ref().map(|s| s.name().clone()));
        drop(looks);
        let Some(session) = found else {
            return Ok(());
        };
        let node = sys::fstat(session.dir())?.stx_ino;
        match self.lasting.sessions.deferred(node, id) {
            Some(removal) => removal.carry_out_for_request(request.patience),
            None => Err(Errno::BUSY.into()),
        }
    }

    /// The session in which a file was found.
    fn session_around(&self, id: u64) -> Option<SessionName> {
        let (mut at, _) = self.lasting.nodes.parent_and_name(id)?;
        // No path is longer than the kernel's longest.
        for _ in 0..libc::PATH_MAX {
            let (parent, name) = self.lasting.nodes.parent_and_name(at)?;
            if matches!(self.lasting.nodes.role(at), Some(Role::Session)) {
                return SessionName::new(&name).ok();
            }
            at = parent;
        }
        None
    }

    /// The session whose checkpoint a file is, of all.
    fn session_with(&self, id: u64) -> Result<Option<Session>> {
        let mut found = Ok(None);
        self.repository.visit(|name, _| {
            // One that goes meanwhile has no checkpoint.
            let Ok(session) = self.repository.session(&name) else {
                return true;
            };
            match is_checkpoint_of(id, &session) {
                Ok(false) => return true,
                Ok(true) => found = Ok(Some(session)),
                Err(fail) => found = Err(fail),
            }
            false
        })?;
        found
    }
}

fn is_checkpoint_of(id: u64, session: &Session) -> Result<bool> {
    match sys::stat(session.dir(), CHECKPOINT.as_ref()) {
        Ok(stat) => Ok(stat.stx_ino == id),
        Err(Errno::NOENT | Errno::STALE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
