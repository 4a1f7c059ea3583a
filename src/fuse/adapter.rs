//! A request on its way: on the thread that took it, or on a worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Request, TimeOrNow};

use super::buffers::Buffers;
use super::reply::Answer;
use super::threads::Threads;
use super::workers::{self, Lane, Workers};
use crate::fs::{Caller, Fail, Fs, Patience, Request as Asked, Result};
use crate::sys::memory;

/// A [`Fs`], for fuser.
pub struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) threads: Threads,
    pub(super) workers: Workers,
    pub(super) buffers: Buffers,
}

impl Adapter {
    /// Serves `fs` with so many threads that take requests.
    pub fn new(fs: Arc<Fs>, threads: usize) -> Self {
        fs.on_wait(workers::aside);
        Self {
            fs,
            threads: Threads::new(threads),
            workers: Workers::default(),
            buffers: Buffers::default(),
        }
    }

    /// As [`finish`](Self::finish), if there is memory for what a client may
    /// begin.
    pub(super) fn serve<R, T>(
        &self,
        request: &Request,
        reply: R,
        operation: impl Fn(&Fs, Asked, &R) -> Result<T> + Send + 'static,
    ) where
        R: Answer<T>,
        T: 'static,
    {
        match memory::require_room() {
            Ok(()) => self.finish(request, reply, operation),
            Err(errno) => reply.answer(Err(errno.into())),
        }
    }

    /// Does `operation` and answers with what comes of it; on a worker, if it
    /// would have to wait, or no other thread is free. For what ends something, and
    /// gives memory back, and for what changes the content of a writer: it has to
    /// know of what it lacks, or it would be published so.
    pub(super) fn finish<R, T>(
        &self,
        request: &Request,
        reply: R,
        operation: impl Fn(&Fs, Asked, &R) -> Result<T> + Send + 'static,
    ) where
        R: Answer<T>,
        T: 'static,
    {
        self.finish_in(Lane::request(request.uid()), request, reply, operation);
    }

    /// As [`finish`](Self::finish), for what ends something: requests that wait do not
    /// keep it waiting.
    pub(super) fn end<R, T>(
        &self,
        request: &Request,
        reply: R,
        operation: impl Fn(&Fs, Asked, &R) -> Result<T> + Send + 'static,
    ) where
        R: Answer<T>,
        T: 'static,
    {
        self.finish_in(Lane::end(Some(request.uid())), request, reply, operation);
    }

    fn finish_in<R, T>(
        &self,
        lane: Lane,
        request: &Request,
        reply: R,
        operation: impl Fn(&Fs, Asked, &R) -> Result<T> + Send + 'static,
    ) where
        R: Answer<T>,
        T: 'static,
    {
        let caller = caller(request);
        if let Some(_inside) = self.threads.enter() {
            let result = guarded(|| operation(&self.fs, caller.with(Patience::None), &reply));
            if !matches!(result, Err(Fail::WouldBlock)) {
                return reply.answer(result);
            }
        }
        let fs = self.fs.clone();
        self.workers.run(lane, move || {
            let _busy = fs.busy();
            let result = guarded(|| operation(&fs, caller.with(Patience::Wait), &reply));
            reply.answer(result);
        });
    }

    /// Does what never has to wait for anybody, but for the disk perhaps.
    pub(super) fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        match self.threads.enter() {
            Some(_inside) => job(),
            None => self.workers.run(lane, job),
        }
    }
}

/// A bug is answered with `EIO`, and told by the panic's own message.
pub(super) fn guarded<T>(operation: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| {
        log::error!("a request ended in a bug of sessionfs; it is answered with EIO");
        Err(Fail::Errno(libc::EIO))
    })
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        tid: request.pid(),
        uid: request.uid(),
        gid: request.gid(),
    }
}

/// A time of a SETATTR. fuser 0.18 takes the nanoseconds of a time before 1970
/// for more before, where they are after the second (time.rs,
/// `system_time_from_time`).
pub(super) fn time(time: TimeOrNow) -> TimeOrNow {
    let TimeOrNow::SpecificTime(at) = time else {
        return time;
    };
    let Err(before) = at.duration_since(UNIX_EPOCH) else {
        return time;
    };
    let nanoseconds = Duration::from_nanos(before.duration().subsec_nanos().into());
    TimeOrNow::SpecificTime(at + 2 * nanoseconds)
}
