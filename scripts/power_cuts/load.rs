//! The load: the daemon over a repository on a disk that records, processes
//! that save, and somebody else who forces commits.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::acknowledged::Acknowledged;
use crate::disk::{BLOCK, Disk, Entry, Shared};
use crate::image::{IMAGE, REPORT, Served};
use crate::options::Run;
use crate::place::{Filesystem, Loop, run};
use crate::random::Random;
use crate::result::Result;

/// What came of it.
pub struct Recording {
    /// As it was before, all of it durable.
    pub disk: Disk,
    pub entries: Vec<Entry>,
    /// By position.
    pub acknowledged: Vec<Acknowledged>,
}

/// Where things are, below the run's own directory.
struct Paths {
    base: PathBuf,
    recorder: PathBuf,
    disk: PathBuf,
    repository: PathBuf,
    mount: PathBuf,
}

pub fn record(run: &Run) -> Result<Recording> {
    let below = |name: &str| run.directory.join(name);
    let paths = Paths {
        base: below("base"),
        recorder: below("recorder"),
        disk: below("disk"),
        repository: below("disk").join("repository"),
        mount: below("mnt"),
    };
    fs::create_dir(&paths.disk)?;
    run.on.make(&paths.base)?;
    prepare(run.on, &paths)?;

    let disk = Shared::new(Disk::load(&paths.base)?);
    let served = Served::mount(disk.clone(), "power-cuts", &paths.recorder)?;
    let device = Loop::attach(&served.path(IMAGE))?;
    prove_order(&disk, device.device())?;

    disk.lock().record();
    let mounted = run.on.mount(device.device(), &paths.disk)?;
    let result = work(run, &paths, &served);
    // A load that failed says why; the rest follows from it.
    let unmounted = mounted.unmount();
    let acknowledged = result?;
    unmounted?;
    let entries = disk.lock().recorded();
    Ok(Recording {
        disk: Disk::load(&paths.base)?,
        entries,
        acknowledged,
    })
}

/// The directories, on the fresh filesystem.
fn prepare(on: Filesystem, paths: &Paths) -> Result<()> {
    let device = Loop::attach(&paths.base)?;
    let mounted = on.mount(device.device(), &paths.disk)?;
    fs::create_dir(&paths.repository)?;
    fs::create_dir(paths.disk.join("disturber"))?;
    mounted.unmount()
}

/// That the recorder sees what this all rests on: a write to the device comes
/// as a write, and fsync(2) of it as a FSYNC after that. So it does on Linux
/// 6.18; a loop device hands down a flush by vfs_fsync, and has no FUA, so that
/// the kernel makes it a write and a flush.
fn prove_order(disk: &Shared, device: &Path) -> Result<()> {
    let name = device.file_name().ok_or("a device without a name")?;
    let queue = Path::new("/sys/block").join(name);
    for (attribute, expected) in [
        ("loop/dio", "1"),
        ("queue/write_cache", "write back"),
        ("queue/fua", "0"),
    ] {
        let is = fs::read_to_string(queue.join(attribute))?;
        if is.trim() != expected {
            return Err(format!("{}: {attribute} is {is}", device.display()).into());
        }
    }
    let mut file = OpenOptions::new().read(true).write(true).open(device)?;
    let mut block = [0; BLOCK];
    file.read_exact(&mut block)?;
    file.seek(SeekFrom::Start(0))?;
    disk.lock().record();
    file.write_all(&block)?;
    file.sync_all()?;
    drop(file);
    let log = disk.lock().recorded();
    let wrote = |entry: &Entry| matches!(entry, Entry::Write(0, data) if data[..] == block);
    match &log[..] {
        [write, Entry::Flush, ..] if wrote(write) => Ok(()),
        _ => Err(format!("the loop device does not hand down writes and flushes: {log:?}").into()),
    }
}

/// The daemon and all who save, from the first to the last.
fn work(run: &Run, paths: &Paths, served: &Served) -> Result<Vec<Acknowledged>> {
    let mut daemon = Daemon::start(run, paths)?;
    let is_over = AtomicBool::new(false);
    let (saved, disturbed) = std::thread::scope(|scope| {
        let disturber = scope.spawn(|| disturb(run, &paths.disk.join("disturber"), &is_over));
        let saved = save(run, paths, served);
        is_over.store(true, Ordering::Relaxed);
        (saved, disturber.join())
    });
    let stopped = daemon.stop();
    let acknowledged = saved?;
    stopped?;
    disturbed.map_err(|_| "the disturber")??;
    Ok(acknowledged)
}

