//! Small tools of the tests, for calls whose errors matter.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{SESSIONFS, Session, wait_until};

/// Closes a file and returns the error of close(2), which dropping it ignores.
#[allow(unsafe_code, reason = "the standard library ignores the error")]
pub fn close(file: fs::File) -> io::Result<()> {
    // SAFETY: the descriptor is not owned by anything else any more.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Copies the program under test to where another user can start it. A process of its own
/// does that: a child that another test starts meanwhile would have the copy open for
/// writing until its exec, and it could not be started (`ETXTBSY`).
pub fn copy_sessionfs(to: impl AsRef<OsStr>) {
    super::run("cp", [OsStr::new(SESSIONFS), to.as_ref()]);
}

/// Saves a content, and returns the error of any call.
pub fn save(file: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<()> {
    let mut writer = fs::File::create(file)?;
    writer.write_all(content.as_ref())?;
    close(writer)
}

/// The errno of a failure; a success fails the test.
#[track_caller]
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it worked, and should have failed"),
        Err(e) => e.raw_os_error().unwrap_or_else(|| panic!("{e}")),
    }
}

/// Opens for reading and writing, without truncating.
pub fn open_rw(path: impl AsRef<Path>) -> io::Result<fs::File> {
    fs::File::options().read(true).write(true).open(path)
}

/// Runs a program in a directory and returns its trimmed output; it must succeed.
#[track_caller]
pub fn output_of(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e} (scripts/packages lists what is needed)"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// The output of a python program.
#[track_caller]
pub fn python(directory: &Path, program: &str) -> String {
    output_of(directory, "python3", &["-c", program])
}

/// A command of the program under test, on a repository.
pub fn sessionfs<A: AsRef<OsStr>>(
    repository: &Path,
    command: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Output {
    Command::new(SESSIONFS)
        .arg(command)
        .arg("-r")
        .arg(repository)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Helper(Child);

impl Helper {
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?}: {e} (scripts/packages)")))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Ends a program, by `SIGTERM` first. strace(1) does not end by that if the first thread
/// of its process has ended and others have not: it waits for each of them to stop.
pub fn end(child: &mut Child) {
    const PATIENCE: Duration = Duration::from_secs(3);
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Stops every linkat(2) of a process before it returns, until the returned value is
/// dropped.
pub fn hold_at_linkat(pid: u32) -> Helper {
    let delay = "inject=linkat:delay_exit=100000000";
    let helper = Helper::start(
        Command::new("strace")
            .args(["-f", "-q", "-o", "/dev/null", "-e", "trace=linkat"])
            .args(["-e", delay, "-p", &pid.to_string()]),
    );
    let traced =
        |status: String| status.contains("TracerPid:") && !status.contains("TracerPid:\t0");
    wait_until("strace follows all threads", || {
        fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .all(|thread| {
                let status = thread.unwrap().path().join("status");
                fs::read_to_string(status).is_ok_and(traced)
            })
    });
    helper
}

/// The names in a directory, sorted.
pub fn names_in(directory: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

/// Fails unless the save is made, on both sides, and nothing else is left behind.
#[track_caller]
pub fn assert_saved(session: &Session, content: &str) {
    assert_eq!(fs::read_to_string(session.file()).unwrap(), content);
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), content);
    assert_eq!(session.names(), ["session"]);
}

/// Fails if anything prevents the next save.
#[track_caller]
pub fn assert_next_save_works(session: &Session) {
    let mut writer = fs::File::create(session.file()).unwrap();
    writer.write_all(b"the next").unwrap();
    close(writer).unwrap();
    assert_saved(session, "the next");
}
