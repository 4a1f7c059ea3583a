//! Each request of the kernel: decoded, given to [`Fs`](crate::fs::Fs), and answered.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::{Adapter, caller, guarded, time};
use super::reply::{self, Value};
use super::workers::Lane;
use super::{capabilities, locks};
use crate::fs::{Ask, Fail, SetAttr};
use crate::sys::memory;

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        capabilities::negotiate(config, self.fs.allows_others())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.serve(request, reply, move |fs, asked, _| {
            fs.lookup(parent.0, &name, asked)
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        if let Some(forgotten) = self.fs.forget(ino.0, nlookup) {
            self.run(Lane::end(None), move || drop(forgotten));
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let handle = fh.map(|fh| fh.0);
        self.serve(request, reply, move |fs, asked, _| {
            let attr = fs.getattr(ino.0, handle, asked)?;
            Ok((attr, fs.attr_ttl(ino.0)))
        });
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
        let handle = fh.map(|fh| fh.0);
        self.finish(request, reply, move |fs, asked, _| {
            let attr = fs.setattr(ino.0, &set, handle, asked)?;
            Ok((attr, Duration::ZERO))
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.finish(request, reply, move |fs, _, _| fs.readlink(ino.0));
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
        let name = name.to_owned();
        self.serve(request, reply, move |fs, asked, _| {
            fs.mkdir(
                parent.0,
                &name,
                fs.mode_of_new(parent.0, mode, umask)?,
                asked,
            )
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(request, reply, move |fs, asked, _| {
            fs.unlink(parent.0, &name, asked)
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(request, reply, move |fs, asked, _| {
            fs.rmdir(parent.0, &name, asked)
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target) = (link_name.to_owned(), target.as_os_str().to_owned());
        self.serve(request, reply, move |fs, asked, _| {
            fs.symlink(parent.0, &name, &target, asked.caller)
        });
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
        let name = name.to_owned();
        self.serve(request, reply, move |fs, asked, _| {
            let mode = fs.mode_of_new(parent.0, mode, umask)?;
            fs.mknod(parent.0, &name, mode, rdev, asked)
        });
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
        let (name, newname) = (name.to_owned(), newname.to_owned());
        self.serve(request, reply, move |fs, asked, _| {
            let (from, to) = ((parent.0, &*name), (newparent.0, &*newname));
            fs.rename(from, to, flags.bits(), asked)
        });
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = newname.to_owned();
        self.serve(request, reply, move |fs, asked, _| {
            fs.link(ino.0, newparent.0, &name, asked)
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.serve(request, reply, move |fs, asked, reply| {
            let open_backing = |fd: BorrowedFd<'_>| reply.open_backing(fd);
            fs.open(ino.0, flags.0, asked, &open_backing)
        });
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
        let name = name.to_owned();
        self.serve(request, reply, move |fs, asked, reply| {
            let open_backing = |fd: BorrowedFd<'_>| reply.open_backing(fd);
            let mode = fs.mode_of_new(parent.0, mode, umask)?;
            fs.create((parent.0, &name), mode, flags, asked, &open_backing)
        });
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
        self.read_piece((request.uid(), fh.0, offset, size), reply);
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
        self.write_piece(caller(request), (fh.0, offset, flags.0), data, reply);
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.end(request, reply, move |fs, asked, _| fs.flush(fh.0, asked));
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
        self.release_handle(fh.0, reply);
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.finish(request, reply, move |fs, asked, _| {
            fs.fsync(fh.0, datasync, asked.patience)
        });
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
        self.finish(request, reply, move |fs, asked, _| {
            fs.fallocate(fh.0, mode, (offset, length), asked)
        });
    }

    fn lseek(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.serve(request, reply, move |fs, asked, _| {
            fs.lseek(fh.0, offset, whence, asked.patience)
        });
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
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        self.finish(request, reply, move |fs, asked, _| {
            fs.copy_range(from, to, len, asked)
        });
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
        self.serve(request, reply, move |fs, asked, _| fs.opendir(ino.0, asked));
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
        self.run(Lane::request(caller.uid), move || {
            let result = guarded(|| {
                memory::require_room()?;
                fs.readdirplus(ino.0, fh.0, offset, caller, |it| reply::add(&mut reply, it))
            });
            reply::end(reply, result);
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
        self.run(Lane::end(fs.user_of(fh.0)), move || {
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
        self.serve(request, reply, move |fs, asked, _| {
            fs.fsyncdir(ino.0, asked)
        });
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.finish(request, reply, move |fs, _, _| fs.statfs(ino.0));
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.finish(request, reply, move |fs, _, _| {
            fs.access(ino.0, mask.bits())
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let name = name.to_owned();
        self.serve(request, Value(reply, size), move |fs, asked, _| {
            fs.getxattr(ino.0, &name, asked.patience)
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(request, Value(reply, size), move |fs, asked, _| {
            fs.listxattr(ino.0, asked)
        });
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
        let name = name.to_owned();
        let value = match self.buffers.copy(request.uid(), value, true) {
            Ok(copy) => copy,
            Err(errno) => return reply.error(Fail::from(errno).errno()),
        };
        self.serve(request, reply, move |fs, asked, _| {
            fs.setxattr(ino.0, &name, Some(&value), flags, asked)
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(request, reply, move |fs, asked, _| {
            fs.setxattr(ino.0, &name, None, 0, asked)
        });
    }
}
