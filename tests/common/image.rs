//! A FUSE filesystem that serves the image of a disk: the disk itself may fail, or
//! record, as its test wants it. A loop device makes a block device of it.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, Session, SessionACL, WriteFlags,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

/// What is behind the image. Offsets and sizes are in bytes, and no request goes
/// beyond the end. An error is one of the disk: the kernel is told `EIO`.
pub trait Disk: Send + Sync + 'static {
    fn size(&self) -> u64;

    /// Fills the buffer.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Answers when everything written before is durable.
    fn flush(&self) -> io::Result<()>;

    /// Whether it takes many writes at the same time. With that, a filesystem whose
    /// disk has failed for a while may not mount again (ext4, Linux 6.18).
    fn is_parallel(&self) -> bool {
        false
    }

    /// The text of a second file, [`REPORT`], if there is one.
    fn report(&self) -> Option<String> {
        None
    }
}

/// The names of the two files.
pub const IMAGE: &str = "image";
pub const REPORT: &str = "report";

const IMAGE_NODE: INodeNo = INodeNo(2);
const REPORT_NODE: INodeNo = INodeNo(3);

/// Attributes change only by the kernel's own requests.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Served by one thread: the disk sees requests in the order in which the kernel
/// hands them out, and a flush covers exactly the writes before it.
struct Server<D>(D);

impl<D: Disk> Server<D> {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            IMAGE_NODE => (FileType::RegularFile, 0o600, self.0.size()),
            REPORT_NODE => (FileType::RegularFile, 0o400, 0),
            _ => (FileType::Directory, 0o700, 0),
        };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl<D: Disk> Filesystem for Server<D> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The write-back cache stays off: the kernel would keep writes back, and join
        // them.
        if !self.0.is_parallel() {
            return Ok(());
        }
        config
            .add_capabilities(InitFlags::FUSE_ASYNC_DIO)
            .map_err(|_| io::Error::other("this kernel has no FUSE_ASYNC_DIO"))
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some(IMAGE) => IMAGE_NODE,
            Some(REPORT) if self.0.report().is_some() => REPORT_NODE,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&FOR_EVER, &self.attributes(ino), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is cached: each read comes here, and the disk may change unseen.
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
        if ino == REPORT_NODE {
            let text = self.0.report().filter(|_| offset == 0);
            return reply.data(text.unwrap_or_default().as_bytes());
        }
        let rest = self.0.size().saturating_sub(offset);
        let mut buffer = vec![0; rest.min(size.into()) as usize];
        match self.0.read(offset, &mut buffer) {
            Ok(()) => reply.data(&buffer),
            Err(_) => reply.error(Errno::EIO),
        }
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
        let end = offset.checked_add(data.len() as u64);
        if ino != IMAGE_NODE || end.is_none_or(|end| end > self.0.size()) {
            return reply.error(Errno::ENOSPC);
        }
        match self.0.write(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.flush() {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    // A close says nothing of what is durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// The mount of a disk's image, until it is dropped.
pub struct Served {
    mountpoint: PathBuf,
}

impl Served {
    /// Mounts it on an empty directory, which is made; `source` is its name in the
    /// table of mounts.
    pub fn mount(disk: impl Disk, source: &'static str, mountpoint: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(mountpoint)?;
        let session = mount(Server(disk), source, mountpoint)?;
        let served = Self {
            mountpoint: mountpoint.to_owned(),
        };
        // The thread ends when it is unmounted and nobody has the image open.
        std::thread::spawn(move || {
            if let Err(e) = session.run() {
                eprintln!("{source}: the server of the image: {e}");
            }
        });
        Ok(served)
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(e) = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH) {
            eprintln!("{}: unmount: {e}", self.mountpoint.display());
        }
    }
}

fn mount<F: Filesystem>(filesystem: F, source: &str, mountpoint: &Path) -> io::Result<Session<F>> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,max_read=1048576\0",
        device.as_raw_fd()
    );
    let data = CStr::from_bytes_with_nul(data.as_bytes()).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(source, mountpoint, "fuse", flags, data)?;
    let config = fuser::Config::default();
    let session = Session::from_fd(filesystem, device, SessionACL::All, config);
    if session.is_err() {
        rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?;
    }
    session
}
