//! Names and attributes: LOOKUP and GETATTR.

use super::request::{Patience, Request};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use super::absence::Missing;
use super::attr::attr_of;
use super::errno::Result;
use super::handle::Handle;
use super::node::{Identity, ROOT, Role, empty_id};
use super::report::REPORT_NAME;
use super::writer::{Writer, empty_attr};
use super::{Caller, DIRECTORY_TTL, Dir, Entry, Fs};
use crate::repo::{CHECKPOINT, Session, SessionName};
use crate::sys::{self, Errno, Statx};

impl Fs {
    /// Finds a name, for the thread that asks: one that is about to open a
    /// checkpoint for writing is shown its writer.
    ///
    /// # Errors
    /// `ENOENT`; `ESTALE` if the directory is not where it was.
    pub fn lookup(&self, parent: u64, name: &OsStr, request: Request) -> Result<Entry> {
        match self.role(parent)? {
            Role::Root => self.lookup_session(name, request.caller),
            Role::Session if name == CHECKPOINT => {
                if let Some(replaced) = self.replaced_entry(request.caller, parent) {
                    return replaced;
                }
                if let Some(writer) = self.retries.lookup(request.caller.tid, parent) {
                    return self.writer_entry(parent, &writer, request.patience);
                }
                if let Some(writer) = self.made_anew(parent, request.caller) {
                    return self.writer_entry(parent, &writer, request.patience);
                }
                self.settle_removal(parent, request.patience)?;
                self.make_way_for_other_name(parent, request)?;
                let entry = self.lookup_checkpoint(parent, request.caller)?;
                if self.is_absent_to(request.caller, parent, entry.attr.ino.0) {
                    self.nodes.forget(entry.attr.ino.0, 1);
                    return Err(Errno::NOENT.into());
                }
                Ok(entry)
            }
            _ => {
                let dir = self.dir(parent)?;
                self.other_entry(parent, &dir, name, request.caller)
            }
        }
    }

    /// Whether the caller is to find no checkpoint: he has removed it, or there
    /// is none and he is about to make it.
    fn is_absent_to(&self, caller: Caller, session: u64, found: u64) -> bool {
        if found == empty_id(session) {
            self.removals.asked_by(caller.tid, session).is_some()
                || self.is_told_of_absence(caller.tid)
        } else {
            self.has_removed_inode(session, found, caller)
        }
    }

    /// The checkpoint that the caller's process has made where it found none, and
    /// has open: nobody else sees it before it is closed (DESIGN 2.12).
    fn made_anew(&self, session: u64, caller: Caller) -> Option<Arc<Writer>> {
        let slot = self.slots.find(session)?;
        // What it has made a save point of, it finds like everybody.
        let published = slot.last_published().map(|published| published.writer);
        let mut writers = slot.writers_of(caller.tid).into_iter();
        writers.find(|writer| writer.is_new() && Some(writer.ino) != published)
    }

    fn lookup_session(&self, name: &OsStr, caller: Caller) -> Result<Entry> {
        if name == REPORT_NAME {
            return self.report_entry();
        }
        let name = SessionName::new(name).map_err(|_| Errno::NOENT)?;
        let dir = self.dir(ROOT)?;
        let file = sys::open_path(&*dir.fd, name.as_os_str())?;
        let stat = sys::fstat(&file)?;
        if !is_dir(&stat) || device(&stat) != device(&dir.stat) {
            return Err(Errno::NOENT.into());
        }
        let name = name.as_os_str();
        Ok(self.held_entry((ROOT, name), Role::Session, &stat, file, caller))
    }

    /// The current checkpoint of a session, held for the caller's open.
    pub(super) fn lookup_checkpoint(&self, parent: u64, caller: Caller) -> Result<Entry> {
        let dir = self.dir(parent)?;
        let name = OsStr::new(CHECKPOINT);
        let fd = match sys::open_path(&*dir.fd, name) {
            Err(Errno::NOENT) if self.options.missing == Missing::Empty => {
                return self.empty_entry(parent);
            }
            other => other?,
        };
        let stat = sys::fstat(&fd)?;
        if !is_file(&stat) {
            return Ok(self.entry(parent, name, other_role(&stat), &stat, self.birth(&stat)));
        }
        // Saves use inode numbers again within moments: the time of birth is
        // too coarse for that.
        let identity = Identity {
            handle: sys::handle_digest(&fd).ok(),
            ..self.birth(&stat)
        };
        let entry = self.entry(parent, name, Role::Checkpoint, &stat, identity);
        (self.holds).begin(caller, self.nodes.hold(stat.stx_ino, fd));
        self.found.note(caller.tid);
        Ok(entry)
    }

    fn empty_entry(&self, parent: u64) -> Result<Entry> {
        let session = self.session(parent)?;
        let id = empty_id(parent);
        let attr = absent_attr(&session, id)?;
        let name = OsStr::new(CHECKPOINT);
        Ok(Entry {
            generation: self
                .nodes
                .remember(id, parent, name, Role::Empty, Identity::default()),
            attr,
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        })
    }

