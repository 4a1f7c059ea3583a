//! OPEN and CREATE, by the role of the node (DESIGN 4): a writer, a checkpoint, or any
//! other file.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use fuser::FopenFlags;

use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::node::{Role, other_role};
use crate::fs::opened::{Created, OpenBacking, Opened, PASSED_ON, changes, only_appends};
use crate::fs::request::Request;
use crate::fs::session::writer::Wait;
use crate::repo::own_lock;
use crate::sys::{self, Errno, Mode, OFlags};

impl Fs {
    /// Opens a file. The first OPEN of a checkpoint for writing answers `ESTALE`; the
    /// same thread's second walk then leads to its writer, which is opened (DESIGN 4).
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
            self.threads.opened(request.caller.tid);
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
                // Whatever the result: a thread that is refused, or only reads, finds the
                // checkpoint at its next lookup.
                self.threads.end_walk(request.caller.tid);
                if !writes && !writer.is_open() {
                    return Err(Errno::STALE.into());
                }
                let (truncates, wait) = (flags & libc::O_TRUNC != 0, Wait::For(request.caller.tid));
                let share = self.reserve(request.caller, 1).and_then(|share| {
                    writer.open(truncates, request.caller.tid, wait, request.patience)?;
                    Ok(share)
                });
                // After a refusal the kernel may know the node until the name is looked
                // up again: it must not keep descriptors open.
                if matches!(share, Err(Fail::Errno(_))) && !writer.is_open() {
                    self.lasting.nodes.retire(id);
                }
                let share = share?;
                if !only_appends(flags) {
                    writer.does_more_than_append();
                }
                Ok(self.opened_writer(writer, share, FopenFlags::empty()))
            }
            role @ (Role::Checkpoint | Role::Empty | Role::Other)
                if writes && let Some(session) = self.lasting.nodes.session(id) =>
            {
                self.change_checkpoint(
                    (&role, id, session),
                    request.caller,
                    |session| self.new_writer(session, id, flags, request.caller),
                    || self.open_other(id, flags, request, open_backing),
                    |writer| self.open_shared(id, writer, flags, request),
                )
            }
            Role::Checkpoint | Role::Empty
                if let Some(session) = self.lasting.nodes.follows(id) =>
            {
                self.open_followed(id, session, request)
            }
            // Its session is gone, and another one has the number.
            Role::Checkpoint | Role::Empty if writes => Err(Errno::STALE.into()),
            Role::Checkpoint => self.open_checkpoint(id, request.caller, open_backing),
            Role::Empty => {
                let (parent, _) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
                self.open_absent(id, parent, FopenFlags::empty(), request)
            }
            Role::Other => self.open_other(id, flags, request, open_backing),
            Role::Report => self.open_report(flags, request),
            Role::Root | Role::Session | Role::Directory => Err(Errno::ISDIR.into()),
        }
    }

    /// Creates and opens a file that did not exist at the kernel's lookup.
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
            let has_removed = self
                .lasting
                .sessions
                .removed_by(request.caller.tid, parent)
                .is_some();
            if !changes(flags) && !has_removed {
                // flock(1) opens it like this, and must not keep others from saving.
                self.make_empty_checkpoint(parent, mode, request)?;
                let entry = self.lookup(parent, name, request)?;
                let opened = self.open(entry.attr.ino.0, flags, request, open_backing);
                return Ok(Created {
                    opened: opened
                        .inspect_err(|_| drop(self.lasting.nodes.forget(entry.attr.ino.0, 1)))?,
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
            // The flock that the program itself takes stays on the mount. This one, on
            // the backing file, shows the daemon and programs beside the mount that the
            // lock is alive. Without flock(2) that cannot be known (I4).
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
}
