//! A disk that fails when it is told to: a loop device whose image is a file of
//! a small FUSE filesystem of the test itself.
//!
//! There is no device mapper in this kernel. A full tmpfs under the loop device
//! fails those writes only that need a new page, with `ENOSPC`, and reads none
//! the worse (Linux 6.18, with direct I/O and without): ext4 on it answers the
//! first fsync(2) with `ENOSPC`, aborts its journal, and answers `EIO` to the next
//! one and 0 to the third. Which block fails is nobody's choice. A shortened image
//! is made longer by the next write; `trigger_fs_error` fails no request, and what
//! has failed so cannot be healed. Here each request is failed or not, and what
//! fails works again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::image::{self, FOR_EVER, IMAGE};
use super::mkfs::{image_directory, mkfs};
use super::{Disk, run, wait_until};

/// What stands in a block that has a fault: all others work.
pub const FAULTY: &[u8] = b"<a block with a fault>";

/// What the disk does not do.
#[derive(Debug, Default)]
pub struct Faults {
    /// It reads nothing with [`FAULTY`] in it.
    pub reads: AtomicBool,
    /// It writes nothing with [`FAULTY`] in it.
    pub writes: AtomicBool,
    /// It writes nothing at all, and flushes nothing.
    pub all_writes: AtomicBool,
    /// How many requests have failed.
    failed: AtomicUsize,
}

/// Heals a disk at its end: what is left to be written is, or the kernel would
/// try for ever.
struct Heal<'a>(&'a Faults);

impl Drop for Heal<'_> {
    fn drop(&mut self) {
        for fault in self.0.all() {
            fault.store(false, Ordering::SeqCst);
        }
    }
}

impl Faults {
    fn all(&self) -> [&AtomicBool; 3] {
        [&self.reads, &self.writes, &self.all_writes]
    }

    /// Makes a call while the disk fails, which has to answer while it does: one
    /// that waits for the disk to work again, or for ever, is a failure.
    #[track_caller]
    pub fn prompt<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        let fails = || self.all().iter().any(|fault| fault.load(Ordering::SeqCst));
        assert!(fails(), "the disk works");
        std::thread::scope(|scope| {
            // Or a call that hangs would keep the test from its end.
            let heal = Heal(self);
            let call = scope.spawn(call);
            wait_until("it answers while the disk fails", || call.is_finished());
            assert!(fails(), "the disk works");
            std::mem::forget(heal);
            call.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// Whether this request fails.
    fn fails(&self, fault: &AtomicBool, data: &[u8]) -> bool {
        let has_fault = |data: &[u8]| data.windows(FAULTY.len()).any(|window| window == FAULTY);
        let fails = fault.load(Ordering::SeqCst) && (data.is_empty() || has_fault(data));
        self.failed.fetch_add(usize::from(fails), Ordering::SeqCst);
        fails
    }
}

struct Server {
    image: File,
    size: u64,
    faults: Arc<Faults>,
}

impl Server {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        image::attributes(ino, (ino == IMAGE).then_some((0o600, self.size)))
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.as_encoded_bytes() {
            b"image" => reply.entry(&FOR_EVER, &self.attributes(IMAGE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is cached here, or reads would not come to us.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let rest = self.size.saturating_sub(offset);
        let mut buffer = vec![0; rest.min(size.into()) as usize];
        match self.image.read_exact_at(&mut buffer, offset) {
            Ok(()) if !self.faults.fails(&self.faults.reads, &buffer) => reply.data(&buffer),
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let faults = &self.faults;
        if faults.fails(&faults.all_writes, &[]) || faults.fails(&faults.writes, data) {
            return reply.error(Errno::EIO);
        }
        match self.image.write_all_at(data, offset) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.faults.fails(&self.faults.all_writes, &[]) {
            true => reply.error(Errno::EIO),
            false => reply.ok(),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// A loop device of which requests fail. It has to outlive what is mounted
/// of it.
pub struct FailingDevice {
    pub faults: Arc<Faults>,
    pub device: PathBuf,
    filesystem: String,
    served: PathBuf,
    _directory: tempfile::TempDir,
}

impl FailingDevice {
    /// One with this filesystem, `ext4`, `xfs` or `btrfs`.
    pub fn with(filesystem: &str) -> Self {
        super::require_fuse();
        let directory = tempfile::Builder::new()
            .prefix("sessionfs-device-")
            .tempdir_in(image_directory())
            .unwrap();
        let path = directory.path().join("image");
        // The least that xfs takes.
        let size = 300 << 20;
        let format: &[&str] = match filesystem {
            "ext4" => &[
                "-q",
                "-F",
                "-E",
                "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            ],
            "xfs" | "btrfs" => &["-q", "-K"],
            other => panic!("{other}"),
        };
        mkfs(&format!("mkfs.{filesystem}"), format, &path, size);
        let served = directory.path().join("served");
        fs::create_dir(&served).unwrap();
        let faults = Arc::new(Faults::default());
        let server = Server {
            image: super::tools::open_rw(&path).unwrap(),
            size,
            faults: faults.clone(),
        };
        // The thread ends with the mount.
        let session = image::mount(server, "failing", &served).unwrap();
        std::thread::spawn(|| session.run());
        let attach = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let image = served.join("image");
        let output = run("losetup", attach.into_iter().chain([image.as_os_str()]));
        let device = String::from_utf8(output.stdout).unwrap();
        Self {
            faults,
            device: device.trim().into(),
            filesystem: filesystem.to_owned(),
            served,
            _directory: directory,
        }
    }

    /// Mounted. What is in a file is in blocks of its own, of btrfs as well,
    /// which keeps it with the metadata otherwise if it is small.
    pub fn disk(&self) -> Disk {
        match self.filesystem.as_str() {
            "btrfs" => self.disk_with("max_inline=0"),
            _ => self.disk_with("defaults"),
        }
    }

    /// Mounted with these options.
    pub fn disk_with(&self, options: &str) -> Disk {
        Disk::with_options(&["-o", options, self.device.to_str().unwrap()])
    }

    /// How many requests have failed so far.
    pub fn failed(&self) -> usize {
        self.faults.failed.load(Ordering::SeqCst)
    }
}

impl Drop for FailingDevice {
    fn drop(&mut self) {
        drop(Heal(&self.faults));
        let detached = Command::new("losetup").arg("-d").arg(&self.device).status();
        let unmounted = Command::new("umount").arg("-l").arg(&self.served).status();
        for status in [detached, unmounted] {
            if !status.is_ok_and(|status| status.success()) && !std::thread::panicking() {
                panic!("{} stays behind", self.device.display());
            }
        }
    }
}
