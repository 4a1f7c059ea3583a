//! Open files: OPEN, CREATE, READ, WRITE, FLUSH, FSYNC and RELEASE.

use super::request::{Patience, Request};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{BackingId, FopenFlags};

use super::errno::{Fail, Result};
use super::handle::Handle;
use super::lookup::other_role;
use super::node::{Role, empty_id};
use super::passthrough::OpenBacking;
use super::shares::OF_WRITER;
use super::writer::{Origin, Wait, Writer};
use super::{Caller, Entry, Fs, Share};
use crate::repo::{Checkpoint, Session, own_lock};
use crate::sys::{self, Errno, Mode, OFlags};

/// An open file, for the kernel.
#[derive(Debug)]
pub struct Opened {
    /// The number of its handle.
    pub handle: u64,
    /// How the kernel is to treat it.
    pub flags: FopenFlags,
    /// What it reads and writes by itself, if it does.
    pub backing: Option<Arc<BackingId>>,
}

/// A new file that is open, for the kernel.
#[derive(Debug)]
pub struct Created {
    /// What it is.
    pub entry: Entry,
    /// Its handle.
    pub opened: Opened,
}

/// The flags of open(2) that a file of the backing filesystem is opened with.
pub(super) const PASSED_ON: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_TRUNC
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_NOATIME;

/// Whether an open with these flags is to change the file: truncating does,
/// whatever the access mode.
pub(super) fn changes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

/// Whether an open with these flags is to append, and for nothing else.
pub(super) fn only_appends(flags: i32) -> bool {
    flags & (libc::O_ACCMODE | libc::O_APPEND) == libc::O_WRONLY | libc::O_APPEND
}

impl Fs {
    /// Opens a file. A checkpoint that is to be written answers `ESTALE`, and
    /// is opened as the writer that the same thread finds then (DESIGN 4).
    ///
    /// # Errors
    /// `EBUSY` if the checkpoint is being written, and those of open(2).
    pub fn open(
        &self,
        id: u64,
        flags: i32,
        request: Request,
        open_backing: OpenBacking<'_>,
    ) -> Result<Opened> {
        let opened = self.open_node(id, flags, request, open_backing);
        if !matches!(opened, Err(Fail::WouldBlock)) {
            self.holds.end(request.caller.tid);
            self.found.forget(request.caller.tid);
        }
        opened
    }

    fn open_node(
        &self,
        id: u64,
        flags: i32,
        request: Request,
        open_backing: OpenBacking<'_>,
    ) -> Result<Opened> {
        let writes = changes(flags);
        match self.role(id)? {
            Role::Writer(writer) => {
                // Whatever comes of it: a thread that is refused, or reads after
                // all, is shown the checkpoint when it looks again.
                self.retries.done(request.caller.tid);
                if !writes && !writer.is_open() {
                    return Err(Errno::STALE.into());
                }
                let (truncates, wait) = (flags & libc::O_TRUNC != 0, Wait::For(request.caller.tid));
                let share = self.reserve(request.caller, 1).and_then(|share| {
                    writer.open(truncates, request.caller.tid, wait, request.patience)?;
                    Ok(share)
                });
                // The kernel may know the node of who is refused until somebody
                // looks the name up again: it keeps no descriptors.
                if matches!(share, Err(Fail::Errno(_))) && !writer.is_open() {
                    self.nodes.retire(id);
                }
                let share = share?;
                if !only_appends(flags) {
                    writer.does_more_than_append();
                }
                Ok(self.opened_writer(writer, share, FopenFlags::empty()))
            }
            role @ (Role::Checkpoint | Role::Empty | Role::Other)
                if writes && let Some(session) = self.nodes.session(id) =>
            {
                self.change_checkpoint(
                    (&role, id, session),
                    request.caller,
                    |session| self.new_writer(session, id, flags, request.caller),
                    || self.open_other(id, flags, request, open_backing),
                    |writer| self.open_shared(id, writer, flags, request),
                )
            }
            Role::Checkpoint | Role::Empty if let Some(session) = self.nodes.follows(id) => {
                self.open_followed(id, session, request)
            }
            Role::Checkpoint => self.open_checkpoint(id, request.caller, open_backing),
            Role::Empty => {
                let (parent, _) = self.nodes.place(id).ok_or(Errno::STALE)?;
                self.open_absent(id, parent, FopenFlags::empty(), request)
            }
            Role::Other => self.open_other(id, flags, request, open_backing),
            Role::Report => self.open_report(flags, request),
            Role::Root | Role::Session | Role::Directory => Err(Errno::ISDIR.into()),
        }
    }

