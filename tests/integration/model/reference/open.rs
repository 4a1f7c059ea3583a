//! Opens, and operations on descriptors.

use super::{
    Directory, Flags, Found, Handle, Inode, Model, Open, Removal, Result, What, Writer, Wrong,
};
use crate::model::step::Bytes;

impl Model {
    pub(super) fn install(&mut self, descriptor: usize, open: Open) {
        self.handles.push(open);
        let handle = self.handles.len() - 1;
        self.descriptors[descriptor] = Some(handle);
        // A truncating open has changed it by now.
        if let What::Writer(writer) = &self.handles[handle].what
            && writer.staged.is_some()
        {
            self.directories[writer.dir].slot = Some(handle);
        }
    }

    pub(super) fn opened(&mut self, descriptor: usize) -> &mut Open {
        &mut self.handles[self.descriptors[descriptor].expect("it is open")]
    }

    pub(super) fn open(&mut self, dir: Directory, flags: Flags) -> Result<Open> {
        let creates = flags.has(libc::O_CREAT);
        let found = match self.find(dir) {
            // A call that creates only new files sees that there is none.
            Found::Empty if creates && flags.has(libc::O_EXCL) => Found::Nothing,
            found => found,
        };
        let base = match found {
            Found::Nothing if !creates => return Err(libc::ENOENT),
            Found::Nothing => return self.create(dir, flags),
            Found::Checkpoint(_) if creates && flags.has(libc::O_EXCL) => {
                return Err(libc::EEXIST);
            }
            Found::Checkpoint(inode) => Some(inode),
            Found::Empty | Found::Own(_) => None,
        };
        let mut open = Open {
            flags,
            at: 0,
            descriptors: 1,
            what: What::File(base, Some(dir)),
        };
        if flags.changes() {
            let mut writer = Writer {
                dir,
                base,
                removed: None,
                replaces: flags.has(libc::O_TRUNC),
                staged: None,
                failed: None,
                has_saved: false,
                is_new: false,
                is_nameless: false,
                only_appends: flags.writes() && !flags.reads() && flags.has(libc::O_APPEND),
            };
            if writer.replaces {
                self.stage(&mut writer, false, self.handles.len())?;
            }
            open.what = What::Writer(writer);
        }
        Ok(open)
    }

    /// A new checkpoint: even an empty one is saved.
    pub(super) fn create(&mut self, dir: Directory, flags: Flags) -> Result<Open> {
        let truncates = flags.has(libc::O_TRUNC) && !flags.has(libc::O_EXCL);
        let mut writer = Writer {
            dir,
            base: None,
            removed: self.directories[dir].checkpoint,
            replaces: truncates,
            staged: None,
            failed: None,
            has_saved: false,
            is_new: true,
            is_nameless: false,
            only_appends: false,
        };
        let staged = self.stage(&mut writer, false, self.handles.len());
        // The removal is part of this save from now on; if the save fails, the old
        // checkpoint stays.
        self.directories[dir].removal = None;
        staged?;
        Ok(Open {
            flags,
            at: 0,
            descriptors: 1,
            what: What::Writer(writer),
        })
    }

