//! LOOKUP of names. `session/view` decides what the name `session` leads to; any other is
//! a name of the backing filesystem (DESIGN 2.10 and 2.13).

use std::ffi::OsStr;
use std::time::Duration;

use crate::fs::attr::attr_of;
use crate::fs::dir::Dir;
use crate::fs::entry::{DIRECTORY_TTL, Entry};
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::{Identity, REPORT_NAME, ROOT, Role, other_role};
use crate::fs::request::{Caller, Request};
use crate::fs::session::found::Found;
use crate::fs::session::threads::LookedUp;
use crate::fs::session::view::View;
use crate::repo::{CHECKPOINT, SessionName};
use crate::sys::{self, Errno, Statx, device, is_dir};

impl Fs {
    /// Looks up a name. A thread that is about to open a checkpoint for writing gets its
    /// writer.
    ///
    /// # Errors
    /// `ENOENT`; `ESTALE` if the directory has moved.
    pub fn lookup(&self, parent: u64, name: &OsStr, request: Request) -> Result<Entry> {
        match self.role(parent)? {
            Role::Root => self.lookup_session(name, request.caller),
            Role::Session if name == CHECKPOINT => match self.view(parent, request)? {
                View::Writer(writer) => self.writer_entry(parent, &writer, request.patience),
                View::Replaced(entry) | View::Current(entry) => Ok(entry),
                View::Absent => Err(Errno::NOENT.into()),
            },
            _ => {
                let dir = self.dir(parent)?;
                self.other_entry(parent, &dir, name, request.caller)
            }
        }
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
        // What goes by a session's directory must not go over to another one that
        // has got its number: the time of birth is too coarse for that.
        let identity = Identity {
            handle: sys::handle_digest(&file).ok(),
            ..self.birth(&stat)
        };
        let entry = self.entry(ROOT, name, Role::Session, &stat, identity);
        let looked_up = LookedUp {
            held: Some(self.lasting.nodes.hold(stat.stx_ino, file)),
            ..LookedUp::default()
        };
        self.threads.looked_up(caller, looked_up);
        Ok(entry)
    }

    pub(in crate::fs) fn other_entry(
        &self,
        parent: u64,
        dir: &Dir,
        name: &OsStr,
        caller: Caller,
    ) -> Result<Entry> {
        let file = sys::open_path(&*dir.fd, name)?;
        let stat = sys::fstat(&file)?;
        if device(&stat) != device(&dir.stat) {
            // A mount inside the repository is not crossed: its inode numbers are not
            // ours.
            return Err(Errno::NOENT.into());
        }
        let mut looked_up = LookedUp::default();
        if !is_dir(&stat) {
            looked_up.found = Some(Found::now());
            self.note_other_name(&stat, caller);
        }
        if self.lasting.nodes.session(stat.stx_ino).is_some() {
            looked_up.link_of = Some(stat.stx_ino);
        }
        if self.is_linked_checkpoint(&stat) {
            self.threads.looked_up(caller, looked_up);
            return Ok(Entry {
                attr: attr_of(&stat, stat.stx_ino),
                generation: self.lasting.nodes.remember_link(stat.stx_ino).unwrap_or(0),
                entry_ttl: Duration::ZERO,
                attr_ttl: Duration::ZERO,
            });
        }
        let entry = self.entry(parent, name, other_role(&stat), &stat, self.birth(&stat));
        looked_up.held = Some(self.lasting.nodes.hold(stat.stx_ino, file));
        self.threads.looked_up(caller, looked_up);
        Ok(entry)
    }

    /// Whether this is a checkpoint that has been found under another of its names. It
    /// keeps its one node, with the role of a checkpoint.
    fn is_linked_checkpoint(&self, stat: &Statx) -> bool {
        if stat.stx_nlink < 2
            || !matches!(
                self.lasting.nodes.role(stat.stx_ino),
                Some(Role::Checkpoint)
            )
        {
            return false;
        }
        let current = || {
            let (session, name) = self
                .lasting
                .nodes
                .parent_and_name(stat.stx_ino)
                .ok_or(Errno::STALE)?;
            let is_its_own = self.is_checkpoint(session, &name)?;
            Ok(is_its_own && sys::stat(&*self.dir(session)?.fd, &name)?.stx_ino == stat.stx_ino)
        };
        let current: Result<bool> = current();
        current.unwrap_or(false)
    }

    pub(in crate::fs) fn entry(
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
            generation: (self.lasting.nodes).remember(stat.stx_ino, parent, name, role, identity),
            entry_ttl,
            attr_ttl,
        }
    }

    /// How long the kernel may keep the attributes of a node.
    pub fn attr_ttl(&self, id: u64) -> Duration {
        (self.lasting.nodes.role(id)).map_or(Duration::ZERO, |role| self.attr_ttl_of(&role))
    }

    /// A checkpoint's attributes are not kept: another file may have its name by now.
    fn attr_ttl_of(&self, role: &Role) -> Duration {
        match role {
            Role::Root | Role::Session | Role::Directory | Role::Other => {
                self.options.attr_timeout.unwrap_or(Duration::ZERO)
            }
            Role::Checkpoint | Role::Empty | Role::Writer(_) | Role::Report => Duration::ZERO,
        }
    }

    /// What tells inodes apart without a further call. Nothing where the filesystem has
    /// no birth time, or changes it: on overlayfs it changes when the first write copies
    /// a file up, and the number stays.
    pub(in crate::fs) fn birth(&self, stat: &Statx) -> Identity {
        // Deferral only once, as this is part of every lookup.
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
}
