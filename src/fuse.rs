//! The requests of the kernel: each is decoded, given to [`Fs`], and answered.
//!
//! A request runs on the thread that took it, unless it would have to wait:
//! then it runs again on a worker, and the thread takes the next one. A panic
//! answers `EIO` and ends nothing.

mod workers;

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use self::workers::Workers;
use crate::fs::{Caller, Entry, Fail, Fs, Opened, Patience, Result, SetAttr};

/// The largest piece that is read or written in one request, in bytes.
const MAX_PIECE: u32 = 1 << 20;

/// Requests in the background (read-ahead, for the most part) before the
/// kernel holds them back.
const MAX_BACKGROUND: u16 = 64;

/// How often replaced checkpoints are let go of.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

thread_local! {
    /// What a READ is answered from; one for each thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A [`Fs`], for fuser.
pub struct Adapter {
    fs: Arc<Fs>,
    workers: Workers,
}

impl Adapter {
    /// Serves `fs`.
    pub fn new(fs: Arc<Fs>) -> Self {
        Self {
            fs,
            workers: Workers::default(),
        }
    }

    /// Does `operation` and answers with what comes of it; on a worker, if it
    /// would have to wait.
    fn serve<R, T>(
        &self,
        reply: R,
        operation: impl Fn(&Fs, Patience, &R) -> Result<T> + Send + 'static,
        answer: fn(R, std::result::Result<T, Errno>),
    ) where
        R: Send + 'static,
        T: 'static,
    {
        let result = guarded(|| operation(&self.fs, Patience::None, &reply));
        if !matches!(result, Err(Fail::WouldBlock)) {
            return answer(reply, result.map_err(Fail::errno));
        }
        let fs = self.fs.clone();
        self.workers.run(move || {
            let _busy = fs.busy();
            let result = guarded(|| operation(&fs, Patience::Wait, &reply));
            answer(reply, result.map_err(Fail::errno));
        });
    }
}

/// A bug is answered with `EIO`, and told by the panic's own message.
fn guarded<T>(operation: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| {
        log::error!("a request ended in a bug of sessionfs; it is answered with EIO");
        Err(Fail::Errno(libc::EIO))
    })
}

fn caller(request: &Request) -> Caller {
    Caller {
        tid: request.pid(),
        uid: request.uid(),
        gid: request.gid(),
    }
}

fn answer_empty(reply: ReplyEmpty, result: std::result::Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_entry(reply: ReplyEntry, result: std::result::Result<Entry, Errno>) {
    match result {
        Ok(entry) => reply.entry_with_ttls(
            &entry.attr_ttl,
            &entry.entry_ttl,
            &entry.attr,
            Generation(entry.generation),
        ),
        Err(errno) => reply.error(errno),
    }
}

fn answer_attr(reply: ReplyAttr, result: std::result::Result<FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&Duration::ZERO, &attr),
        Err(errno) => reply.error(errno),
    }
}

fn answer_open(reply: ReplyOpen, result: std::result::Result<Opened, Errno>) {
    match result {
        Ok(opened) => {
            let handle = FileHandle(opened.handle);
            match opened.backing {
                Some(backing) => reply.opened_passthrough(handle, opened.flags, &backing),
                None => reply.opened(handle, opened.flags),
            }
        }
        Err(errno) => reply.error(errno),
    }
}

