//! A directory that is read in pieces: only a few names that have not been listed yet are
//! in memory, the others are read when needed.
//!
//! A position in it is the filesystem's own (`d_off` of getdents64(2)). So names that
//! appear or vanish do not move others, and a program that seeks to a position gets what
//! the filesystem has there. Only the positions after a `session` that is shown where the
//! filesystem has none are ours.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::fs::dir::Dir;
use crate::fs::shares::{Share, Shares};
use crate::repo::CHECKPOINT;
use crate::sys::{self, Result};

/// The position after a shown `session` that does not exist and is listed first, and
/// after one that is listed at the end. No filesystem uses them: ext4 and btrfs use the
/// highest position for the end of a directory, and nothing shortly before (Linux 6.18).
pub(in crate::fs) const AFTER_SHOWN: u64 = i64::MAX as u64 - 1;
pub(in crate::fs) const AFTER_LAST: u64 = i64::MAX as u64 - 2;

/// The most memory, in bytes, that unlisted names may take between two requests.
const MOST_KEPT: u64 = 4 * sys::PIECE as u64;

/// An open directory, and how far it has been read.
#[derive(Debug)]
pub(in crate::fs) struct Pieces {
    dir: Arc<OwnedFd>,
    /// Whether it is a session's directory.
    is_session: bool,
    /// The position of its descriptor.
    at: u64,
    /// The names that have been read but not listed, in reverse order, each with the
    /// position after it.
    unlisted: Vec<(OsString, u64)>,
    /// The position before the first of them.
    next: u64,
    /// The position after the last name that was listed. Names that are left out may lie
    /// between this and `next`.
    listed_to: u64,
    /// Whether it has been read up to `listed_to` from the beginning without a jump.
    is_in_order: bool,
    /// The memory of the names kept between two requests, in the share of the user that
    /// reads it.
    share: Option<Share>,
    /// Whether the process that reads it must not see `session`.
    hides_session: bool,
    /// The position after the `session` that has been listed since the beginning. A save
    /// may add another entry of that name, which must not be listed again.
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
            listed_to: 0,
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

    /// Starts at the beginning. With `shows_session`, a `session` that does not exist has
    /// been listed.
    pub(in crate::fs) fn begin(&mut self, hides_session: bool, shows_session: bool) {
        self.unlisted = Vec::new();
        // Forces a seek: only that makes the filesystem show changes since.
        self.at = u64::MAX;
        (self.next, self.listed_to) = (0, 0);
        self.is_in_order = true;
        self.hides_session = hides_session;
        self.session = shows_session.then_some(AFTER_SHOWN);
    }

    /// Continues at a position.
    pub(in crate::fs) fn seek(&mut self, position: u64) -> Result<()> {
        let position = if position == AFTER_SHOWN { 0 } else { position };
        if self.listed_to != position {
            self.unlisted.clear();
            (self.next, self.listed_to) = (position, position);
            self.is_in_order = false;
            self.session = None;
        }
        if self.unlisted.is_empty() && self.at != self.next && self.next != AFTER_LAST {
            sys::seek_dir(&*self.dir, self.next)?;
            self.at = self.next;
        }
        Ok(())
    }

    /// The next name, and the position after it.
    pub(in crate::fs) fn first(&mut self) -> Result<Option<(&OsStr, u64)>> {
        if self.next == AFTER_LAST {
            return Ok(None);
        }
        loop {
            while let Some((name, after)) = self.unlisted.last() {
                if !self.is_skipped(name, *after) {
                    break;
                }
                self.skip_first();
            }
            if !self.unlisted.is_empty() {
                break;
            }
            let (unlisted, at) = (&mut self.unlisted, &mut self.at);
            let any = sys::read_names(&*self.dir, |name, after| {
                unlisted.push((name.to_owned(), after));
                *at = after;
                Ok(())
            })?;
            if !any {
                // Nothing is kept after the last name.
                self.unlisted = Vec::new();
                self.share = None;
                return Ok(None);
            }
            self.unlisted.reverse();
        }
        let first = self.unlisted.last();
        Ok(first.map(|(name, after)| (&**name, *after)))
    }

    fn is_skipped(&self, name: &OsStr, after: u64) -> bool {
        name.as_bytes() == CHECKPOINT.as_bytes()
            && self.is_session
            && (self.hides_session || self.session.is_some_and(|listed| listed != after))
    }

    /// Leaves out the first name.
    pub(in crate::fs) fn skip_first(&mut self) {
        if let Some((_, after)) = self.unlisted.pop() {
            self.next = after;
        }
    }

    /// Notes that the first name has been listed.
    pub(in crate::fs) fn list_first(&mut self) {
        if let Some((name, after)) = self.unlisted.pop() {
            (self.next, self.listed_to) = (after, after);
            if self.is_session && name == CHECKPOINT {
                self.session = Some(after);
            }
        }
    }

    /// Whether it has been read to the end without a `session` that must be listed. A
    /// save may make `session` another entry, and btrfs leaves new entries out of a
    /// listing that has begun (Linux 6.18).
    pub(in crate::fs) fn lacks_session(&self) -> bool {
        self.is_session && self.is_in_order && !self.hides_session && self.session.is_none()
    }

    /// Notes that the missing `session` has been listed.
    pub(in crate::fs) fn list_missing_session(&mut self) {
        self.session = Some(AFTER_LAST);
        (self.next, self.listed_to) = (AFTER_LAST, AFTER_LAST);
    }

    /// Ends a request: names that were not listed are kept if the user's share of memory
    /// has room, or are read again later.
    pub(in crate::fs) fn keep_unlisted(&mut self, memory: &Arc<Shares>, user: u32) {
        if self.unlisted.is_empty() || self.share.is_some() {
            return;
        }
        self.share = memory.take(user, MOST_KEPT);
        if self.share.is_none() {
            self.unlisted = Vec::new();
        }
    }
}
