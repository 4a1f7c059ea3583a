//! The common part of the tests of the built program: a private repository on a
//! filesystem of its own, mounted by the real binary, and removed with the test.

#![allow(dead_code, reason = "no test file uses all of it")]
pub mod failing;
pub mod homes;
pub mod image;
pub mod mkfs;
pub mod observe;
pub mod random;
pub mod saves;
pub mod side_by_side;
pub mod slow;
pub mod storage;
pub mod tools;
pub mod users;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub const SESSIONFS: &str = env!("CARGO_BIN_EXE_sessionfs");

/// How long a condition may take to become true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The filesystem of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// ext4 on a loop device.
    Ext4,
    /// xfs on a loop device.
    Xfs,
    /// btrfs on a loop device.
    Btrfs,
    /// tmpfs.
    Tmpfs,
    /// The directory for temporary files: for tests that do not depend on the filesystem.
    Here,
    /// ext4 of this many KiB on a loop device, to be filled up.
    Small(u32),
}

/// Defines a test for each filesystem on which a rule must hold. An ordinary run tries it
/// on ext4 and lists the others as ignored; a full run (`SESSIONFS_TESTS=full
/// scripts/test`) tries all.
#[macro_export]
macro_rules! on_each_filesystem {
    ($($test:ident),* $(,)?) => {
        mod ext4 { $(#[test] fn $test() { super::$test($crate::common::Backing::Ext4); })* }
        on_each_filesystem!(in_full xfs Xfs $($test)*);
        on_each_filesystem!(in_full btrfs Btrfs $($test)*);
        on_each_filesystem!(in_full tmpfs Tmpfs $($test)*);
    };
    (in_full $module:ident $backing:ident $($test:ident)*) => {
        mod $module { $(
            #[test]
            #[ignore = "in full: SESSIONFS_TESTS=full scripts/test"]
            fn $test() { super::$test($crate::common::Backing::$backing); }
        )* }
    };
}

/// Whether this is a full run, with `SESSIONFS_TESTS=full`.
pub fn is_full() -> bool {
    std::env::var_os("SESSIONFS_TESTS").is_some_and(|v| v == "full")
}

/// How often a test repeats itself: a tenth of `full`, unless it is a full run.
pub fn times(full: usize) -> usize {
    if is_full() { full } else { full.div_ceil(10) }
}

/// Fails, and says what is missing, if nothing can be mounted here.
#[track_caller]
pub fn require_fuse() {
    if let Err(e) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        panic!("the tests of the mount need /dev/fuse, as root (modprobe fuse): {e}");
    }
}

/// Waits until `done` is true; fails if that takes too long.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program, which must succeed.
pub fn run<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e} (scripts/packages lists what is needed)"));
    assert!(
        output.status.success(),
        "{program}: {}{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Unmounts with this program. A child that another test starts has copies of this
/// process's open files on the mount until its exec: that is waited for.
pub fn unmount<I: AsRef<OsStr>>(program: &str, arguments: &[I]) {
    wait_until("it is unmounted", || {
        let output = Command::new(program).args(arguments).output();
        output.unwrap().status.success()
    });
}

/// Runs a shell command in a directory.
pub fn shell(shell: &str, directory: &Path, command: &str) -> Output {
    Command::new(shell)
        .arg("-c")
        .arg(command)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{shell}: {e} (scripts/packages lists what is needed)"))
}

/// Runs a test in a process of its own, in which no other test starts programs. A child
/// has copies of all open files until its exec, and a close that has written nothing
/// waits only a short time for that (DESIGN 5).
pub fn alone(test: impl FnOnce()) {
    const ALONE: &str = "SESSIONFS_TEST_ALONE";
    let thread = std::thread::current();
    // With one test at a time it runs on the main thread.
    let name = thread.name().filter(|name| *name != "main");
    let Some(name) = name.filter(|_| std::env::var_os(ALONE).is_none()) else {
        return test();
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--include-ignored", "--nocapture"])
        .env(ALONE, "yes")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    println!("{}", said.concat());
    assert!(output.status.success(), "{name}: {}", output.status);
    assert!(said[0].contains("1 passed"), "{name} is no test");
}

/// A directory on a filesystem of its own.
pub struct Disk {
    directory: tempfile::TempDir,
    images: Option<tempfile::TempDir>,
    path: PathBuf,
    mounted: bool,
}

impl Disk {
    pub fn new(backing: Backing) -> Self {
        match backing {
            Backing::Here => Self::unmounted(),
            Backing::Tmpfs => Self::with_options(&["-t", "tmpfs", "-o", "size=2g", "tmpfs"]),
            Backing::Ext4 => Self::formatted(
                2 << 30,
                "mkfs.ext4",
                &["-q", "-F", "-E", "lazy_itable_init=1,nodiscard"],
            ),
            Backing::Xfs => Self::formatted(2 << 30, "mkfs.xfs", &["-q", "-K"]),
            Backing::Btrfs => Self::formatted(2 << 30, "mkfs.btrfs", &["-q", "-K"]),
            Backing::Small(kib) => {
                Self::formatted(u64::from(kib) << 10, "mkfs.ext4", &["-q", "-F", "-m", "0"])
            }
        }
    }

    /// A filesystem on a loop device of this size, made by this program.
    pub fn formatted(bytes: u64, program: &str, options: &[&str]) -> Self {
        let mut disk = Self::unmounted();
        let images = tempfile::Builder::new()
            .prefix("sessionfs-image-")
            .tempdir_in(mkfs::image_directory())
            .unwrap();
        let image = images.path().join("image");
        mkfs::mkfs(program, options, &image, bytes);
        disk.mount(&["-o".as_ref(), "loop".as_ref(), image.as_os_str()]);
        disk.images = Some(images);
        disk
    }

    /// A filesystem that mount(8) can mount with these arguments alone.
    pub fn with_options(arguments: &[&str]) -> Self {
        let mut disk = Self::unmounted();
        disk.mount(&arguments.iter().map(OsStr::new).collect::<Vec<_>>());
        disk
    }

    fn unmounted() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("sessionfs-test-")
            .tempdir()
            .unwrap();
        let path = directory.path().join("disk");
        fs::create_dir(&path).unwrap();
        Self {
            directory,
            images: None,
            path,
            mounted: false,
        }
    }

    fn mount(&mut self, arguments: &[&OsStr]) {
        let arguments = arguments.iter().copied();
        run("mount", arguments.chain([self.path.as_os_str()]));
        self.mounted = true;
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that contains it, for a filesystem on a loop device.
    pub fn image(&self) -> PathBuf {
        self.images.as_ref().unwrap().path().join("image")
    }

    /// A path beside it, for files that must not be on it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

/// Starts a daemon that stays in the foreground.
fn start(
    starter: &[&str],
    repository: &Path,
    mountpoint: &Path,
    log: &Path,
    options: &[&str],
) -> Child {
    let mut words = starter.iter().copied().chain([SESSIONFS]);
    Command::new(words.next().unwrap())
        .args(words)
        .args(["mount", "--foreground"])
        .args(options)
        .arg(repository)
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(log).unwrap())
        .spawn()
        .unwrap()
}

/// A repository, mounted.
pub struct Mount {
    daemon: Child,
    /// The repository's directory.
    pub repository: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    log: PathBuf,
    /// Whether the daemon's end has been waited for.
    has_ended: bool,
    /// Whether the test expects warnings in the log.
    pub may_complain: bool,
    pub disk: Disk,
}

impl Mount {
    /// Mounts a new repository on a filesystem of its own.
    pub fn new(backing: Backing) -> Self {
        Self::with(backing, &[])
    }

    /// The same with more options of `sessionfs mount`.
    pub fn with(backing: Backing, options: &[&str]) -> Self {
        require_fuse();
        let disk = Disk::new(backing);
        let repository = disk.path().join("repository");
        fs::create_dir(&repository).unwrap();
        Self::of(disk, repository, options)
    }

    /// Mounts a repository, which need not exist.
    pub fn of(disk: Disk, repository: PathBuf, options: &[&str]) -> Self {
        Self::started_by(&[], disk, repository, options)
    }

    /// As [`of`](Self::of), with a program and its arguments that starts the daemon.
    /// [`pid`](Self::pid) is then that of this program.
    pub fn started_by(starter: &[&str], disk: Disk, repository: PathBuf, options: &[&str]) -> Self {
        require_fuse();
        let mountpoint = disk.beside("mnt");
        let log = disk.beside("log");
        let daemon = start(starter, &repository, &mountpoint, &log, options);
        let mut mount = Self {
            daemon,
            repository,
            mountpoint,
            log,
            has_ended: false,
            may_complain: false,
            disk,
        };
        mount.wait_until_ready();
        mount
    }

    /// Mounts again in the same place, after the daemon's end. The log starts anew.
    pub fn restart(&mut self, options: &[&str]) {
        let ended = self.daemon.try_wait().unwrap();
        assert!(ended.is_some(), "the daemon still runs");
        self.has_ended = false;
        self.daemon = start(&[], &self.repository, &self.mountpoint, &self.log, options);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        wait_until("the mount answers", || {
            let ended = self.daemon.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the daemon ended: {ended:?}: {}",
                self.log()
            );
            is_mounted(&self.mountpoint)
        });
    }

    /// A session of this id, made if there is none.
    pub fn session(&self, id: impl AsRef<OsStr>) -> Session {
        let mut name = id.as_ref().to_owned();
        name.push(".session");
        let session = Session {
            on_mount: self.mountpoint.join(&name),
            in_repository: self.repository.join(&name),
        };
        match fs::create_dir(&session.on_mount) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.unwrap(),
        }
        session
    }

    /// The process that serves it.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends the daemon a signal, by name.
    pub fn signal(&self, name: &str) {
        run("kill", [&format!("-{name}"), &self.pid().to_string()]);
    }

    /// Waits for the daemon's end; returns its exit status.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.has_ended = true;
        let mut status = None;
        wait_until("the daemon ends", || {
            status = self.daemon.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let alive = matches!(self.daemon.try_wait(), Ok(None));
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.mountpoint)
            .stderr(Stdio::null())
            .status();
        if alive {
            let _ = Command::new("kill")
                .arg(self.daemon.id().to_string())
                .status();
        }
        let _ = self.daemon.wait();
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{log}");
            return;
        }
        assert!(alive || self.has_ended, "the daemon has died: {log}");
        assert!(
            !log.contains("panicked") && !log.contains("bug of sessionfs"),
            "{log}"
        );
        if !self.may_complain {
            let complaint = log.lines().find(|l| l.starts_with("sessionfs: error: "));
            assert_eq!(complaint, None, "the daemon complained");
        }
    }
}

/// A mount with a session whose checkpoint says "old".
pub fn mounted(backing: Backing) -> (Mount, Session) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    (mount, session)
}

/// Fails unless a session has this checkpoint, and no other file.
#[track_caller]
pub fn assert_checkpoint(session: &Session, content: &str) {
    let found = fs::read_to_string(session.checkpoint()).unwrap();
    assert_eq!(found, content);
    assert_eq!(session.names(), ["session"]);
}

/// Whether something is mounted on a directory.
pub fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev());
    matches!((device(path), path.parent().map(device)), (Ok(a), Some(Ok(b))) if a != b)
}

/// A session, on both sides of the mount.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its directory on the mount.
    pub on_mount: PathBuf,
    /// Its directory in the repository.
    pub in_repository: PathBuf,
}

impl Session {
    /// `session` on the mount.
    pub fn file(&self) -> PathBuf {
        self.on_mount.join("session")
    }

    /// `session` in the repository.
    pub fn checkpoint(&self) -> PathBuf {
        self.in_repository.join("session")
    }

    /// The names in the session's directory of the repository, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.in_repository)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The inode behind `session` in the repository.
    pub fn inode(&self) -> u64 {
        fs::metadata(self.checkpoint()).unwrap().ino()
    }
}