    /// Opens a checkpoint that is not there, for reading.
    pub(super) fn open_absent(
        &self,
        id: u64,
        parent: u64,
        flags: FopenFlags,
        request: Request,
    ) -> Result<Opened> {
        let session = self.session(parent)?;
        let writer = self.writer(self.origin(session, parent, None, request.caller)?);
        // It never writes.
        writer.show_as(id);
        let share = self.reserve(request.caller, 1)?;
        writer.open(false, request.caller.tid, Wait::Never, request.patience)?;
        let handle = self.handles.add(Handle::Writer(writer), share);
        Ok(Opened {
            handle,
            flags: flags | FopenFlags::FOPEN_NOFLUSH,
            backing: None,
        })
    }

    /// Sends a thread that is to change a node on its second walk (DESIGN 4), if
    /// that is the checkpoint of a session, or has been: then the thread may
    /// have come by another name. `find` finds or makes the writer, `other` changes
    /// the node as the file that it is, `shared` is for a caller that has no second
    /// walk: it has no number, or comes by no path.
    pub(super) fn change_checkpoint<T>(
        &self,
        (role, id, session): (&Role, u64, u64),
        caller: Caller,
        find: impl FnOnce(u64) -> Result<Arc<Writer>>,
        other: impl Fn() -> Result<T>,
        shared: impl Fn(Arc<Writer>) -> Result<T>,
    ) -> Result<T> {
        if let Some(done) = self.retries.by_link(caller.tid, id, &other) {
            return done;
        }
        let is_other = matches!(role, Role::Other);
        let by_no_path = self.retries.by_no_path(caller.tid, id, |writer| {
            // What a session was replaced by, or has been renamed to, is a file
            // of its own.
            if is_other { other() } else { shared(writer) }
        });
        if let Some(done) = by_no_path {
            return done;
        }
        if is_other && caller.tid == 0 {
            return other();
        }
        let writer = match find(session) {
            // Its session is gone, and cannot have been meant.
            Err(_) if is_other => return other(),
            writer => writer?,
        };
        if caller.tid == 0 {
            return shared(writer);
        }
        self.retries.remember(caller.tid, session, id, writer);
        Err(Errno::STALE.into())
    }

    pub(super) fn opened_writer(
        &self,
        writer: Arc<Writer>,
        share: Share,
        flags: FopenFlags,
    ) -> Opened {
        writer.announce();
        Opened {
            handle: self.handles.add(Handle::Writer(writer), share),
            flags,
            backing: None,
        }
    }

    /// A writer that starts from the current checkpoint of a session, which
    /// the kernel has found as the node `id`. It is opened with these flags.
    pub(super) fn new_writer(
        &self,
        parent: u64,
        id: u64,
        flags: i32,
        caller: Caller,
    ) -> Result<Arc<Writer>> {
        let session = self.session(parent)?;
        let base = session.checkpoint()?;
        self.check_writer(&session, base.as_ref(), caller)?;
        // What the kernel has looked up may have been replaced since.
        let is_same = base.as_ref().map_or(empty_id(parent), |b| b.stat().stx_ino) == id;
        let mut origin = self.origin(session, parent, base, caller)?;
        origin.replaces = flags & libc::O_TRUNC != 0;
        origin.is_read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
        origin.only_appends = only_appends(flags);
        let writer = self.writer(origin);
        if is_same {
            writer.show_as(id);
        }
        Ok(writer)
    }

    fn origin(
        &self,
        session: Session,
        parent: u64,
        base: Option<Checkpoint>,
        caller: Caller,
    ) -> Result<Origin> {
        Ok(Origin {
            share: self.reserve(caller, OF_WRITER)?,
            base,
            slot: self.slots.of(parent),
            directory: parent,
            replacements: self.replacements.clone(),
            activity: self.activity.clone(),
            statistics: self.statistics.clone(),
            lock_wait: self.options.lock_wait,
            device: self.device.clone(),
            removed: None,
            replaces: false,
            is_new: false,
            is_read_only: false,
            only_appends: false,
            caller,
            credentials: caller.credentials()?,
            first_mode: None,
            first_owner: first_owner(&session, caller)?,
            session,
        })
    }

