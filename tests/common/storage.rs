//! A repository without a mount, and what saves leave in it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use serde_json::Value;

use super::{Backing, Disk, run, tools, wait_until};

/// The lock of a session.
pub const NEXT: &str = "session.next";

/// A repository beside any mount.
pub struct Repository {
    pub path: PathBuf,
    _disk: Disk,
}

impl Repository {
    pub fn new(backing: Backing) -> Self {
        let disk = Disk::new(backing);
        let path = disk.path().join("repository");
        fs::create_dir(&path).unwrap();
        Self { path, _disk: disk }
    }

    /// A session, with a checkpoint if that is not empty.
    pub fn session(&self, id: impl AsRef<OsStr>, checkpoint: &str) -> PathBuf {
        let mut name = id.as_ref().to_owned();
        name.push(".session");
        let session = self.path.join(name);
        fs::create_dir(&session).unwrap();
        if !checkpoint.is_empty() {
            fs::write(session.join("session"), checkpoint).unwrap();
        }
        session
    }

    pub fn sessionfs(&self, arguments: &[&str]) -> Output {
        sessionfs(&self.path, arguments)
    }

    pub fn list(&self) -> Value {
        let output = self.sessionfs(&["list", "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub fn sessionfs(repository: &Path, arguments: &[&str]) -> Output {
    tools::sessionfs(repository, arguments[0], &arguments[1..])
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Leaves a lock as of a save that was killed before its rename.
pub fn leave_dead(session: &Path) -> PathBuf {
    let next = session.join(NEXT);
    fs::write(&next, "half").unwrap();
    let mark = ["-n", "user.sessionfs.staged", "-v", ""].map(OsStr::new);
    run("setfattr", mark.into_iter().chain([next.as_os_str()]));
    next
}

/// A process that is ended when this is dropped.
pub struct Process(Child);

impl Process {
    /// A process with a flock on a file, as a save has it.
    pub fn owner_of(file: &Path) -> Self {
        let mut flock = Command::new("flock");
        flock.args(["--no-fork", "--exclusive"]).arg(file);
        let process = Self(flock.args(["sleep", "600"]).spawn().unwrap());
        let is_taken = || {
            let mut flock = Command::new("flock");
            !flock
                .arg("-n")
                .arg(file)
                .arg("true")
                .status()
                .unwrap()
                .success()
        };
        wait_until("the file is flock'ed", is_taken);
        process
    }

    /// A process that has a file open.
    pub fn reader_of(file: &Path) -> Self {
        let mut sleep = Command::new("sleep");
        Self(
            sleep
                .arg("600")
                .stdin(fs::File::open(file).unwrap())
                .spawn()
                .unwrap(),
        )
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
