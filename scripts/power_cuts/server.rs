//! A filesystem with two files: `image`, the content of a disk, and
//! `position`, how much the disk has recorded.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};
use rustix::mount::UnmountFlags;

use crate::disk::Disk;
use crate::image::{self, FOR_EVER, IMAGE};

/// A disk that the server and its owner share.
pub type Shared = Arc<Mutex<Disk>>;

pub fn lock(disk: &Shared) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

const POSITION: INodeNo = INodeNo(3);

/// Served by one thread: requests are recorded in the order in which the
/// kernel hands them out, and a flush covers exactly the writes before it.
struct Server {
    disk: Shared,
}

impl Server {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let file = match ino {
            IMAGE => Some((0o600, lock(&self.disk).size())),
            POSITION => Some((0o400, 0)),
            _ => None,
        };
        image::attributes(ino, file)
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // As a disk: many writes at the same time. The write-back cache stays
        // off: the kernel would keep writes from us, and join them.
        config
            .add_capabilities(InitFlags::FUSE_ASYNC_DIO)
            .map_err(|_| io::Error::other("this kernel has no FUSE_ASYNC_DIO"))
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.as_encoded_bytes() {
            b"image" => IMAGE,
            b"position" => POSITION,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&FOR_EVER, &self.attributes(ino), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing of it is cached: the disk changes behind the kernel's back.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = lock(&self.disk);
        if ino == POSITION {
            let text = if offset == 0 {
                disk.position().to_string()
            } else {
                String::new()
            };
            return reply.data(text.as_bytes());
        }
        let rest = disk.size().saturating_sub(offset);
        let mut buffer = vec![0; rest.min(size.into()) as usize];
        disk.read(offset, &mut buffer);
        drop(disk);
        reply.data(&buffer);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut disk = lock(&self.disk);
        let end = offset.checked_add(data.len() as u64);
        if ino != IMAGE || end.is_none_or(|end| end > disk.size()) {
            return reply.error(Errno::ENOSPC);
        }
        disk.write(offset, data);
        drop(disk);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.disk).flush();
        reply.ok();
    }

    // A close says nothing of what is durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// The mount of a disk, until it is dropped.
pub struct Served {
    mountpoint: PathBuf,
}

impl Served {
    /// Mounts on an empty directory, which is made.
    pub fn mount(disk: Shared, mountpoint: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(mountpoint)?;
        let session = image::mount(Server { disk }, "power-cuts", mountpoint)?;
        let served = Self {
            mountpoint: mountpoint.to_owned(),
        };
        // It ends with the mount, after whoever has the image open still.
        std::thread::spawn(|| {
            if let Err(e) = session.run() {
                eprintln!("power-cuts: the server of the image: {e}");
            }
        });
        Ok(served)
    }

    pub fn image(&self) -> PathBuf {
        self.mountpoint.join("image")
    }

    pub fn position(&self) -> PathBuf {
        self.mountpoint.join("position")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(e) = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH) {
            eprintln!("power-cuts: {}: {e}", self.mountpoint.display());
        }
    }
}