    fn writer(&self, origin: Origin) -> Arc<Writer> {
        let ino = self.next_writer.fetch_add(1, Ordering::Relaxed);
        Arc::new(Writer::new(ino, origin))
    }

    /// Creates and opens a file that was not there when the kernel looked.
    ///
    /// # Errors
    /// `EPERM` in the root, and those of open(2).
    pub fn create(
        &self,
        (parent, name): (u64, &OsStr),
        mode: u32,
        flags: i32,
        request: Request,
        open_backing: OpenBacking<'_>,
    ) -> Result<Created> {
        if let Role::Root = self.role(parent)? {
            return Err(Errno::PERM.into());
        }
        if self.is_checkpoint(parent, name)? {
            let has_removed = self.removals.asked_by(request.caller.tid, parent).is_some();
            if !changes(flags) && !has_removed {
                // flock(1) opens so: it must not keep others from saving.
                self.make_empty_checkpoint(parent, mode, request)?;
                let entry = self.lookup(parent, name, request)?;
                let opened = self.open(entry.attr.ino.0, flags, request, open_backing);
                return Ok(Created {
                    opened: opened.inspect_err(|_| drop(self.nodes.forget(entry.attr.ino.0, 1)))?,
                    entry,
                });
            }
            return self.create_checkpoint(parent, mode, flags, request);
        }
        let share = self.reserve(request.caller, 1)?;
        let dir = self.dir(parent)?;
        let passed = flags & (PASSED_ON | libc::O_EXCL) | libc::O_CREAT | libc::O_NONBLOCK;
        let passed = OFlags::from_bits_retain(passed.cast_unsigned());
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let file = request
            .caller
            .act(|| sys::openat(&*dir.fd, name, passed, mode))?;
        if self.is_lock(parent, name)? {
            // The flock that its maker takes stays in the kernel; this one
            // tells us, and others beside the mount, that he lives. Without
            // flock(2) nobody can tell (I4).
            if let Err(errno) = own_lock(file.as_fd()) {
                log::debug!("session.next made through the mount: flock: {errno}");
            }
        }
        let stat = sys::fstat(&file)?;
        let entry = self.entry(parent, name, other_role(&stat), &stat, self.birth(&stat));
        Ok(Created {
            entry,
            opened: self.opened_file((stat.stx_ino, share), file, flags, open_backing),
        })
    }

    /// A writer of a checkpoint that was not there when the kernel looked, or
    /// is not for the caller, who has removed it.
    pub(super) fn create_checkpoint(
        &self,
        parent: u64,
        mode: u32,
        flags: i32,
        request: Request,
    ) -> Result<Created> {
        let session = self.session(parent)?;
        let mut base = session.checkpoint()?;
        let removed = base.take_if(|base| self.has_removed(parent, base, request.caller));
        if let Some(base) = base {
            if flags & libc::O_EXCL != 0 {
                return Err(Errno::EXIST.into());
            }
            // Made since the kernel looked, and it has not checked who may
            // write it: it is to look again, and walks once more only.
            let id = base.stat().stx_ino;
            let writer = self.new_writer(parent, id, flags, request.caller)?;
            if request.caller.tid != 0 {
                self.retries
                    .remember(request.caller.tid, parent, id, writer);
            }
            return Err(Errno::STALE.into());
        }
        self.check_writer(&session, None, request.caller)?;
        let mut origin = self.origin(session, parent, None, request.caller)?;
        origin.removed = removed;
        origin.is_new = true;
        origin.is_read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
        origin.replaces = flags & (libc::O_TRUNC | libc::O_EXCL) == libc::O_TRUNC;
        origin.first_mode = Some(mode & 0o777);
        let writer = self.writer(origin);
        let share = self.reserve(request.caller, 1)?;
        // An empty file is a file: it is saved even if nothing is written. With
        // the writer the removal is part of a save, and one that is refused
        // leaves the old checkpoint.
        let opened = writer.open(true, request.caller.tid, Wait::Never, request.patience);
        if opened != Err(Fail::WouldBlock) {
            self.removals.forget(parent);
        }
        opened?;
        Ok(Created {
            entry: self.writer_entry(parent, &writer, request.patience)?,
            opened: self.opened_writer(writer, share, FopenFlags::empty()),
        })
    }