    /// The sessions that have this file as their checkpoint.
    pub(super) fn sessions_of(&self, inode: Inode) -> impl Iterator<Item = Directory> + use<'_> {
        let dirs = self.sessions.iter().flatten().copied();
        dirs.filter(move |dir| self.directories[*dir].checkpoint == Some(inode))
    }

    /// Whether two sessions have the same checkpoint: DESIGN does not say which of them
    /// is asked first when it is changed under a third name.
    pub(super) fn is_ambiguous(&self, dir: Directory, name: &str) -> bool {
        let inode = self.directories[dir].files.get(name);
        inode.is_some_and(|inode| self.sessions_of(*inode).count() > 1)
    }

    pub(super) fn open_file(
        &mut self,
        dir: Directory,
        name: &'static str,
        flags: Flags,
    ) -> Result<Open> {
        let inode = match self.directories[dir].files.get(name).copied() {
            Some(_) if flags.has(libc::O_CREAT) && flags.has(libc::O_EXCL) => {
                return Err(libc::EEXIST);
            }
            Some(inode) => inode,
            None if !flags.has(libc::O_CREAT) => return Err(libc::ENOENT),
            None => {
                let inode = self.new_inode(Bytes::default());
                self.directories[dir].files.insert(name, inode);
                inode
            }
        };
        if flags.changes() {
            // A checkpoint must not be changed under another name (I1).
            let of = self.sessions_of(inode).next();
            if let Some(of) = of {
                if self.directories[of].removal != Some(Removal::Promised(inode)) {
                    return Err(libc::EBUSY);
                }
                self.complete_removal(of)?;
            }
            if flags.has(libc::O_TRUNC) {
                self.inodes[inode].0.clear();
            }
        }
        Ok(Open {
            flags,
            at: 0,
            descriptors: 1,
            what: What::File(Some(inode), None),
        })
    }

    /// Makes sure that the writer has something staged: it has the slot then.
    pub(super) fn stage(&mut self, writer: &mut Writer, keep: bool, handle: Handle) -> Result<()> {
        if let Some(errno) = writer.failed {
            return Err(errno);
        }
        if writer.staged.is_some() {
            return Ok(());
        }
        let dir = &mut self.directories[writer.dir];
        if writer.is_nameless {
            if let Some(errno) = self.tmpfile_in_removed.filter(|_| dir.is_gone) {
                return Err(errno);
            }
            let base = writer.base.filter(|_| keep);
            let base = base.map_or_else(Bytes::default, |base| self.inodes[base].clone());
            writer.staged = Some(base);
            return Ok(());
        }
        if dir.slot.is_some_and(|owner| owner != handle) && self.wrong != Wrong::TwoWriters {
            return Err(libc::EBUSY);
        }
        if dir.is_locked && self.wrong != Wrong::ForeignLockIgnored {
            dir.slot = None;
            return Err(libc::EBUSY);
        }
        if let Some(errno) = self.tmpfile_in_removed.filter(|_| dir.is_gone) {
            if !writer.has_saved {
                dir.slot = None;
            }
            return Err(errno);
        }
        dir.slot = Some(handle);
        if writer.only_appends && !writer.has_saved && writer.base.is_some() {
            // It starts from the checkpoint that is current when it takes its turn.
            writer.base = dir.checkpoint.or(writer.base);
        }
        let base = writer.base.filter(|_| keep);
        writer.staged = Some(base.map_or_else(Bytes::default, |base| self.inodes[base].clone()));
        Ok(())
    }

    /// Publishes what is staged.
    pub(super) fn commit(&mut self, writer: &mut Writer) -> Result<()> {
        if writer.is_nameless && self.wrong != Wrong::KeepsName {
            return Ok(());
        }
        let Some(staged) = writer.staged.take() else {
            return Ok(());
        };
        let dir = &self.directories[writer.dir];
        let is_removed = dir.checkpoint.is_none() && writer.removed.is_some();
        if !writer.replaces
            && writer.removed.or(writer.base) != dir.checkpoint
            && !is_removed
            && self.wrong != Wrong::LostUpdate
        {
            return Err(libc::ESTALE);
        }
        if dir.is_locked && self.wrong != Wrong::ForeignLockIgnored {
            return Err(libc::EBUSY);
        }
        if dir.is_gone {
            return Err(libc::ENOENT);
        }
        let new = self.new_inode(staged);
        self.directories[writer.dir].checkpoint = Some(new);
        writer.removed = None;
        writer.base = Some(new);
        writer.has_saved = true;
        Ok(())
    }

    pub(super) fn close(&mut self, descriptor: usize) -> Result<()> {
        let handle = self.descriptors[descriptor].take().expect("it is open");
        let open = &mut self.handles[handle];
        open.descriptors -= 1;
        if open.descriptors > 0 {
            return Ok(());
        }
        self.with_writer(handle, |model, writer| {
            let result = match writer.failed.take() {
                Some(errno) if !writer.is_nameless => Err(errno),
                _ => model.commit(writer),
            };
            writer.staged = None;
            writer.has_saved = false;
            let slot = &mut model.directories[writer.dir].slot;
            slot.take_if(|owner| *owner == handle);
            result
        })
    }

    /// Does something with the writer of a handle, if it is one.
    pub(super) fn with_writer(
        &mut self,
        handle: Handle,
        f: impl FnOnce(&mut Self, &mut Writer) -> Result<()>,
    ) -> Result<()> {
        let nothing = What::File(None, None);
        let mut what = std::mem::replace(&mut self.handles[handle].what, nothing);
        let result = match &mut what {
            What::Writer(writer) => f(self, writer),
            What::File(..) => Ok(()),
        };
        self.handles[handle].what = what;
        result
    }

    /// What a descriptor shows.
    pub(super) fn content(&self, descriptor: usize) -> Bytes {
        self.content_of(self.descriptors[descriptor].expect("it is open"))
    }

    /// What an open file shows.
    pub(super) fn content_of(&self, handle: Handle) -> Bytes {
        let inode = match &self.handles[handle].what {
            What::File(_, Some(dir)) if self.wrong == Wrong::ReaderFollows => {
                self.directories[*dir].checkpoint
            }
            What::File(inode, _) => *inode,
            What::Writer(writer) => match &writer.staged {
                Some(staged) => return staged.clone(),
                None => writer.base,
            },
        };
        inode.map_or_else(Bytes::default, |inode| self.inodes[inode].clone())
    }

    pub(super) fn read(&mut self, descriptor: usize, len: usize) -> Result<Bytes> {
        if !self.opened(descriptor).flags.reads() {
            return Err(libc::EBADF);
        }
        let content = self.content(descriptor).0;
        let open = self.opened(descriptor);
        let start = (open.at as usize).min(content.len());
        let bytes = content[start..(start + len).min(content.len())].to_vec();
        open.at += bytes.len() as u64;
        Ok(Bytes(bytes))
    }

    /// A change of what a descriptor shows.
    pub(super) fn change(
        &mut self,
        descriptor: usize,
        keep: bool,
        change: impl FnOnce(&mut Bytes),
    ) -> Result<()> {
        let handle = self.descriptors[descriptor].expect("it is open");
        if let What::File(inode, _) = self.handles[handle].what {
            change(&mut self.inodes[inode.expect("nobody writes to an empty checkpoint")]);
            return Ok(());
        }
        self.with_writer(handle, |model, writer| {
            if let Err(errno) = model.stage(writer, keep, handle) {
                writer.failed.get_or_insert(errno);
                return Err(errno);
            }
            change(writer.staged.as_mut().expect("it is staged"));
            Ok(())
        })
    }

    pub(super) fn write(&mut self, descriptor: usize, len: usize, byte: u8) -> Result<()> {
        let open = self.opened(descriptor);
        if !open.flags.writes() {
            return Err(libc::EBADF);
        }
        let (at, appends) = (open.at as usize, open.flags.has(libc::O_APPEND));
        let mut end = 0;
        self.change(descriptor, true, |content| {
            let at = if appends { content.0.len() } else { at };
            content.write(at, len, byte);
            end = at + len;
        })?;
        self.opened(descriptor).at = end as u64;
        Ok(())
    }

    pub(super) fn set_len(&mut self, descriptor: usize, len: u64) -> Result<()> {
        if !self.opened(descriptor).flags.writes() {
            return Err(libc::EINVAL);
        }
        if let What::Writer(writer) = &mut self.opened(descriptor).what
            && len == 0
        {
            // A fresh start: earlier failures do not matter to it.
            writer.failed = None;
        }
        self.change(descriptor, len > 0, |content| {
            content.0.resize(len as usize, 0);
        })
    }

    pub(super) fn sync(&mut self, descriptor: usize) -> Result<()> {
        let handle = self.descriptors[descriptor].expect("it is open");
        let wrong = self.wrong;
        self.with_writer(handle, |model, writer| {
            if let Some(errno) = writer.failed.filter(|_| !writer.is_nameless) {
                return Err(errno);
            }
            if wrong == Wrong::NoSavePoint {
                return Ok(());
            }
            model.commit(writer).inspect_err(|errno| {
                writer.failed = Some(*errno);
            })
        })
    }

    /// The writers of a session that are open under its name.
    pub(super) fn own_writers(&self, dir: Directory) -> impl Iterator<Item = Handle> + use<'_> {
        (0..self.handles.len()).filter(move |handle| {
            let open = &self.handles[*handle];
            open.descriptors > 0
                && matches!(&open.what, What::Writer(w) if w.dir == dir && !w.is_nameless)
        })
    }

    /// The writers that the process has open lose their name (2.12).
    pub(super) fn own_writers_lose_names(&mut self, dir: Directory) {
        let own: Vec<Handle> = self.own_writers(dir).collect();
        for handle in own {
            if let What::Writer(writer) = &mut self.handles[handle].what {
                writer.is_nameless = true;
            }
        }
        self.directories[dir].slot = None;
    }

    /// Acts on the process's own writer, if there is one (2.15): on the one that changes
    /// the session, or the youngest. Otherwise it is a save of its own.
    pub(super) fn truncate(&mut self, dir: Directory, len: u64) -> Result<()> {
        let base = match self.find(dir) {
            Found::Nothing => return Err(libc::ENOENT),
            Found::Empty | Found::Own(_) => None,
            Found::Checkpoint(inode) => Some(inode),
        };
        let slot = self.directories[dir].slot;
        let changing = self.own_writers(dir).find(|own| Some(*own) == slot);
        if let Some(own) = changing.or(self.own_writers(dir).last()) {
            return self.with_writer(own, |model, writer| {
                if len == 0 {
                    writer.failed = None;
                }
                if let Err(errno) = model.stage(writer, len > 0, own) {
                    writer.failed.get_or_insert(errno);
                    return Err(errno);
                }
                let staged = writer.staged.as_mut().expect("it is staged");
                staged.0.resize(len as usize, 0);
                Ok(())
            });
        }
        let mut writer = Writer {
            dir,
            base,
            removed: None,
            replaces: false,
            staged: None,
            failed: None,
            has_saved: false,
            is_new: false,
            is_nameless: false,
            only_appends: false,
        };
        self.stage(&mut writer, len > 0, self.handles.len())?;
        let staged = writer.staged.as_mut().expect("it is staged");
        staged.0.resize(len as usize, 0);
        self.directories[dir].slot = None;
        self.commit(&mut writer)
    }
}
