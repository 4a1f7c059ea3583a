//! Changes of names: RENAME and LINK, and what the name `session` means for
//! them and for UNLINK (DESIGN 2.11 and 2.12).

use super::request::{Patience, Request};
use std::ffi::OsStr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::errno::{Fail, Result};
use super::lookup::is_file;
use super::node::ROOT;
use super::removal::{Asked, OF_REMOVAL, Removal, Removals};
use super::shares::Share;
use super::slot::{Owner, Slot};
use super::{Caller, Entry, Fs};
use crate::proc::identity::Process;
use crate::repo::{Checkpoint, Kind, LOCK, Linked, Session, SessionName};
use crate::sys::{self, Errno, RenameFlags, Statx};

/// A name in a directory.
type Place<'a> = (u64, &'a OsStr);

impl Fs {
    /// Renames. A regular file renamed to a session's `session` is a save: it
    /// is durable when this answers, and refused while another writer saves.
    ///
    /// # Errors
    /// `EPERM` between the root and a session, and if what is no regular file
    /// would get the name of a checkpoint; `EINVAL` for a name in the root that is
    /// no session name, `EBUSY`, and those of rename(2).
    pub fn rename(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        flags: u32,
        request: Request,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        match (from.0 == ROOT, to.0 == ROOT) {
            (true, true) => return self.rename_session(from.1, to.1, flags, request),
            (false, false) => {}
            _ => return Err(Errno::PERM.into()),
        }
        // An exchange is one in both directions.
        let swapped = flags.contains(RenameFlags::EXCHANGE)
            && self.is_checkpoint(from.0, from.1)?
            && !self.is_checkpoint(to.0, to.1)?;
        let (from, to) = if swapped { (to, from) } else { (from, to) };
        self.make_shown(from, request)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            self.make_shown(to, request)?;
        }
        let stat = sys::stat(&*self.dir(from.0)?.fd, from.1)?;
        let other = if flags.contains(RenameFlags::EXCHANGE) {
            Some(sys::stat(&*self.dir(to.0)?.fd, to.1)?)
        } else {
            None
        };
        if !is_file(&stat) {
            self.must_be_a_file(to.0, to.1)?;
        }
        if other.is_some_and(|other| !is_file(&other)) {
            self.must_be_a_file(from.0, from.1)?;
        }
        if self.is_checkpoint(to.0, to.1)? {
            if flags.contains(RenameFlags::NOREPLACE) {
                self.make_way(to.0, to.1, request)?;
            }
            self.rename_to_checkpoint(from, to.0, &stat, flags, request)?;
        } else if self.keep_as_backup(from, to, flags, request)? {
            return Ok(());
        } else {
            let (source, target) = (self.dir(from.0)?, self.dir(to.0)?);
            self.renaming(|| {
                request
                    .caller
                    .act_if_seen(|| sys::rename(&*source.fd, from.1, &*target.fd, to.1, flags))?;
                self.nodes.renamed(stat.stx_ino, to.0, to.1);
                sys::Result::Ok(())
            })?;
        }
        self.nodes.renamed(stat.stx_ino, to.0, to.1);
        if self.is_checkpoint(to.0, to.1)? {
            self.nodes.became_checkpoint(stat.stx_ino, to.0);
        }
        if let Some(other) = other {
            self.nodes.renamed(other.stx_ino, from.0, from.1);
        }
        Ok(())
    }

    fn rename_session(
        &self,
        from: &OsStr,
        to: &OsStr,
        flags: RenameFlags,
        request: Request,
    ) -> Result<()> {
        let old = SessionName::new(from).map_err(|_| Errno::NOENT)?;
        let new = SessionName::new(to)?;
        request.patience.must_wait()?;
        let root = self.dir(ROOT)?;
        let moved = sys::stat(&*root.fd, from)?;
        let other = sys::stat(&*root.fd, to).ok();
        if let Some(replaced) = other.filter(|_| flags.is_empty()) {
            // To who has removed its checkpoint it may be empty.
            self.complete_removal(replaced.stx_ino, request)?;
        }
        Ok(self.repository.rename_by(&old, |root| {
            self.renaming(|| {
                let (old, new) = (old.as_os_str(), new.as_os_str());
                request
                    .caller
                    .act_if_seen(|| sys::rename(root, old, root, new, flags))?;
                self.nodes.renamed(moved.stx_ino, ROOT, to);
                if let Some(other) = other.filter(|_| flags.contains(RenameFlags::EXCHANGE)) {
                    self.nodes.renamed(other.stx_ino, ROOT, from);
                }
                Ok(())
            })
        })?)
    }

    /// Renames a directory, while nobody looks for it by its name.
    fn renaming<T>(&self, rename: impl FnOnce() -> T) -> T {
        let _renaming = self.names.write().unwrap_or_else(PoisonError::into_inner);
        rename()
    }

    fn rename_to_checkpoint(
        &self,
        from: Place<'_>,
        to: u64,
        stat: &Statx,
        flags: RenameFlags,
        request: Request,
    ) -> Result<()> {
        let source = self.dir(from.0)?;
        request.patience.must_wait()?;
        let session = self.session(to)?;
        let mut writers = self.keep_writers_out(to, request.caller)?;
        let replaced = session.checkpoint().ok().flatten();
        // Whoever made `session.next` through this mount has it open still,
        // or is the original's kind of program, which does not mark it.
        let owns_lock =
            from == (to, OsStr::new(LOCK)) && self.nodes.open_file(stat.stx_ino).is_some();
        let exchanges =
            self.is_checkpoint(from.0, from.1)? && flags.contains(RenameFlags::EXCHANGE);
        // Under its other name, as a backup: rename(2) leaves both names of one file
        // where they are.
        let promised = self.removals.promised(to, stat.stx_ino);
        let is_it = promised.is_some()
            || (replaced.as_ref()).is_some_and(|old| old.stat().stx_ino == stat.stx_ino);
        self.count_save(&session, || {
            if owns_lock {
                session.adopt_lock()?;
            } else if exchanges {
                let _theirs = self.keep_writers_out(from.0, request.caller)?;
                session.exchange(&self.session(from.0)?)?;
            } else if flags.is_empty() && is_it {
                let take_back = || session.take_back(&*source.fd, from.1);
                match &promised {
                    Some(removal) => removal.instead(take_back)?,
                    None => take_back()?,
                }
            } else {
                session.adopt(&*source.fd, from.1, flags)?;
            }
            Ok(())
        })?;
        if !exchanges {
            writers.lose_names();
            if let Some(replaced) = replaced {
                self.replacements.keep(&replaced);
            }
        }
        self.removals.forget(to);
        Ok(())
    }

    /// Makes a save that no writer makes.
    fn count_save(&self, session: &Session, save: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let saved = save();
        match saved {
            Ok(()) => self.statistics.saved(session.name(), start.elapsed()),
            Err(Fail::Errno(errno)) => self.statistics.failed(session.name(), errno),
            Err(Fail::WouldBlock) => {}
        }
        saved
    }

    /// Programs that make a backup by renaming the old file away (`mv -b`,
    /// `sed -i.bak`, vim) make one save as well: the checkpoint gets the other
    /// name in addition, and its removal is promised. Answers whether that was
    /// done; where it cannot be, it is an ordinary rename.
    fn keep_as_backup(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        flags: RenameFlags,
        request: Request,
    ) -> Result<bool> {
        if !(flags - RenameFlags::NOREPLACE).is_empty() || !self.is_checkpoint(from.0, from.1)? {
            return Ok(false);
        }
        request.patience.must_wait()?;
        let session = self.session(from.0)?;
        let checkpoint = match session.checkpoint() {
            Ok(Some(checkpoint)) => checkpoint,
            Err(error) if error.kind() != Kind::NotAFile => return Err(error.into()),
            _ => return Ok(false),
        };
        if session.is_locked()? {
            return Err(Errno::BUSY.into());
        }
        let target = self.dir(to.0)?;
        match checkpoint.link(&*target.fd, to.1, flags)? {
            Linked::Yes => {}
            Linked::ItIsTheSame => return Ok(true),
            Linked::Impossible => return Ok(false),
        }
        let share = self.share_of_removal(request.caller);
        let asked = (self.removals).ask(from.0, session, checkpoint, request.caller.tid, share);
        if let Asked::Due(removal) = asked {
            carry_out(&removal, request.patience)?;
        }
        Ok(true)
    }

    /// Gives a file another name. A regular file that gets the name of a
    /// checkpoint where there is none is a save.
    ///
    /// # Errors
    /// `EPERM` in the root, and if what is no regular file would get the name of a
    /// checkpoint; `EBUSY`, and those of link(2).
    pub fn link(&self, id: u64, parent: u64, name: &OsStr, request: Request) -> Result<Entry> {
        if parent == ROOT {
            return Err(Errno::PERM.into());
        }
        let file = match self.make_shown_node(id, request)? {
            Some(made) => Arc::new(made),
            None => self.linked_file(id)?,
        };
        if !is_file(&sys::fstat(&*file)?) {
            self.must_be_a_file(parent, name)?;
        }
        self.make_way(parent, name, request)?;
        let dir = self.dir(parent)?;
        if self.is_checkpoint(parent, name)? {
            request.patience.must_wait()?;
            let _writers = self.keep_writers_out(parent, request.caller)?;
            let session = self.session(parent)?;
            self.count_save(&session, || Ok(session.adopt_link(&*file)?))?;
            self.removals.forget(parent);
            return self.lookup(parent, name, request);
        }
        sys::link_fd(&*file, &*dir.fd, name)?;
        self.other_entry(parent, &dir, name, request.caller)
    }

    /// The file to be linked. One without a name is refused as on any
    /// filesystem, which a descriptor of ours would not notice.
    fn linked_file(&self, id: u64) -> Result<Arc<std::os::fd::OwnedFd>> {
        let file = match self.path_fd(id) {
            Err(Fail::Errno(libc::ENOENT | libc::ESTALE)) => self.nodes.open_file(id),
            other => Some(other?),
        };
        file.ok_or_else(|| Errno::NOENT.into())
    }

    /// Promises the removal of a checkpoint, or does it: see [`Removal`].
    pub(super) fn remove_checkpoint(
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
            self.removals
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
        let asked = (self.removals).ask(node, session, checkpoint, request.caller.tid, share);
        if let Asked::Due(removal) = asked {
            carry_out(&removal, request.patience)?;
        }
        self.own_writers_lose_names(node, request.caller);
        Ok(())
    }

    /// For the descriptors that a removal keeps. Whoever has none left is not
    /// refused: the removal is done at once.
    fn share_of_removal(&self, caller: Caller) -> Option<Share> {
        self.reserve(caller, OF_REMOVAL).ok()
    }

    /// What the caller's process has open for writing has lost its name to it:
    /// that is a file without a name, as anywhere.
    fn own_writers_lose_names(&self, session: u64, caller: Caller) {
        if let Some(slot) = self.slots.find(session) {
            for writer in slot.writers_of(caller.tid) {
                writer.lose_name();
            }
        }
    }

    /// Does a removal whose process has ended, for one who looks.
    pub(super) fn settle_removal(&self, node: u64, patience: Patience) -> Result<()> {
        let Some(removal) = self.removals.due(node) else {
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
    pub(super) fn complete_removal(&self, node: u64, request: Request) -> Result<()> {
        match self.removals.asked_by(request.caller.tid, node) {
            Some(removal) => carry_out(&removal, request.patience),
            None => Ok(()),
        }
    }

    /// The same before something is made of that name otherwise than by a
    /// save, which replaces it.
    pub(super) fn make_way(&self, parent: u64, name: &OsStr, request: Request) -> Result<()> {
        if self.is_checkpoint(parent, name)? {
            self.complete_removal(parent, request)?;
        }
        Ok(())
    }

    /// Whether the caller has removed this checkpoint: to him it is not there.
    pub(super) fn has_removed(&self, node: u64, checkpoint: &Checkpoint, caller: Caller) -> bool {
        self.has_removed_inode(node, checkpoint.stat().stx_ino, caller)
    }

    pub(super) fn has_removed_inode(&self, node: u64, ino: u64, caller: Caller) -> bool {
        let removal = self.removals.asked_by(caller.tid, node);
        removal.is_some_and(|removal| removal.is_of(ino))
    }

    /// Removals that are due are done, from time to time; never returns.
    pub fn carry_out_removals(&self) {
        loop {
            let mut is_left = false;
            for removal in self.removals.wait_for_due() {
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
                Removals::wait_to_retry();
            }
        }
    }

    /// Does all removals that have been promised, at the end of the mount.
    pub(super) fn finish_removals(&self) {
        for removal in self.removals.pending() {
            if let Err(error) = removal.carry_out_at_last() {
                log::error!("{error}; it was to be removed");
            }
        }
    }

    /// While the value lives no writer of this mount begins a save. The caller's
    /// own is not in its way.
    pub(super) fn keep_writers_out(&self, session: u64, caller: Caller) -> Result<KeptOut> {
        let slot = self.slots.of(session);
        // No writer has the number of a node that is no writer's.
        let owner = Owner {
            writer: ROOT,
            process: Process::UNKNOWN,
        };
        let taken_from = match slot.take(owner, None) {
            Ok(()) => None,
            Err(_) => slot.take_from_own(owner, caller.tid),
        };
        slot.take(owner, None).map_err(|_| Errno::BUSY)?;
        Ok(KeptOut {
            slot,
            taken_from,
            tid: caller.tid,
        })
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

pub(super) fn carry_out(removal: &Removal, patience: Patience) -> Result<()> {
    patience.must_wait()?;
    Ok(removal.carry_out()?)
}

/// A slot that is taken, and given back when this is dropped.
pub(super) struct KeptOut {
    slot: Arc<Slot>,
    /// The caller's own writer, if that had it.
    taken_from: Option<Owner>,
    tid: u32,
}

impl KeptOut {
    /// Another file has the name: what the caller's process has open for writing
    /// has none any more.
    fn lose_names(&mut self) {
        self.taken_from = None;
        for writer in self.slot.writers_of(self.tid) {
            writer.lose_name();
        }
    }
}

impl Drop for KeptOut {
    fn drop(&mut self) {
        match self.taken_from {
            Some(writer) => self.slot.give_back(ROOT, writer),
            None => self.slot.free(ROOT),
        }
    }
}
