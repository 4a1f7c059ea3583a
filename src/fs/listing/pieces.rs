//! A directory that is read in pieces: what is not listed yet is with the
//! filesystem, but for a few names.
//!
//! A place in it is the filesystem's own (`d_off` of getdents64(2)), so that what
//! comes and goes meanwhile moves no other, and a program that comes back to a
//! place finds what it would there. Only those behind a `session` that is shown
//! where the filesystem has none are ours.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::fs::dir::Dir;
use crate::fs::shares::{Share, Shares};
use crate::repo::CHECKPOINT;
use crate::sys::{self, Result};

/// The place behind a `session` that is not there, which is shown first, and
/// behind one that is shown at the end. No filesystem has them: ext4 has the last
/// of all places at its end, btrfs too, and none shortly before (Linux 6.18).
pub(in crate::fs) const BEHIND_SHOWN: u64 = i64::MAX as u64 - 1;
pub(in crate::fs) const BEHIND_LAST: u64 = i64::MAX as u64 - 2;

/// What the names take that are kept between two requests, in bytes of memory, at
/// the most.
const KEPT: u64 = 4 * sys::PIECE as u64;

/// An open directory, and how far it has been read.
#[derive(Debug)]
pub(in crate::fs) struct Pieces {
    dir: Arc<OwnedFd>,
    /// Whether it is a session's.
    is_session: bool,
    /// Where its descriptor stands.
    at: u64,
    /// The names that have been read and not listed, in reverse order, each with
    /// the place behind it.
    unlisted: Vec<(OsString, u64)>,
    /// The place before the first of them.
    next: u64,
    /// The place behind the last that was listed: names that are not to be may come
    /// in between.
    told: u64,
    /// Whether it has been read up to there without a jump.
    is_in_order: bool,
    /// Of who has it open: for the names between two requests.
    share: Option<Share>,
    /// To who lists it there is no `session`.
    hides_session: bool,
    /// The place behind the `session` that has been listed since its beginning:
    /// where a save makes another entry of the same name it is not listed again.
    session: Option<u64>,
}

impl Pieces {
    pub(in crate::fs) fn new(dir: OwnedFd, is_session: bool) -> Self {
        Self {
            dir: Arc::new(dir),
            is_session,
            at: 0,
            unlisted: Vec::new(),
            next: 0,
            told: 0,
            is_in_order: false,
            share: None,
            hides_session: false,
            session: None,
        }
    }

    pub(in crate::fs) fn dir(&self) -> Result<Dir> {
        Ok(Dir {
            stat: sys::fstat(&*self.dir)?,
            fd: self.dir.clone(),
        })
    }

    /// It is read from its beginning. `shows_session`: with one that is not
    /// there.
    pub(in crate::fs) fn begin(&mut self, hides_session: bool, shows_session: bool) {
        self.unlisted = Vec::new();
        // What has changed since is seen from the beginning only.
        self.at = u64::MAX;
        (self.next, self.told) = (0, 0);
        self.is_in_order = true;
        self.hides_session = hides_session;
        self.session = shows_session.then_some(BEHIND_SHOWN);
    }

    /// It is read from a place on.
    pub(in crate::fs) fn go_to(&mut self, place: u64) -> Result<()> {
        let place = if place == BEHIND_SHOWN { 0 } else { place };
        if self.told != place {
            self.unlisted.clear();
            (self.next, self.told) = (place, place);
            self.is_in_order = false;
            self.session = None;
        }
        if self.unlisted.is_empty() && self.at != self.next && self.next != BEHIND_LAST {
            sys::seek_dir(&*self.dir, self.next)?;
            self.at = self.next;
        }
        Ok(())
    }

    /// The next name, and the place behind it.
    pub(in crate::fs) fn first(&mut self) -> Result<Option<(&OsStr, u64)>> {
        if self.next == BEHIND_LAST {
            return Ok(None);
        }
        loop {
            while let Some((name, behind)) = self.unlisted.last() {
                if !self.passes_over(name, *behind) {
                    break;
                }
                self.pass();
            }
            if !self.unlisted.is_empty() {
                break;
            }
            let (unlisted, at) = (&mut self.unlisted, &mut self.at);
            let any = sys::read_names(&*self.dir, |name, behind| {
                unlisted.push((name.to_owned(), behind));
                *at = behind;
                Ok(())
            })?;
            if !any {
                // Nothing is kept of a directory that has been read.
                self.unlisted = Vec::new();
                self.share = None;
                return Ok(None);
            }
            self.unlisted.reverse();
        }
        let first = self.unlisted.last();
        Ok(first.map(|(name, behind)| (&**name, *behind)))
    }

    fn passes_over(&self, name: &OsStr, behind: u64) -> bool {
        name.as_bytes() == CHECKPOINT.as_bytes()
            && self.is_session
            && (self.hides_session || self.session.is_some_and(|listed| listed != behind))
    }

    /// The first name is not to be listed.
    pub(in crate::fs) fn pass(&mut self) {
        if let Some((_, behind)) = self.unlisted.pop() {
            self.next = behind;
        }
    }

    /// The first name has been listed.
    pub(in crate::fs) fn tell(&mut self) {
        if let Some((name, behind)) = self.unlisted.pop() {
            (self.next, self.told) = (behind, behind);
            if self.is_session && name == CHECKPOINT {
                self.session = Some(behind);
            }
        }
    }

    /// Whether it has been read to its end without a `session`, which is there: a
    /// save may make it another entry, which btrfs has no place for in a listing
    /// that has begun (Linux 6.18).
    pub(in crate::fs) fn lacks_session(&self) -> bool {
        self.is_session && self.is_in_order && !self.hides_session && self.session.is_none()
    }

    /// The missing one has been listed.
    pub(in crate::fs) fn complete(&mut self) {
        self.session = Some(BEHIND_LAST);
        (self.next, self.told) = (BEHIND_LAST, BEHIND_LAST);
    }

    /// A request has been answered: what is not listed is kept if the user may
    /// have that much memory, and read again if not.
    pub(in crate::fs) fn keep(&mut self, memory: &Arc<Shares>, user: u32) {
        if self.unlisted.is_empty() || self.share.is_some() {
            return;
        }
        self.share = memory.take(user, KEPT);
        if self.share.is_none() {
            self.unlisted = Vec::new();
        }
    }
}
