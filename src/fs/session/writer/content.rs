//! What is written to a writer, and read from it (DESIGN 2.2, 2.3).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::request::Patience;
use crate::fs::session::writer::staging::Keep;
use crate::fs::session::writer::state::{Writer, staged};
use crate::fs::session::writer::wait::Wait;
use crate::proc::identity::Process;
use crate::repo::{self, Staged};
use crate::sys;

/// How long a write looks for room on a full disk: a little longer than what is still
/// being read is looked at (`replaced`).
const ROOM_TIME: Duration = Duration::from_millis(1200);

impl Writer {
    /// Another handle on it, for the thread `tid`. With `O_TRUNC` the checkpoint is
    /// as good as replaced: the slot is taken and `EBUSY` told now.
    pub(in crate::fs) fn open(
        &self,
        truncate: bool,
        tid: u32,
        wait: Wait,
        patience: Patience,
    ) -> Result<()> {
        let mut state = self.lock(patience)?;
        if state.handles > 0 {
            state.kin.add(Process::of(tid));
        }
        if truncate {
            let truncated = self.truncate(&mut state, 0, wait, patience);
            if let Err(Fail::Errno(errno)) = truncated
                && errno != libc::EINTR
            {
                self.statistics.failed(self.session.name(), errno);
            }
            truncated?;
            state.authors.note(tid);
            self.drop_privileges(&mut state)?;
        }
        state.handles += 1;
        Ok(())
    }

    /// Reads from what this writer has written so far; the bytes read.
    pub(in crate::fs) fn read(
        &self,
        buffer: &mut [u8],
        at: u64,
        patience: Patience,
    ) -> Result<usize> {
        let mut state = self.lock(patience)?;
        if let Some(staged) = &state.staged {
            return Ok(staged.read_at(buffer, at)?);
        }
        match state.base_file()? {
            Some(file) => Ok(sys::read_at(file, buffer, at)?),
            None => Ok(0),
        }
    }

    /// Writes all of `bytes`, for the thread `tid`. Where to, the kernel says; but
    /// of what shares its node with readers it does not know the end.
    pub(in crate::fs) fn write(
        &self,
        bytes: &[u8],
        at: u64,
        appends: bool,
        tid: u32,
        patience: Patience,
    ) -> Result<()> {
        let mut state = self.lock(patience)?;
        let written = self
            .change(&mut state, Keep::all(tid), patience)
            .and_then(|()| {
                let staged = staged(&state)?;
                // The end that the kernel knows may be that of the checkpoint.
                let at_end = appends && (self.is_shared() || state.has_followed);
                let at = if at_end { staged.stat()?.stx_size } else { at };
                let _acting = self.credentials.begin()?;
                self.write_where_room(staged, bytes, at, patience)
            });
        self.note_data(&mut state, tid);
        self.keep_failure(&mut state, written)
    }

    /// A full disk may have room in a moment: what a save has replaced is held for a
    /// while after its last reader has closed it (`replaced`), and RELEASE comes
    /// after close(2) has returned.
    fn write_where_room(
        &self,
        staged: &Staged,
        bytes: &[u8],
        at: u64,
        patience: Patience,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            match staged.write_at(bytes, at) {
                Err(error) if error.errno() == libc::ENOSPC && patience == Patience::None => {
                    return Err(Fail::WouldBlock);
                }
                Err(error) if error.errno() == libc::ENOSPC && start.elapsed() < ROOM_TIME => {
                    std::thread::sleep(ROOM_TIME / 50);
                }
                written => return self.log_if_failed(written),
            }
        }
    }

    /// A piece could not be kept, for this reason: what it lacks is never
    /// published. Waits for nobody.
    pub(in crate::fs) fn lose(&self, why: sys::Errno) {
        self.lost.store(why.raw_os_error(), Ordering::SeqCst);
    }

    /// Changes a range of the content, for the thread `tid`: a change like a
    /// write. An error among `harmless` has lost nothing: it is told, and
    /// otherwise as if the change had not been asked for.
    pub(in crate::fs) fn change_range<T>(
        &self,
        tid: u32,
        patience: Patience,
        harmless: &[i32],
        change: impl FnOnce(&Staged) -> repo::Result<T>,
    ) -> Result<T> {
        let mut state = self.lock(patience)?;
        let is_first = state.staged.is_none();
        let changed = self
            .change(&mut state, Keep::all(tid), patience)
            .and_then(|()| {
                let _acting = self.credentials.begin()?;
                match change(staged(&state)?) {
                    Err(error) if harmless.contains(&error.errno()) => Ok(Err(Fail::of(&error))),
                    other => Ok(Ok(self.log_if_failed(other)?)),
                }
            });
        if let Ok(Err(_)) = changed
            && is_first
        {
            self.unstage(&mut state);
        } else {
            self.note_data(&mut state, tid);
        }
        self.keep_failure(&mut state, changed)?
    }

    /// Looks at what has been written so far; `None` where there is nothing.
    pub(in crate::fs) fn with_content<T>(
        &self,
        patience: Patience,
        look: impl FnOnce(Option<BorrowedFd<'_>>) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.lock(patience)?;
        let reader = state.staged.as_ref().map(Staged::reader).transpose()?;
        match reader {
            Some(reader) => look(Some(reader.as_fd())),
            None => look(state.base_file()?.map(AsFd::as_fd)),
        }
    }
}
