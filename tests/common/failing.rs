//! A disk that fails when it is told to: a loop device whose image is a file of a small
//! FUSE filesystem in the test itself.
//!
//! Other ways do not work. There is no device mapper in this kernel. A full tmpfs under
//! the loop device fails only those writes that need a new page, with `ENOSPC`, and no
//! reads (Linux 6.18, with direct I/O and without): ext4 on it answers the first fsync(2)
//! with `ENOSPC`, aborts its journal, and answers `EIO` to the next one and 0 to the
//! third; and which block fails cannot be chosen. A shortened image is made longer by the
//! next write. `trigger_fs_error` fails no request, and cannot be undone. Here each
//! request fails or not as told, and everything can be made to work again.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::image::{self, Served};
use super::mkfs::{image_directory, mkfs};
use super::{Disk, run, wait_until};

/// The content of a block that has a fault: all other blocks work.
pub const FAULTY: &[u8] = b"<a block with a fault>";

/// What the disk fails to do.
#[derive(Debug, Default)]
pub struct Faults {
    /// Reading a block with [`FAULTY`] in it.
    pub reads: AtomicBool,
    /// Writing a block with [`FAULTY`] in it.
    pub writes: AtomicBool,
    /// Writing anything, and flushing.
    pub all_writes: AtomicBool,
    /// How many requests have failed.
    failed: AtomicUsize,
}

/// Repairs the disk when it is dropped: otherwise the kernel would try for ever to write
/// what is left.
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

    /// Makes a call while the disk fails. It must return while the disk still fails; one
    /// that waits for the disk to be repaired is a failure of the test.
    #[track_caller]
    pub fn prompt<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        let fails = || self.all().iter().any(|fault| fault.load(Ordering::SeqCst));
        assert!(fails(), "the disk works");
        std::thread::scope(|scope| {
            // Otherwise a call that hangs would keep the test from ending.
            let heal = Heal(self);
            let call = scope.spawn(call);
            wait_until("it answers while the disk fails", || call.is_finished());
            assert!(fails(), "the disk works");
            std::mem::forget(heal);
            call.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// An error if this request is to fail.
    fn pass(&self, fault: &AtomicBool, data: &[u8]) -> io::Result<()> {
        let has_fault = |data: &[u8]| data.windows(FAULTY.len()).any(|window| window == FAULTY);
        if fault.load(Ordering::SeqCst) && (data.is_empty() || has_fault(data)) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::other("a fault"));
        }
        Ok(())
    }
}

/// The disk of the image.
struct Image {
    file: File,
    size: u64,
    faults: Arc<Faults>,
}

impl image::Disk for Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)?;
        self.faults.pass(&self.faults.reads, buffer)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.faults.pass(&self.faults.all_writes, &[])?;
        self.faults.pass(&self.faults.writes, data)?;
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.faults.pass(&self.faults.all_writes, &[])
    }
}

/// A loop device whose requests can fail. It must outlive what is mounted from it.
pub struct FailingDevice {
    pub faults: Arc<Faults>,
    pub device: PathBuf,
    filesystem: String,
    /// Unmounted after the device is detached.
    _served: Served,
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
        // The smallest size that xfs takes.
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
        let faults = Arc::new(Faults::default());
        let disk = Image {
            file: super::tools::open_rw(&path).unwrap(),
            size,
            faults: faults.clone(),
        };
        let served = Served::mount(disk, "failing", &directory.path().join("served")).unwrap();
        let attach = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let image = served.path(image::IMAGE);
        let output = run("losetup", attach.into_iter().chain([image.as_os_str()]));
        let device = String::from_utf8(output.stdout).unwrap();
        Self {
            faults,
            device: device.trim().into(),
            filesystem: filesystem.to_owned(),
            _served: served,
            _directory: directory,
        }
    }

    /// Mounts it. File contents are in blocks of their own; btrfs would otherwise keep
    /// small ones with its metadata.
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
        if !detached.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            panic!("{} stays behind", self.device.display());
        }
    }
}