    pub(super) fn writer_entry(
        &self,
        parent: u64,
        writer: &Arc<Writer>,
        patience: Patience,
    ) -> Result<Entry> {
        let attr = FileAttr {
            // Here it is the node id.
            ino: INodeNo(writer.ino),
            ..writer.attr(patience)?
        };
        let role = Role::Writer(writer.clone());
        let name = OsStr::new(CHECKPOINT);
        Ok(Entry {
            generation: self
                .nodes
                .remember(writer.ino, parent, name, role, Identity::default()),
            attr,
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        })
    }

    pub(super) fn other_entry(
        &self,
        parent: u64,
        dir: &Dir,
        name: &OsStr,
        caller: Caller,
    ) -> Result<Entry> {
        let file = sys::open_path(&*dir.fd, name)?;
        let stat = sys::fstat(&file)?;
        if device(&stat) != device(&dir.stat) {
            // A mount inside the repository is not crossed: its inode numbers
            // are not ours.
            return Err(Errno::NOENT.into());
        }
        if !is_dir(&stat) {
            self.found.note(caller.tid);
            self.note_other_name(&stat, caller);
        }
        if self.nodes.session(stat.stx_ino).is_some() {
            self.retries.looked_up_link(caller.tid, stat.stx_ino);
        }
        if self.is_linked_checkpoint(&stat) {
            return Ok(Entry {
                attr: attr_of(&stat, stat.stx_ino),
                generation: self.nodes.remember_link(stat.stx_ino).unwrap_or(0),
                entry_ttl: Duration::ZERO,
                attr_ttl: Duration::ZERO,
            });
        }
        Ok(self.held_entry((parent, name), other_role(&stat), &stat, file, caller))
    }

    /// An entry of what is no checkpoint, held until the kernel has heard of it.
    fn held_entry(
        &self,
        (parent, name): (u64, &OsStr),
        role: Role,
        stat: &Statx,
        file: OwnedFd,
        caller: Caller,
    ) -> Entry {
        let entry = self.entry(parent, name, role, stat, self.birth(stat));
        (self.holds).begin(caller, self.nodes.hold(stat.stx_ino, file));
        entry
    }

    /// Whether this is a checkpoint that has been found under another name,
    /// too. It has one node: what is known of a checkpoint stays true of it.
    fn is_linked_checkpoint(&self, stat: &Statx) -> bool {
        if stat.stx_nlink < 2 || !matches!(self.nodes.role(stat.stx_ino), Some(Role::Checkpoint)) {
            return false;
        }
        let current = || {
            let (session, name) = self.nodes.place(stat.stx_ino).ok_or(Errno::STALE)?;
            let is_its_own = self.is_checkpoint(session, &name)?;
            Ok(is_its_own && sys::stat(&*self.dir(session)?.fd, &name)?.stx_ino == stat.stx_ino)
        };
        let current: Result<bool> = current();
        current.unwrap_or(false)
    }

    pub(super) fn entry(
        &self,
        parent: u64,
        name: &OsStr,
        role: Role,
        stat: &Statx,
        identity: Identity,
    ) -> Entry {
        let entry_ttl = match role {
            Role::Session | Role::Directory => self.options.entry_timeout.unwrap_or(DIRECTORY_TTL),
            _ => Duration::ZERO,
        };
        let attr_ttl = self.attr_ttl_of(&role);
        Entry {
            attr: attr_of(stat, stat.stx_ino),
            generation: (self.nodes).remember(stat.stx_ino, parent, name, role, identity),
            entry_ttl,
            attr_ttl,
        }
    }

    /// How long the kernel may believe the attributes of a node without
    /// asking.
    pub fn attr_ttl(&self, id: u64) -> Duration {
        (self.nodes.role(id)).map_or(Duration::ZERO, |role| self.attr_ttl_of(&role))
    }

    /// Those of a checkpoint never: another one may have its place.
    fn attr_ttl_of(&self, role: &Role) -> Duration {
        match role {
            Role::Root | Role::Session | Role::Directory | Role::Other => {
                self.options.attr_timeout.unwrap_or(Duration::ZERO)
            }
            Role::Checkpoint | Role::Empty | Role::Writer(_) | Role::Report => Duration::ZERO,
        }
    }

    /// What tells inodes apart at no cost; nothing where the filesystem does not
    /// keep the time of birth, or changes it: on overlayfs it becomes another
    /// when the first change copies a file up, and the number stays.
    pub(super) fn birth(&self, stat: &Statx) -> Identity {
        // Asked once: this is on the way of every lookup.
        let keeps_births = self.keeps_births.get().copied().or_else(|| {
            let root = self.repository.root().ok()??;
            Some(*self.keeps_births.get_or_init(|| !sys::is_overlay(&*root)))
        });
        if keeps_births != Some(true) {
            return Identity::default();
        }
        let seconds = stat.stx_btime.tv_sec.cast_unsigned();
        let birth = seconds.wrapping_mul(1_000_000_000);
        Identity {
            birth: birth.wrapping_add(stat.stx_btime.tv_nsec.into()),
            handle: None,
        }
    }

