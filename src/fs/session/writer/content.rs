//! Reads and writes of a writer's content (DESIGN 2.2, 2.3).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fs::errno::{Fail, Result};
use crate::fs::request::Patience;
use crate::fs::session::writer::staging::Keep;
use crate::fs::session::writer::state::{Writer, staged};
use crate::fs::session::writer::wait::Wait;
use crate::repo::{self, Staged};
use crate::sys;

/// How long a write waits for room on a full disk: a little longer than the interval at
/// which replaced checkpoints that are still being read are looked at (`replaced`).
const ROOM_TIME: Duration = Duration::from_millis(1200);

impl Writer {
    /// Opens another handle, for the thread `tid`. `O_TRUNC` is a change: it takes the
    /// slot now, and may fail with `EBUSY`.
    pub(in crate::fs) fn open(
        &self,
        truncate: bool,
        tid: u32,
        wait: Wait,
        patience: Patience,
    ) -> Result<()> {
        let mut state = self.lock(patience)?;
        if state.handles > 0 {
            let opener = state.authors.opens(tid);
            state.kin.add(opener);
        }
        if truncate {
            let truncated = self.truncate(&mut state, 0, wait, patience);
            if let Err(Fail::Errno(errno)) = truncated
                && errno != libc::EINTR
            {
                self.statistics.failed(&self.session, errno);
            }
            truncated?;
            state.authors.note(tid);
            self.drop_privileges(&mut state)?;
        }
        state.handles += 1;
        Ok(())
    }

    /// Reads what this writer has written so far. Returns the number of bytes.
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

    /// Writes all of `bytes`, for the thread `tid`. The kernel gives the position, but
    /// does not know the end of a file that shares its node with readers.
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

    /// Writes, and waits for room on a full disk. Room may come soon: a replaced
    /// checkpoint keeps its blocks for a while after its last reader has closed it
    /// (`replaced`), and RELEASE comes after close(2) has returned.
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

    /// Notes that a piece of what was written could not be kept, with the reason: the
    /// save is not published then. Does not wait.
    pub(in crate::fs) fn lose(&self, why: sys::Errno) {
        self.lost.store(why.raw_os_error(), Ordering::SeqCst);
    }

    /// Changes a range of the content, for the thread `tid`, as a write does, or as a
    /// truncation does if it `only_allocates`. After an error among `harmless` nothing was
    /// changed: it is returned, and the save is not affected.
    pub(in crate::fs) fn change_range<T>(
        &self,
        tid: u32,
        patience: Patience,
        (only_allocates, harmless): (bool, &[i32]),
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
        } else if only_allocates {
            state.authors.note(tid);
        } else {
            self.note_data(&mut state, tid);
        }
        self.keep_failure(&mut state, changed)?
    }

    /// Passes what has been written so far to `look`; `None` if there is no content.
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
