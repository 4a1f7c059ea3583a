//! Users that are not root, and mounts that they may use.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use super::{Backing, Disk, Mount};

/// The user that runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Root,
    /// 61001, and in the group 61010.
    Ann,
    /// 61002, and in the group 61010.
    Bob,
    /// 61003, and in no other group.
    Cid,
}

/// A program in a directory, to be run by a user.
fn command_of(user: User, directory: &Path, program: &[&str]) -> Command {
    let ids: &[&str] = match user {
        User::Root => &[],
        User::Ann => &["--reuid=61001", "--regid=61001", "--groups=61010"],
        User::Bob => &["--reuid=61002", "--regid=61002", "--groups=61010"],
        User::Cid => &["--reuid=61003", "--regid=61003", "--clear-groups"],
    };
    let mut command = Command::new("setpriv");
    command
        .args(ids)
        .args(program)
        .current_dir(directory)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// A command in a directory, run by a user.
pub fn run_as(user: User, directory: &Path, command: &str) -> Output {
    command_of(user, directory, &["dash", "-c", command])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A python program of a user that runs until its input ends, and has printed a line.
pub struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
    pub line: String,
}

impl Program {
    pub fn start(user: User, directory: &Path, program: &str) -> Self {
        Self::start_with(user, directory, program, &[])
    }

    pub fn start_with(user: User, directory: &Path, program: &str, arguments: &[&str]) -> Self {
        let program = [&["python3", "-c", program], arguments].concat();
        let mut child = command_of(user, directory, &program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut program = Self {
            child,
            output,
            line: String::new(),
        };
        program.line = program.next_line();
        program
    }

    /// The next line that it says.
    pub fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends it a line.
    pub fn go_on(&mut self) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(b"\n").unwrap();
    }

    /// It, once it has been killed.
    pub fn killed(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self
    }

    /// How many of its threads are in this system call.
    pub fn in_call(&self, number: i64) -> usize {
        let threads = super::observe::threads(self.child.id(), None).into_iter();
        threads
            .filter(|&tid| super::observe::is_in_call(tid, number))
            .count()
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        super::observe::threads(self.child.id(), None).len()
    }

    /// Its further output, until it ends.
    pub fn rest(mut self) -> String {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A mount for all users.
pub fn shared_mount(backing: Backing) -> Mount {
    shared_mount_by(&[], backing, &[])
}

/// As [`shared_mount`], with a program and its arguments that starts the daemon, and with
/// more options.
pub fn shared_mount_by(starter: &[&str], backing: Backing, options: &[&str]) -> Mount {
    let disk = Disk::new(backing);
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    let options = [&["--allow-other"], options].concat();
    let mount = Mount::started_by(starter, disk, repository, &options);
    open_to_all(&mount);
    mount
}

/// Lets all users reach the repository.
pub fn open_to_all(mount: &Mount) {
    let open = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    open(&mount.disk.beside("."), 0o755).unwrap();
    open(mount.disk.path(), 0o755).unwrap();
    open(&mount.repository, 0o1777).unwrap();
}

/// Exit status and output, as text.
pub fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    format!("{:?}: {out}{err}", output.status.code())
}
