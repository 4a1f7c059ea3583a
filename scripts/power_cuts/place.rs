//! Filesystems, loop devices and mounts.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::result::Result;

/// What holds the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Filesystem {
    /// ext4, data=ordered
    Ext4,
    /// ext4, data=writeback
    Ext4Writeback,
    Xfs,
    Btrfs,
}

impl Filesystem {
    pub const ALL: &[Self] = &[Self::Ext4, Self::Ext4Writeback, Self::Xfs, Self::Btrfs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext4Writeback => "ext4-writeback",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// As mount(2) names it.
    fn driver(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Ext4Writeback => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "data=ordered",
            Self::Ext4Writeback => "data=writeback",
            Self::Xfs | Self::Btrfs => "",
        }
    }

    /// Makes it in a new sparse file, as small as it allows; with blocks of
    /// [`BLOCK`](crate::disk::BLOCK), and complete, so that nothing is
    /// initialised later.
    pub fn make(self, image: &Path) -> Result<()> {
        let (mib, program, options) = match self {
            Self::Ext4 | Self::Ext4Writeback => (
                96,
                "mkfs.ext4",
                "-q -F -m 0 -b 4096 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            ),
            Self::Xfs => (300, "mkfs.xfs", "-q -K -b size=4096"),
            Self::Btrfs => (256, "mkfs.btrfs", "-q -K -s 4096"),
        };
        std::fs::File::create_new(image)?.set_len(mib << 20)?;
        run(Command::new(program)
            .args(options.split_whitespace())
            .arg(image))
        .map(drop)
    }

    /// Mounts it, which recovers its journal.
    pub fn mount(self, device: &Path, on: &Path) -> io::Result<Mounted> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let options = format!("{}\0", self.options());
        let options =
            std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(io::Error::other)?;
        rustix::mount::mount(device, on, self.driver(), flags, options)?;
        Ok(Mounted {
            on: on.to_owned(),
            device: device.to_owned(),
        })
    }
}

/// A mounted filesystem, until it is dropped.
pub struct Mounted {
    on: PathBuf,
    device: PathBuf,
}

impl Mounted {
    /// Unmounts, and waits until the filesystem has let go of its device. Whoever
    /// looks at all the mounts of the machine may keep it busy for a moment; and
    /// a mount namespace that somebody has made meanwhile has a copy of the
    /// mount, with which the filesystem lives on, writes to a disk that has been
    /// put back, and is what the next mount shows (Linux 6.18).
    pub fn unmount(self) -> Result<()> {
        let Self { on, device } = &self;
        wait_while_busy(|| rustix::mount::unmount(on, UnmountFlags::empty()))
            .map_err(|e| format!("{}: unmount: {e}", on.display()))?;
        // A mounted filesystem has its device for itself.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        let released = wait_while_busy(|| rustix::fs::open(device, flags, Mode::empty()).map(drop))
            .map_err(|e| format!("{}: is mounted elsewhere: {e}", device.display()).into());
        std::mem::forget(self);
        released
    }
}

/// Tries again for five minutes.
fn wait_while_busy(call: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let patience = Instant::now() + Duration::from_secs(300);
    loop {
        match call() {
            Err(Errno::BUSY) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(e) = rustix::mount::unmount(&self.on, UnmountFlags::DETACH) {
            eprintln!("power-cuts: {}: {e}", self.on.display());
        }
    }
}

/// A loop device, until it is dropped.
pub struct Loop(PathBuf);

impl Loop {
    /// With direct I/O: each write of the filesystem is one of the image, and
    /// none waits in a cache until after a flush.
    pub fn attach(image: &Path) -> Result<Self> {
        let attach = ["--find", "--show", "--direct-io=on"];
        let device = run(Command::new("losetup").args(attach).arg(image))?;
        Ok(Self(PathBuf::from(device.trim())))
    }

    pub fn device(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(e) = run(Command::new("losetup").arg("-d").arg(&self.0)) {
            eprintln!("power-cuts: {e}");
        }
    }
}

/// The output of a program that has to end well.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {told}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Unmounts, detaches and removes all that runs below this directory have left, who
/// have been told to end.
pub fn clean(work: &Path) -> Result<()> {
    let inside = |path: &str| Path::new(path).starts_with(work);
    // In the order in which they were mounted.
    let mounted = |only: &[&str]| -> Result<Vec<String>> {
        let mut find = Command::new("findmnt");
        let targets = find.args(["-rno", "TARGET"]).args(only).output()?.stdout;
        let targets = String::from_utf8(targets)?;
        let below = targets.lines().filter(|target| inside(target));
        Ok(below.map(str::to_owned).collect())
    };
    // Before their images go, and with them the names.
    let attached = || -> Result<Vec<String>> {
        let listed = run(Command::new("losetup").args(["-lnO", "NAME,BACK-FILE"]))?;
        let fields = listed.lines().filter_map(|line| line.split_once(' '));
        let ours = fields.filter(|(_, file)| inside(file.trim()));
        Ok(ours.map(|(name, _)| name.to_owned()).collect())
    };
    let mut devices = attached()?;
    // Forced, although it is busy: a process that waits for a disk which it serves
    // itself would never end.
    for target in mounted(&["-t", "fuse"])?.iter().rev() {
        let _ = rustix::mount::unmount(target.as_str(), UnmountFlags::FORCE);
    }
    // What has been attached since.
    devices.extend(attached()?);
    for target in mounted(&[])?.iter().rev() {
        rustix::mount::unmount(target.as_str(), UnmountFlags::DETACH)
            .map_err(|e| format!("{target}: unmount: {e}"))?;
    }
    for device in devices {
        // It may be detached already.
        let _ = run(Command::new("losetup").arg("-d").arg(device));
    }
    run(Command::new("rm")
        .args(["-rf", "--one-file-system"])
        .arg(work))
    .map(drop)
}
