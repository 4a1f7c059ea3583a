//! What the name `session` leads to, for one caller (DESIGN 4, 2.8, 2.12).

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use fuser::{FileAttr, INodeNo};

use crate::fs::entry::Entry;
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::{Identity, Role, empty_id, other_role};
use crate::fs::options::Missing;
use crate::fs::request::{Caller, Patience, Request};
use crate::fs::session::found::Found;
use crate::fs::session::threads::LookedUp;
use crate::fs::session::writer::{Writer, absent_attr, shown_as_own};
use crate::repo::CHECKPOINT;
use crate::sys::{self, Errno, is_file};

/// What a caller finds under the name `session`.
pub(in crate::fs) enum View {
    /// A checkpoint that has been replaced, shown once more for its watchers.
    Replaced(Entry),
    /// A writer of the calling process.
    Writer(Arc<Writer>),
    /// The current checkpoint, or an empty one if there is none.
    Current(Entry),
    /// Nothing: the caller has removed the checkpoint, or is about to make the first one.
    Absent,
}

impl Fs {
    /// Answers a lookup of `session`.
    ///
    /// # Errors
    /// `WouldBlock` if a due removal must be carried out; `ESTALE` if the session has
    /// moved.
    pub(in crate::fs) fn view(&self, session: u64, request: Request) -> Result<View> {
        let caller = request.caller;
        if let Some(replaced) = self.replaced_entry(caller, session) {
            return Ok(View::Replaced(replaced?));
        }
        let known = self.threads.come_to_name(caller.tid, session);
        if let Some(writer) = known.writer {
            return Ok(View::Writer(writer));
        }
        if let Some(writer) = self.made_anew(session, caller) {
            return Ok(View::Writer(writer));
        }
        self.carry_out_due_removal(session, request.patience)?;
        self.carry_out_before_renaming_back(session, request)?;
        let entry = self.lookup_checkpoint(session, caller)?;
        if self.is_absent_to(caller, session, entry.attr.ino.0, known.found) {
            self.lasting.nodes.forget(entry.attr.ino.0, 1);
            return Ok(View::Absent);
        }
        Ok(View::Current(entry))
    }

    /// Whether the caller must see no checkpoint: it has removed it, or there is none and
    /// it is about to make one.
    fn is_absent_to(
        &self,
        caller: Caller,
        session: u64,
        id: u64,
        found_before: Option<Found>,
    ) -> bool {
        if id == empty_id(session) {
            self.lasting
                .sessions
                .removed_by(caller.tid, session)
                .is_some()
                || self.must_see_absence(caller.tid, found_before)
        } else {
            self.has_removed_inode(session, id, caller)
        }
    }

    /// The writer of a new checkpoint that the calling process has created and has still
    /// open. Only that process sees it before it is closed (DESIGN 2.12).
    fn made_anew(&self, session: u64, caller: Caller) -> Option<Arc<Writer>> {
        let live = self.lasting.sessions.find(session)?;
        let mut writers = live.writers_of(caller.tid).into_iter();
        // After a save point, the path leads it to the checkpoint, like any other caller.
        writers.find(|writer| writer.is_new())
    }

    /// The current checkpoint of a session, kept open for the caller's OPEN.
    pub(in crate::fs) fn lookup_checkpoint(&self, parent: u64, caller: Caller) -> Result<Entry> {
        let dir = self.dir(parent)?;
        let name = OsStr::new(CHECKPOINT);
        let fd = match sys::open_path(&*dir.fd, name) {
            Err(Errno::NOENT) if self.options.missing == Missing::Empty => {
                return self.empty_entry(parent, caller);
            }
            other => other?,
        };
        let stat = sys::fstat(&fd)?;
        if !is_file(&stat) {
            return Ok(self.entry(parent, name, other_role(&stat), &stat, self.birth(&stat)));
        }
        // Saves reuse inode numbers within moments, and the birth time is too coarse to
        // tell the files apart.
        let identity = Identity {
            handle: sys::handle_digest(&fd).ok(),
            ..self.birth(&stat)
        };
        let entry = self.entry(parent, name, Role::Checkpoint, &stat, identity);
        let looked_up = LookedUp {
            held: Some(self.lasting.nodes.hold(stat.stx_ino, fd)),
            found: Some(Found::now()),
            link_of: None,
        };
        self.threads.looked_up(caller, looked_up);
        Ok(entry)
    }

    fn empty_entry(&self, parent: u64, caller: Caller) -> Result<Entry> {
        let session = self.session(parent)?;
        let id = empty_id(parent);
        let attr = shown_as_own(absent_attr(&session, id)?, &session, caller)?;
        let name = OsStr::new(CHECKPOINT);
        Ok(Entry {
            generation: self.lasting.nodes.remember(
                id,
                parent,
                name,
                Role::Empty,
                Identity::default(),
            ),
            attr,
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        })
    }

    pub(in crate::fs) fn writer_entry(
        &self,
        parent: u64,
        writer: &Arc<Writer>,
        patience: Patience,
    ) -> Result<Entry> {
        let attr = FileAttr {
            // In a lookup's answer this is the node id.
            ino: INodeNo(writer.ino),
            ..writer.attr(patience)?
        };
        let role = Role::Writer(writer.clone());
        let name = OsStr::new(CHECKPOINT);
        Ok(Entry {
            generation: self.lasting.nodes.remember(
                writer.ino,
                parent,
                name,
                role,
                Identity::default(),
            ),
            attr,
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        })
    }

    /// A program that has made a save point and goes on writing may compare the file it
    /// has open with the path (sqlite). It must see one inode number. Returns that
    /// number, for the process of the writer.
    pub(in crate::fs) fn shown_to_writer(&self, id: u64, caller: Caller) -> Option<u64> {
        let Some(Role::Checkpoint) = self.lasting.nodes.role(id) else {
            return None;
        };
        let (session, _) = self.lasting.nodes.parent_and_name(id)?;
        let published = self.lasting.sessions.find(session)?.slot.last_published()?;
        let is_own = published.checkpoint == id && published.process.has_thread(caller.tid);
        is_own.then_some(published.shown)
    }
}