    /// Reads at most as much as the buffer takes; the bytes read.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(
        &self,
        handle: u64,
        at: u64,
        buffer: &mut [u8],
        patience: Patience,
    ) -> Result<usize> {
        match &*self.handles.get(handle)? {
            Handle::File { file, .. } => Ok(sys::read_at(&**file, buffer, at)?),
            Handle::Writer(writer) => writer.read(buffer, at, patience),
            Handle::Report(text) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let rest = text.get(at..).unwrap_or_default();
                let len = rest.len().min(buffer.len());
                buffer[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
            Handle::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }

    /// Writes all of `bytes`; `flags` are those that the file is open with.
    ///
    /// # Errors
    /// `EBUSY` if it is the first change of a checkpoint that another writer
    /// is changing, and those of pwrite(2).
    pub fn write(
        &self,
        handle: u64,
        at: u64,
        bytes: &[u8],
        flags: i32,
        request: Request,
    ) -> Result<()> {
        match &*self.handles.get(handle)? {
            Handle::File { is_synced, .. } if *is_synced && request.patience == Patience::None => {
                Err(Fail::WouldBlock)
            }
            Handle::File { file, .. } => Ok(sys::write_at(&**file, bytes, at)?),
            Handle::Writer(writer) => {
                let appends = flags & libc::O_APPEND != 0;
                writer.write(bytes, at, appends, request.caller.tid, request.patience)
            }
            Handle::Report(_) => Err(Errno::BADF.into()),
            Handle::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }

    /// A piece of what was to be written is lost, for this reason.
    ///
    /// # Errors
    /// `EBADF`
    pub fn lose(&self, handle: u64, why: Errno) -> Result<()> {
        if let Handle::Writer(writer) = &*self.handles.get(handle)? {
            writer.lose(why);
        }
        Ok(())
    }

    /// A descriptor of a handle has been closed: the last one of a writer
    /// commits (DESIGN 5).
    ///
    /// # Errors
    /// The reason why the save was not made.
    pub fn flush(&self, handle: u64, request: Request) -> Result<()> {
        match &*self.handles.get(handle)? {
            Handle::Writer(writer) => {
                let flushed = writer.flush(request.caller.tid, request.patience);
                // One that is busy tells it later.
                if flushed != Err(Fail::WouldBlock)
                    && writer.is_unsaved(request.patience) == Ok(false)
                {
                    self.flocks.saved(handle);
                }
                flushed
            }
            // Some filesystems tell of a failed write at close(2) only. The
            // descriptor is closed by way of a duplicate.
            Handle::File { file, .. } => {
                let copy = file.try_clone().map_err(|e| sys::errno_of(&e))?;
                Ok(sys::close(copy)?)
            }
            Handle::Directory(_) | Handle::Report(_) => Ok(()),
        }
    }

    /// Makes what has been written durable; of a writer, a save point.
    ///
    /// # Errors
    /// Those of fsync(2); the reason why the save was not made.
    pub fn fsync(&self, handle: u64, data_only: bool, patience: Patience) -> Result<()> {
        patience.must_wait()?;
        match &*self.handles.get(handle)? {
            Handle::Writer(writer) => {
                let synced = writer.sync(patience);
                self.flocks.saved(handle);
                synced
            }
            Handle::File { file, .. } if data_only => Ok(sys::fdatasync(&**file)?),
            Handle::File { file, .. } => Ok(sys::fsync(&**file)?),
            Handle::Directory(_) | Handle::Report(_) => Err(Errno::INVAL.into()),
        }
    }

    /// A handle is gone.
    ///
    /// # Errors
    /// Only that it would wait.
    pub fn release(&self, handle: u64, patience: Patience) -> Result<()> {
        if patience == Patience::None
            && let Handle::Writer(writer) = &*self.handles.get(handle)?
            && writer.release_waits()
        {
            return Err(Fail::WouldBlock);
        }
        if let Some(open) = self.handles.remove(handle)
            && let Handle::Writer(writer) = &*open
            && writer.release()
        {
            self.nodes.retire(writer.ino);
        }
        self.flocks.release(handle);
        Ok(())
    }
}

/// The owner of a first checkpoint: the caller; the group of a setgid
/// directory is inherited (inode(7)).
fn first_owner(session: &Session, caller: Caller) -> Result<(u32, u32)> {
    let dir = sys::fstat(session.dir())?;
    let inherits = u32::from(dir.stx_mode) & libc::S_ISGID != 0;
    let gid = if inherits { dir.stx_gid } else { caller.gid };
    Ok((caller.uid, gid))
}
