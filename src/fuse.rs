//! The requests of the kernel: each is decoded, given to [`Fs`](crate::fs::Fs), and answered.
//!
//! A request runs on the thread that took it, unless it would have to wait:
//! then it runs again on a worker, and the thread takes the next one. A panic
//! answers `EIO` and ends nothing.

mod adapter;
mod buffers;
mod locks;
mod reply;
mod threads;
mod workers;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

pub use self::adapter::Adapter;
use self::adapter::{caller, fitting, guarded, read, time};
use self::buffers::MAX_PIECE;
use crate::fs::{Ask, Fail, Patience, SetAttr};
use crate::sys::memory;

/// Requests in the background (read-ahead, for the most part) before the
/// kernel holds them back.
const MAX_BACKGROUND: u16 = 64;

/// How often replaced checkpoints are let go of.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            // `>` opens with O_TRUNC, instead of a truncation that belongs to
            // no open file.
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            // The umask is ours to apply: where a directory has a default ACL
            // it has no say.
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PASSTHROUGH,
            // And not those of fcntl(2).
            InitFlags::FUSE_FLOCK_LOCKS,
        ] {
            if config.add_capabilities(wanted).is_err() {
                log::info!("this kernel does not offer {wanted:?}");
            }
        }
        // The kernel checks ACLs as well as modes then; without it anybody's
        // ACL was shown and none had an effect.
        if self.fs.allows_others() && config.add_capabilities(InitFlags::FUSE_POSIX_ACL).is_err() {
            return Err(io::Error::other("this kernel does not check ACLs"));
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
                    loop {
                        std::thread::sleep(HOUSEKEEPING);
                        if !fs.housekeep() {
                            break;
                        }
                    }
                }
            })?;
        let fs = self.fs.clone();
        std::thread::Builder::new()
            .name("removals".into())
            .spawn(move || fs.carry_out_removals())?;
        locks::start(self.fs.clone(), self.workers.clone())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.lookup(parent.0, &name, caller.with(patience)),
            reply::entry,
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        if let Some(forgotten) = self.fs.forget(ino.0, nlookup) {
            self.run(move || drop(forgotten));
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let (caller, handle) = (caller(request), fh.map(|fh| fh.0));
        self.serve(
            reply,
            move |fs, patience, _| {
                let attr = fs.getattr(ino.0, handle, caller.with(patience))?;
                Ok((attr, fs.attr_ttl(ino.0)))
            },
            reply::attr,
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
            atime: atime.map(time),
            mtime: mtime.map(time),
        };
        let (caller, handle) = (caller(request), fh.map(|fh| fh.0));
        self.finish(
            reply,
            move |fs, patience, _| {
                let attr = fs.setattr(ino.0, &set, handle, caller.with(patience))?;
                Ok((attr, Duration::ZERO))
            },
            reply::attr,
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.finish(reply, move |fs, _, _| fs.readlink(ino.0), reply::link);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| {
                fs.mkdir(
                    parent.0,
                    &name,
                    fs.mode_of_new(parent.0, mode, umask)?,
                    caller.with(patience),
                )
            },
            reply::entry,
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.unlink(parent.0, &name, caller.with(patience)),
            reply::empty,
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.rmdir(parent.0, &name, caller.with(patience)),
            reply::empty,
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
            move |fs, _, _| fs.symlink(parent.0, &name, &target, caller),
            reply::entry,
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| {
                let mode = fs.mode_of_new(parent.0, mode, umask)?;
                fs.mknod(parent.0, &name, mode, rdev, caller.with(patience))
            },
            reply::entry,
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
                fs.rename(from, to, flags.bits(), caller.with(patience))
            },
            reply::empty,
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
            move |fs, patience, _| fs.link(ino.0, newparent.0, &name, caller.with(patience)),
            reply::entry,
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        self.serve(
            reply,
            move |fs, patience, reply: &ReplyOpen| {
                let open_backing = |fd: BorrowedFd<'_>| reply.open_backing(fd);
                fs.open(ino.0, flags.0, caller.with(patience), &open_backing)
            },
            reply::open,
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, reply: &ReplyCreate| {
                let open_backing = |fd: BorrowedFd<'_>| reply.open_backing(fd);
                let mode = fs.mode_of_new(parent.0, mode, umask)?;
                fs.create(
                    (parent.0, &name),
                    mode,
                    flags,
                    caller.with(patience),
                    &open_backing,
                )
            },
            reply::create,
        );
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let what = (request.uid(), fh.0, offset, size);
        let mut unanswered = Some(reply);
        if let Some(_inside) = self.threads.enter() {
            unanswered = unanswered
                .and_then(|reply| read(&self.fs, &self.buffers, reply, what, Patience::None));
        }
        if let Some(reply) = unanswered {
            let (fs, buffers) = (self.fs.clone(), self.buffers.clone());
            self.workers.run(move || {
                read(&fs, &buffers, reply, what, Patience::Wait);
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
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        let inside = self.threads.enter();
        let write = |patience| {
            guarded(|| (self.fs).write(fh.0, offset, data, flags.0, caller.with(patience)))
        };
        if inside.is_some() {
            let result = write(Patience::None);
            if !matches!(result, Err(Fail::WouldBlock)) {
                return reply::write(reply, data.len(), result);
            }
        }
        // The request's buffer is this thread's: only a write that waits is
        // copied.
        let copy = match self.buffers.copy(caller.uid, data, inside.is_none()) {
            Ok(copy) => copy,
            Err(_) if inside.is_some() => {
                return reply::write(reply, data.len(), write(Patience::Wait));
            }
            Err(errno) => {
                // A writer has to know of each piece that it lacks.
                let lost = guarded(|| self.fs.lose(fh.0, errno));
                return reply::write(reply, data.len(), lost.and(Err(errno.into())));
            }
        };
        let (fs, data) = (self.fs.clone(), copy);
        self.workers.run(move || {
            let result =
                guarded(|| fs.write(fh.0, offset, &data, flags.0, caller.with(Patience::Wait)));
            reply::write(reply, data.len(), result);
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
        self.finish(
            reply,
            move |fs, patience, _| fs.flush(fh.0, caller.with(patience)),
            reply::empty,
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
        if let Some(_inside) = self.threads.enter() {
            let released = guarded(|| self.fs.release(fh.0, Patience::None));
            if released != Err(Fail::WouldBlock) {
                return reply::empty(reply, released.map_err(Fail::errno));
            }
        }
        // Nobody waits for the answer, but the kernel sends no more than so many
        // requests that nobody waits for, read-ahead among them, at a time.
        reply.ok();
        let fs = self.fs.clone();
        self.workers.run(move || {
            let _busy = fs.busy();
            // Only that it would wait is ever answered.
            let _ = guarded(|| fs.release(fh.0, Patience::Wait));
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.finish(
            reply,
            move |fs, patience, _| fs.fsync(fh.0, datasync, patience),
            reply::empty,
        );
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.finish(
            reply,
            move |fs, patience, _| {
                fs.fallocate(fh.0, mode, (offset, length), caller.with(patience))
            },
            reply::empty,
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.serve(
            reply,
            move |fs, patience, _| fs.lseek(fh.0, offset, whence, patience),
            reply::offset,
        );
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        self.finish(
            reply,
            move |fs, patience, _| fs.copy_range(from, to, len, caller.with(patience)),
            reply::written,
        );
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        _start: u64,
        _end: u64,
        typ: i32,
        _pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (node, handle, caller) = (ino.0, fh.0, caller(request));
        match locks::flock(typ) {
            Ok(what) => self.lock(
                Ask {
                    node,
                    handle,
                    what,
                    waits: sleep,
                    caller,
                },
                reply,
            ),
            Err(fail) => reply.error(fail.errno()),
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // FICLONE and FICLONERANGE never get here: the kernel answers
        // EOPNOTSUPP for FUSE (no remap_file_range, Linux 6.18).
        reply.error(Errno::ENOTTY);
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        self.serve(
            reply,
            move |fs, patience, _| fs.opendir(ino.0, caller.with(patience)),
            reply::opened,
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
        let (caller, fs) = (caller(request), self.fs.clone());
        self.run(move || {
            let result = guarded(|| {
                memory::require_room()?;
                fs.readdirplus(ino.0, fh.0, offset, caller, |listed| {
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
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.run(move || {
            fs.releasedir(fh.0);
            reply.ok();
        });
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
            move |fs, patience, _| fs.fsyncdir(ino.0, caller.with(patience)),
            reply::empty,
        );
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.finish(reply, move |fs, _, _| fs.statfs(ino.0), reply::statfs);
    }

    fn access(&self, _request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.finish(
            reply,
            move |fs, _, _| fs.access(ino.0, mask.bits()),
            reply::empty,
        );
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
            reply::xattr(size),
        );
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let caller = caller(request);
        self.serve(
            reply,
            move |fs, patience, _| fitting(fs.listxattr(ino.0, caller.with(patience))?, size),
            reply::xattr(size),
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
        let (caller, name) = (caller(request), name.to_owned());
        let value = match self.buffers.copy(caller.uid, value, true) {
            Ok(copy) => copy,
            Err(errno) => return reply.error(Fail::from(errno).errno()),
        };
        self.serve(
            reply,
            move |fs, patience, _| {
                fs.setxattr(ino.0, &name, Some(&value), flags, caller.with(patience))
            },
            reply::empty,
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.serve(
            reply,
            move |fs, patience, _| fs.setxattr(ino.0, &name, None, 0, caller.with(patience)),
            reply::empty,
        );
    }
}