/// `size` as of getxattr(2): 0 asks for the length only.
fn answer_xattr(size: u32) -> fn(ReplyXattr, std::result::Result<Vec<u8>, Errno>) {
    fn length(reply: ReplyXattr, result: std::result::Result<Vec<u8>, Errno>) {
        match result {
            Ok(value) => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }
    fn value(reply: ReplyXattr, result: std::result::Result<Vec<u8>, Errno>) {
        match result {
            Ok(value) => reply.data(&value),
            Err(errno) => reply.error(errno),
        }
    }
    if size == 0 { length } else { value }
}

/// `ERANGE` for a value that does not fit; `size` 0 asks for the length.
fn fitting(value: Vec<u8>, size: u32) -> Result<Vec<u8>> {
    if size != 0 && value.len() > size as usize {
        return Err(Fail::Errno(libc::ERANGE));
    }
    Ok(value)
}

fn read(
    fs: &Fs,
    reply: ReplyData,
    (handle, at, size): (u64, u64, u32),
    patience: Patience,
) -> Option<ReplyData> {
    BUFFER.with_borrow_mut(|buffer| {
        let size = size.min(MAX_PIECE) as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let buffer = &mut buffer[..size];
        match guarded(|| fs.read(handle, at, buffer, patience)) {
            Ok(n) => reply.data(&buffer[..n]),
            Err(Fail::WouldBlock) => return Some(reply),
            Err(fail) => reply.error(fail.errno()),
        }
        None
    })
}

fn answer_write(reply: ReplyWrite, len: usize, result: Result<()>) {
    match result {
        Ok(()) => reply.written(u32::try_from(len).unwrap_or(u32::MAX)),
        Err(fail) => reply.error(fail.errno()),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            // `>` opens with O_TRUNC, instead of a truncation that belongs to
            // no open file.
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PASSTHROUGH,
        ] {
            if config.add_capabilities(wanted).is_err() {
                log::info!("this kernel does not offer {wanted:?}");
            }
        }
        // Of these three, what the kernel cannot give it cuts down itself.
        let _ = config.set_max_write(MAX_PIECE);
        if let Err(most) = config.set_max_readahead(MAX_PIECE) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        // Depth 1: the backing filesystem is no stacked one itself.
        let _ = config.set_max_stack_depth(1);
        let fs = self.fs.clone();
        std::thread::Builder::new()
            .name("housekeeping".into())
            .spawn(move || {
                loop {
                    fs.wait_for_housework();
                    std::thread::sleep(HOUSEKEEPING);
                    fs.housekeep();
                }
            })?;
        let fs = self.fs.clone();
        std::thread::Builder::new()
            .name("removals".into())
            .spawn(move || fs.carry_out_removals())?;
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.lookup(parent.0, &name, caller, patience),
            answer_entry,
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let handle = fh.map(|fh| fh.0);
        self.serve(
            reply,
            move |fs, patience, _| fs.getattr(ino.0, handle, patience),
            answer_attr,
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let (caller, handle) = (caller(request), fh.map(|fh| fh.0));
        self.serve(
            reply,
            move |fs, patience, _| fs.setattr(ino.0, &set, handle, caller, patience),
            answer_attr,
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match guarded(|| self.fs.readlink(ino.0)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(fail) => reply.error(fail.errno()),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.mkdir(parent.0, &name, mode, caller, patience),
            answer_entry,
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.unlink(parent.0, &name, caller, patience),
            answer_empty,
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.rmdir(parent.0, &name, caller, patience),
            answer_empty,
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), link_name.to_owned());
        let target = target.as_os_str().to_owned();
        self.serve(
            reply,
            move |fs, patience, _| fs.symlink(parent.0, &name, &target, caller, patience),
            answer_entry,
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.mknod(parent.0, &name, mode, rdev, caller, patience),
            answer_entry,
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        let (name, newname): (OsString, OsString) = (name.to_owned(), newname.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| {
                let (from, to) = ((parent.0, &*name), (newparent.0, &*newname));
                fs.rename(from, to, flags.bits(), caller, patience)
            },
            answer_empty,
        );
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), newname.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.link(ino.0, newparent.0, &name, caller, patience),
            answer_entry,
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        self.serve(
            reply,
            move |fs, patience, reply: &ReplyOpen| {
                let open_backing = |fd: std::os::fd::BorrowedFd<'_>| reply.open_backing(fd);
                fs.open(ino.0, flags.0, caller, &open_backing, patience)
            },
            answer_open,
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.create(parent.0, &name, mode, flags, caller, patience),
            |reply: ReplyCreate, result| match result {
                Ok(created) => reply.created(
                    &created.entry.entry_ttl,
                    &created.entry.attr,
                    Generation(created.entry.generation),
                    FileHandle(created.opened.handle),
                    created.opened.flags,
                ),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let what = (fh.0, offset, size);
        if let Some(reply) = read(&self.fs, reply, what, Patience::None) {
            let fs = self.fs.clone();
            self.workers.run(move || {
                read(&fs, reply, what, Patience::Wait);
            });
        }
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        let result = guarded(|| self.fs.write(fh.0, offset, data, caller, Patience::None));
        if !matches!(result, Err(Fail::WouldBlock)) {
            return answer_write(reply, data.len(), result);
        }
        // The request's buffer is this thread's: only a write that waits is
        // copied.
        let (fs, data) = (self.fs.clone(), data.to_vec());
        self.workers.run(move || {
            let result = guarded(|| fs.write(fh.0, offset, &data, caller, Patience::Wait));
            answer_write(reply, data.len(), result);
        });
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.serve(
            reply,
            move |fs, patience, _| fs.flush(fh.0, caller, patience),
            answer_empty,
        );
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(
            reply,
            move |fs, patience, _| fs.release(fh.0, patience),
            answer_empty,
        );
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(
            reply,
            move |fs, patience, _| fs.fsync(fh.0, datasync, patience),
            answer_empty,
        );
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        self.serve(
            reply,
            move |fs, patience, _| fs.opendir(ino.0, caller, patience),
            |reply: ReplyOpen, result| match result {
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let caller = caller(request);
        let result = guarded(|| {
            self.fs.readdirplus(ino.0, fh.0, offset, caller, |listed| {
                let entry = &listed.entry;
                !reply.add(
                    entry.attr.ino,
                    listed.offset,
                    &listed.name,
                    &entry.entry_ttl,
                    &entry.attr,
                    Generation(entry.generation),
                )
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(fail) => reply.error(fail.errno()),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.serve(
            reply,
            move |fs, patience, _| fs.fsyncdir(ino.0, caller, patience),
            answer_empty,
        );
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match guarded(|| self.fs.statfs(ino.0)) {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                u32::try_from(stat.f_bsize).unwrap_or(4096),
                u32::try_from(stat.f_namemax).unwrap_or(255),
                u32::try_from(stat.f_frsize).unwrap_or(4096),
            ),
            Err(fail) => reply.error(fail.errno()),
        }
    }

    fn access(&self, _request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let result = guarded(|| self.fs.access(ino.0, mask.bits()));
        answer_empty(reply, result.map_err(Fail::errno));
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let name = name.to_owned();
        self.serve(
            reply,
            move |fs, patience, _| fitting(fs.getxattr(ino.0, &name, patience)?, size),
            answer_xattr(size),
        );
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(
            reply,
            move |fs, patience, _| fitting(fs.listxattr(ino.0, patience)?, size),
            answer_xattr(size),
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, name, value) = (caller(request), name.to_owned(), value.to_vec());
        self.serve(
            reply,
            move |fs, patience, _| fs.setxattr(ino.0, &name, Some(&value), flags, caller, patience),
            answer_empty,
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.setxattr(ino.0, &name, None, 0, caller, patience),
            answer_empty,
        );
    }
}