/// Runs the workers and collects what they acknowledged.
fn save(run: &Run, paths: &Paths, served: &Served) -> Result<Vec<Acknowledged>> {
    let program = std::env::current_exe()?;
    let log = |number: u64| run.directory.join(format!("acknowledged.{number}"));
    let mut workers = Children(Vec::new());
    for number in 1..=run.workers {
        let mut command = Command::new(&program);
        command.arg("worker");
        command.arg("--mount").arg(&paths.mount);
        command.arg("--repository").arg(&paths.repository);
        command.arg("--sessionfs").arg(&run.sessionfs);
        command.arg("--report").arg(served.path(REPORT));
        command.arg("--log").arg(log(number));
        command.arg("--number").arg(number.to_string());
        let seed = run.seed.wrapping_add(number);
        command.arg("--seed").arg(seed.to_string());
        let saves = run.size.saves.div_ceil(run.workers);
        command.arg("--saves").arg(saves.to_string());
        if run.in_place {
            command.arg("--in-place");
        }
        workers.0.push(command.spawn()?);
    }
    for worker in &mut workers.0 {
        let status = worker.wait()?;
        if !status.success() {
            return Err(format!("a worker: {status}").into());
        }
    }
    let mut acknowledged = Vec::new();
    for number in 1..=run.workers {
        for line in fs::read_to_string(log(number))?.lines() {
            acknowledged.push(Acknowledged::read(line)?);
        }
    }
    acknowledged.sort_by_key(|a| a.position);
    Ok(acknowledged)
}

/// Writes and forces commits at random moments, so that what a save does is
/// cut in two by them. Without that a truncation and the write after it come
/// to the disk together, and even a program that saves in place seems safe.
fn disturb(run: &Run, directory: &Path, is_over: &AtomicBool) -> std::io::Result<()> {
    let mut random = Random::new(run.seed);
    let root = File::open(directory)?;
    while !is_over.load(Ordering::Relaxed) {
        let name = directory.join(random.below(8).to_string());
        let mut file = File::create(name)?;
        let len = 1 << random.below(15);
        file.write_all(&vec![0x5a; len])?;
        match random.below(4) {
            0 => rustix::fs::syncfs(&root)?,
            1 => file.sync_data()?,
            _ => file.sync_all()?,
        }
        std::thread::sleep(Duration::from_micros(random.below(5_000)));
    }
    Ok(())
}

/// Processes that do not outlive this value.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail for one that has ended and been waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The daemon, mounted.
struct Daemon<'a> {
    run: &'a Run,
    paths: &'a Paths,
    process: Children,
    log: PathBuf,
}

impl<'a> Daemon<'a> {
    fn start(run: &'a Run, paths: &'a Paths) -> Result<Self> {
        let log = run.directory.join("daemon.log");
        let mut command = Command::new(run.daemon.as_ref().unwrap_or(&run.sessionfs));
        command.args(["mount", "--foreground", "--allow-other"]);
        command.arg(&paths.repository).arg(&paths.mount);
        command.stderr(File::create(&log)?);
        if let Some(defect) = &run.defect {
            command.env("SESSIONFS_DEFECT", defect);
        }
        let mut daemon = Self {
            run,
            paths,
            process: Children(vec![command.spawn()?]),
            log,
        };
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
        let patience = Instant::now() + Duration::from_secs(60);
        while device(&paths.mount).is_none() || device(&paths.mount) == device(&run.directory) {
            if let Some(status) = daemon.process.0[0].try_wait()? {
                return Err(format!("the daemon: {status}: {}", daemon.told()).into());
            }
            if Instant::now() > patience {
                return Err("the daemon does not mount".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Unmounts and waits for its end. A program that looks at all the mounts of the
    /// machine may keep it busy for a moment.
    fn stop(&mut self) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(60);
        let umount = [Path::new("umount"), &self.paths.mount];
        while let Err(e) = run(Command::new(&self.run.sessionfs).args(umount)) {
            if Instant::now() > patience {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let status = self.process.0[0].wait()?;
        let told = self.told();
        if !status.success() || told.contains("error:") {
            return Err(format!("the daemon: {status}: {told}").into());
        }
        Ok(())
    }
}
