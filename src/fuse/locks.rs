//! flock(2): see [`crate::fs`]. Of fcntl(2) locks nothing comes here: they are the
//! kernel's, as `FUSE_POSIX_LOCKS` is not asked for.

use std::sync::Arc;

use fuser::ReplyEmpty;

use super::adapter::{Adapter, guarded};
use super::reply::Answer;
use super::workers::{Lane, Workers};
use crate::fs::{Ask, Fail, Flock, Fs, Locked, Patience, Result};

/// What flock(2) asks for, of the type of a lock as of fcntl(2).
pub(super) fn flock(typ: i32) -> Result<Flock> {
    match typ {
        libc::F_RDLCK => Ok(Flock::Shared),
        libc::F_WRLCK => Ok(Flock::Exclusive),
        libc::F_UNLCK => Ok(Flock::Unlock),
        _ => Err(Fail::Errno(libc::EINVAL)),
    }
}

impl Adapter {
    /// Those who wait for locks of it, for the thread that answers them.
    pub fn waiters(&self) -> Waiters {
        Waiters {
            fs: self.fs.clone(),
            workers: self.workers.clone(),
        }
    }

    /// Does what is asked for, or puts off the answer; on a worker, if it would
    /// have to wait, or no other thread is free.
    pub(super) fn lock(&self, ask: Ask, reply: ReplyEmpty) {
        if let Some(_inside) = self.threads.enter() {
            let result = guarded(|| self.fs.flock(&ask, Patience::None));
            if !matches!(result, Err(Fail::WouldBlock)) {
                return settle(&self.fs, ask, reply, result);
            }
        }
        let fs = self.fs.clone();
        self.workers.run(Lane::lock(ask.caller.uid), move || {
            let result = guarded(|| fs.flock(&ask, Patience::Wait));
            settle(&fs, ask, reply, result);
        });
    }
}

fn settle(fs: &Fs, ask: Ask, reply: ReplyEmpty, result: Result<Locked>) {
    let answer = |result| reply.answer(result);
    match result {
        Ok(Locked::Now) => answer(Ok(())),
        Ok(Locked::NotYet) => fs.wait_for_flock(ask, Box::new(answer)),
        Err(fail) => answer(Err(fail)),
    }
}

/// Those who wait for a lock.
pub struct Waiters {
    fs: Arc<Fs>,
    workers: Workers,
}

impl Waiters {
    /// Answers each when its turn has come, for ever: to be called by a thread of its
    /// own. It waits for nothing else: what a client has mapped may take as long to be
    /// written back as that client pleases, and a disk as well.
    pub fn answer(&self) {
        loop {
            for due in self.fs.due_flocks() {
                let result = guarded(|| self.fs.settle_flock(&due, Patience::None));
                if !matches!(result, Err(Fail::WouldBlock)) {
                    due.answer(result);
                    continue;
                }
                let fs = self.fs.clone();
                self.workers.run(Lane::lock(due.user()), move || {
                    let result = guarded(|| fs.settle_flock(&due, Patience::Wait));
                    due.answer(result);
                });
            }
        }
    }
}
