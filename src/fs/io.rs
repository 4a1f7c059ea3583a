//! Open files: READ, WRITE, FLUSH, FSYNC and RELEASE (DESIGN 5).

use crate::fs::errno::{Fail, Result};
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::request::{Patience, Request};
use crate::fs::session::writer::Writer;
use crate::sys::{self, Errno};

impl Fs {
    /// Reads at most as many bytes as the buffer has. Returns the number of bytes.
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
        match &*self.lasting.handles.get(handle)? {
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

    /// Writes all of `bytes`; `flags` are those with which the file is open.
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
        match &*self.lasting.handles.get(handle)? {
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

    /// Notes that a piece of what was to be written is lost, for this reason.
    ///
    /// # Errors
    /// `EBADF`
    pub fn lose(&self, handle: u64, why: Errno) -> Result<()> {
        if let Handle::Writer(writer) = &*self.lasting.handles.get(handle)? {
            writer.lose(why);
        }
        Ok(())
    }

    /// A descriptor of a handle has been closed: the last close of a writer commits
    /// (DESIGN 5).
    ///
    /// # Errors
    /// The reason why the save was not made.
    pub fn flush(&self, handle: u64, request: Request) -> Result<()> {
        match &*self.lasting.handles.get(handle)? {
            Handle::Writer(writer) => {
                let flushed = writer.flush(request.caller.tid, request.patience);
                self.note_replaced(writer);
                // If the writer is busy, a later close finds it saved.
                if flushed != Err(Fail::WouldBlock)
                    && writer.is_unsaved(request.patience) == Ok(false)
                {
                    self.flocks.saved(handle);
                }
                flushed
            }
            // Some filesystems report a failed write only at close(2), so a duplicate is
            // closed.
            Handle::File { file, .. } => {
                let copy = file.try_clone().map_err(|e| sys::errno_of(&e))?;
                Ok(sys::close(copy)?)
            }
            Handle::Directory(_) | Handle::Report(_) => Ok(()),
        }
    }

    /// Makes what has been written durable; for a writer, a save point.
    ///
    /// # Errors
    /// Those of fsync(2); the reason why the save was not made.
    pub fn fsync(&self, handle: u64, data_only: bool, patience: Patience) -> Result<()> {
        patience.must_wait()?;
        match &*self.lasting.handles.get(handle)? {
            Handle::Writer(writer) => {
                let synced = writer.sync(patience);
                self.note_replaced(writer);
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
    /// Only `WouldBlock`.
    pub fn release(&self, handle: u64, patience: Patience) -> Result<()> {
        if patience == Patience::None
            && let Handle::Writer(writer) = &*self.lasting.handles.get(handle)?
            && writer.release_waits()
        {
            return Err(Fail::WouldBlock);
        }
        if let Some(open) = self.lasting.handles.remove(handle)
            && let Handle::Writer(writer) = &*open
        {
            let was_last = writer.release();
            self.note_replaced(writer);
            if was_last {
                self.lasting.nodes.retire(writer.ino);
            }
        }
        self.flocks.release(handle);
        Ok(())
    }

    /// Notes what a save of this writer has replaced: programs may watch it, or open it
    /// without its path.
    fn note_replaced(&self, writer: &Writer) {
        if let Some(replaced) = writer.take_replaced() {
            self.replacements.note(writer.session_node(), replaced);
        }
    }
}
