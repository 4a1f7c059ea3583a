//! The requests that carry content, and the end of a handle: their memory is
//! bounded, and what a writer lacks it has to know.

use fuser::{ReplyData, ReplyEmpty, ReplyWrite};

use super::adapter::{Adapter, guarded};
use super::buffers::Buffers;
use super::reply::Answer;
use super::workers::Lane;
use crate::fs::{Caller, Fail, Fs, Patience};

impl Adapter {
    /// READ, of so many bytes at an offset: by a user, from a handle.
    pub(super) fn read_piece(&self, what: (u32, u64, u64, u32), reply: ReplyData) {
        let mut unanswered = Some(reply);
        if let Some(_inside) = self.threads.enter() {
            unanswered = unanswered
                .and_then(|reply| read(&self.fs, &self.buffers, reply, what, Patience::None));
        }
        if let Some(reply) = unanswered {
            let (fs, buffers) = (self.fs.clone(), self.buffers.clone());
            self.workers.run(Lane::request(what.0), move || {
                read(&fs, &buffers, reply, what, Patience::Wait);
            });
        }
    }

    /// WRITE, to a handle at an offset, with the flags of the open file.
    pub(super) fn write_piece(
        &self,
        caller: Caller,
        (handle, at, flags): (u64, u64, i32),
        data: &[u8],
        reply: ReplyWrite,
    ) {
        let written = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let inside = self.threads.enter();
        let write =
            |patience| guarded(|| (self.fs).write(handle, at, data, flags, caller.with(patience)));
        if inside.is_some() {
            let result = write(Patience::None);
            if !matches!(result, Err(Fail::WouldBlock)) {
                return reply.answer(result.map(|()| written));
            }
        }
        // The request's buffer is this thread's: only a write that waits is
        // copied.
        let copy = match self.buffers.copy(caller.uid, data, inside.is_none()) {
            Ok(copy) => copy,
            Err(_) if inside.is_some() => {
                return reply.answer(write(Patience::Wait).map(|()| written));
            }
            Err(errno) => {
                // A writer has to know of each piece that it lacks.
                let lost = guarded(|| self.fs.lose(handle, errno));
                return reply.answer(lost.and(Err(errno.into())));
            }
        };
        let (fs, data) = (self.fs.clone(), copy);
        self.workers.run(Lane::request(caller.uid), move || {
            let result =
                guarded(|| fs.write(handle, at, &data, flags, caller.with(Patience::Wait)));
            reply.answer(result.map(|()| written));
        });
    }

    /// RELEASE of a handle.
    pub(super) fn release_handle(&self, handle: u64, reply: ReplyEmpty) {
        if let Some(_inside) = self.threads.enter() {
            let released = guarded(|| self.fs.release(handle, Patience::None));
            if released != Err(Fail::WouldBlock) {
                return reply.answer(released);
            }
        }
        // Nobody waits for the answer, but the kernel sends no more than so many
        // requests that nobody waits for, read-ahead among them, at a time.
        reply.ok();
        let fs = self.fs.clone();
        self.workers.run(Lane::end(fs.user_of(handle)), move || {
            let _busy = fs.busy();
            // Only that it would wait is ever answered.
            let _ = guarded(|| fs.release(handle, Patience::Wait));
        });
    }
}

/// Answers a READ; gives the reply back if it would have to wait.
fn read(
    fs: &Fs,
    buffers: &Buffers,
    reply: ReplyData,
    (user, handle, at, size): (u32, u64, u64, u32),
    patience: Patience,
) -> Option<ReplyData> {
    let mut buffer = match buffers.take(user, size as usize, patience) {
        Ok(buffer) => buffer,
        Err(errno) => {
            reply.error(Fail::from(errno).errno());
            return None;
        }
    };
    match guarded(|| fs.read(handle, at, &mut buffer, patience)) {
        Ok(n) => reply.data(&buffer[..n]),
        Err(Fail::WouldBlock) => return Some(reply),
        Err(fail) => reply.error(fail.errno()),
    }
    None
}