    /// The attributes of a node, or of a handle if there is one.
    ///
    /// # Errors
    /// `ESTALE` if the node is not where it was; `EACCES` of the root, if the
    /// caller cannot get to the repository.
    pub fn getattr(&self, id: u64, handle: Option<u64>, request: Request) -> Result<FileAttr> {
        if id == ROOT {
            self.admit(request.caller)?;
        }
        if handle.is_none()
            && let Some(writer) = self.own_sharer(id, request.caller)
        {
            return writer.attr(request.patience);
        }
        let mut attr = self.attributes(id, handle, request.patience)?;
        if let Some(shown) = self.shown_to_writer(id, request.caller) {
            attr.ino = INodeNo(shown);
        }
        Ok(attr)
    }

    /// Who has made a save point and goes on writing compares the file that he
    /// has open with what the path shows (sqlite): it is one file to him.
    fn shown_to_writer(&self, id: u64, caller: Caller) -> Option<u64> {
        let Some(Role::Checkpoint) = self.nodes.role(id) else {
            return None;
        };
        let (session, _) = self.nodes.place(id)?;
        let published = self.slots.find(session)?.last_published()?;
        let is_his = published.checkpoint == id && published.process.has_thread(caller.tid);
        is_his.then_some(published.shown)
    }

    /// The same for whoever is here already.
    pub(super) fn attributes(
        &self,
        id: u64,
        handle: Option<u64>,
        patience: Patience,
    ) -> Result<FileAttr> {
        if let Some(handle) = handle {
            match &*self.handles.get(handle)? {
                Handle::File { file, .. } => return Ok(attr_of(&sys::fstat(&**file)?, id)),
                Handle::Writer(writer) => return writer.attr(patience),
                Handle::Directory(_) | Handle::Report(_) => {}
            }
        }
        if let Some(session) = self.nodes.follows(id) {
            return self.followed_attr(id, session);
        }
        match self.role(id)? {
            Role::Root => self.root_attr(),
            Role::Report => self.report_attr(),
            Role::Writer(writer) => writer.attr(patience),
            Role::Empty => {
                let (parent, _) = self.nodes.place(id).ok_or(Errno::STALE)?;
                match self.session(parent) {
                    Ok(session) => absent_attr(&session, id),
                    // Who has it open still, sees a file without a name.
                    Err(_) => Ok(FileAttr {
                        ino: INodeNo(id),
                        nlink: 0,
                        size: 0,
                        blocks: 0,
                        kind: FileType::RegularFile,
                        perm: 0o444,
                        ..self.root_attr()?
                    }),
                }
            }
            Role::Session | Role::Directory => Ok(attr_of(&self.dir(id)?.stat, id)),
            Role::Checkpoint | Role::Other => {
                let file = self.path_fd(id)?;
                Ok(attr_of(&sys::fstat(file.as_fd())?, id))
            }
        }
    }

    /// The root's; of a repository that is still missing, those of an empty
    /// directory.
    pub(super) fn root_attr(&self) -> Result<FileAttr> {
        match self.repository.root()? {
            Some(root) => Ok(attr_of(&sys::fstat(&*root)?, ROOT)),
            None => Ok(FileAttr {
                ino: INodeNo(ROOT),
                size: 0,
                blocks: 0,
                atime: UNIX_EPOCH,
                mtime: UNIX_EPOCH,
                ctime: UNIX_EPOCH,
                crtime: UNIX_EPOCH,
                kind: FileType::Directory,
                perm: 0o755,
                nlink: 2,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                rdev: 0,
                blksize: 4096,
                flags: 0,
            }),
        }
    }
}

/// The attributes of a checkpoint that is not there: everybody may read it,
/// and who may make it, by the mode of its directory, may write it.
pub(super) fn absent_attr(session: &Session, id: u64) -> Result<FileAttr> {
    let dir = sys::fstat(session.dir())?;
    let mode = 0o444 | u32::from(dir.stx_mode) & 0o222;
    Ok(FileAttr {
        // Older than anything: what makes it must not take it for newer.
        mtime: UNIX_EPOCH,
        ..empty_attr(session, id, mode, None)?
    })
}

pub(super) fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

pub(super) fn is_dir(stat: &Statx) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_dir()
}

pub(super) fn is_file(stat: &Statx) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_file()
}

pub(super) fn other_role(stat: &Statx) -> Role {
    if is_dir(stat) {
        Role::Directory
    } else {
        Role::Other
    }
}
