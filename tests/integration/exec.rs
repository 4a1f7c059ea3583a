//! Programs that are started while a checkpoint is being written. The kernel closes
//! close-on-exec files during execve(2), and waits for us there, with a lock for which
//! readers of some files in /proc wait.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::observe::state;
use crate::common::storage::text;
use crate::common::{Backing, Mount, SESSIONFS, assert_checkpoint, mounted, wait_until};

/// Starts a program, which must end in this time.
const WITH_A_CHILD: &str = r"
import os, sys, time
def run(child):
    end = time.time() + 20
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.time() > end:
            sys.exit('the program does not start')
        time.sleep(0.01)
";

/// The child has only the writer open, until execve(2).
const OF_THE_PARENT: &str = r"
writer = os.open('session', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.write(writer, b'new')
child = os.fork()
if child == 0:
    os.closerange(0, writer)
    os.closerange(writer + 1, 4096)
    os.execv('/bin/true', ['true'])
run(child)
os.close(writer)
";

/// One copy is closed in execve(2), the other is the output of the program. Attributes
/// have been asked for, so /proc shows both with the checkpoint's number.
const OF_ITS_OWN: &str = r"
child = os.fork()
if child == 0:
    writer = os.open('session', os.O_WRONLY | os.O_TRUNC)
    if len(sys.argv) > 1:
        os.write(writer, b'n')
    os.fstat(writer)
    os.dup2(writer, 1, inheritable=True)
    os.execv('/bin/echo', ['echo', '-n', 'ew' if len(sys.argv) > 1 else 'new'])
run(child)
";

fn starts(script: &str, arguments: &[&str]) {
    let (mount, session) = mounted(Backing::Here);
    let output = Command::new("python3")
        .args(["-c", &[WITH_A_CHILD, script].concat()])
        .args(arguments)
        .current_dir(&session.on_mount)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !output.status.success() {
        // Only an abort of the connection releases the child.
        crate::common::run("umount", [OsStr::new("-f"), mount.mountpoint.as_os_str()]);
    }
    assert!(output.status.success(), "{output:?}");
    assert_checkpoint(&session, "new");
}

#[test]
fn a_program_is_started_by_a_process_with_an_open_writer() {
    starts(OF_THE_PARENT, &[]);
}

#[test]
fn a_program_is_started_with_a_writer_as_its_output() {
    starts(OF_ITS_OWN, &[]);
    starts(OF_ITS_OWN, &["after data"]);
}

/// A process that stays in execve(2) until this value is dropped: it closes a file on a
/// mount whose daemon is stopped.
struct Stuck {
    mount: Mount,
    process: Child,
}

impl Stuck {
    /// A process that has this file open as well.
    fn with(file: &Path) -> Self {
        let (mount, session) = mounted(Backing::Here);
        let script = "
import os, signal, sys
kept = os.open(sys.argv[1], os.O_RDONLY)
os.set_inheritable(kept, True)
writer = os.open(sys.argv[2], os.O_WRONLY)
os.write(writer, b'new')
os.kill(int(sys.argv[3]), signal.SIGSTOP)
os.execv('/bin/sleep', ['sleep', '600'])
";
        let process = Command::new("python3")
            .args(["-c", script])
            .args([file, &session.file()])
            .arg(mount.pid().to_string())
            .spawn()
            .unwrap();
        let stuck = Self { mount, process };
        // python's own exec is over once it has stopped the daemon. The new memory has no
        // code yet.
        wait_until("it is in exec", || {
            if state(stuck.mount.pid()) != Some('T') {
                return false;
            }
            let status = fs::read_to_string(format!("/proc/{}/status", stuck.pid())).unwrap();
            status.contains("VmExe:\t       0 kB")
        });
        stuck
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.mount.signal("CONT");
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command that looks at all processes must not wait for one of them.
#[test]
fn status_and_umount_do_not_wait_for_a_program_that_does_not_start() {
    let (mut mount, session) = mounted(Backing::Here);
    let stuck = Stuck::with(&session.file());
    let sessionfs = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["60", SESSIONFS]).args(arguments);
        command.arg(&mount.mountpoint).output().unwrap()
    };
    let output = sessionfs(&["status", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["state"], "serving", "{told}");
    let process = &told[0]["processes"][0];
    assert_eq!(process["pid"], stuck.pid(), "{told}");
    assert_eq!(process["files"][0]["how"], "reads", "{told}");
    let output = sessionfs(&["umount"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains(&stuck.pid().to_string()), "{said}");
    drop(stuck);
    assert!(sessionfs(&["umount"]).status.success());
    assert!(mount.wait().success());
}
