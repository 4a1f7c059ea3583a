//! `sessionfs status` for monitoring (13.2): an exit status that says what is wrong, and
//! an answer even if something hangs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::common::storage::text;
use crate::common::tools::{copy_sessionfs, end};
use crate::common::{Backing, Disk, Mount, SESSIONFS, shell, wait_until};

/// `sessionfs status` with a time limit that it must not need here.
fn status(arguments: &[&str], mountpoint: Option<&Path>) -> Output {
    Command::new("timeout")
        .args(["60", SESSIONFS, "status"])
        .args(arguments)
        .args(mountpoint)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn assert_code(mount: &Mount, code: i32) {
    for arguments in [&[][..], &["--json"]] {
        let output = status(arguments, Some(&mount.mountpoint));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn rule_2_3_a_lost_save_is_an_exit_status_until_the_next_good_one() {
    let mut mount = Mount::new(Backing::Here);
    mount.may_complain = true;
    let session = mount.session("a");
    assert_code(&mount, 0);
    shell(
        "bash",
        &session.on_mount,
        "exec 3> session; echo half >&3; kill -9 $$",
    );
    assert_code(&mount, 8);
    fs::write(session.file(), "saved").unwrap();
    assert_code(&mount, 0);
}

#[test]
fn rule_13_2_a_daemon_that_hangs_or_is_dead_is_an_exit_status() {
    let mut mount = Mount::new(Backing::Here);
    mount.signal("STOP");
    let all = status(&[], None);
    assert_eq!(all.status.code(), Some(7), "{all:?}");
    mount.signal("CONT");
    mount.signal("KILL");
    mount.wait();
    assert_code(&mount, 7);
    mount.restart(&[]);
    assert_code(&mount, 0);
}

/// A daemon that has read the question and does not answer: the thread that asks cannot
/// be killed until it does (request_wait_answer, fs/fuse/dev.c, Linux 6.18).
#[test]
fn rule_13_2_a_daemon_that_hangs_with_the_question_blocks_no_command() {
    let mount = Mount::with(Backing::Here, &["--threads", "1"]);
    let pid = mount.pid().to_string();
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-o", "/dev/null", "-p", &pid, "-e"])
        .args(["trace=writev", "-e", "inject=writev:delay_enter=600000000"])
        .spawn()
        .unwrap();
    wait_until("strace follows it", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        !status.contains("TracerPid:\t0")
    });
    let output = status(&[], Some(&mount.mountpoint));
    let watched = Command::new("timeout")
        .args(["8", SESSIONFS, "status", "--watch=0.1"])
        .arg(&mount.mountpoint)
        .output()
        .unwrap();
    end(&mut strace);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(
        text(&output.stdout).contains("does not answer"),
        "{output:?}"
    );
    let times = text(&watched.stdout).matches("does not answer").count();
    assert!(
        times > 10,
        "it is asked again only when it has answered: {times}"
    );
}

/// In a mount namespace of its own, with a `/dev/fuse` that all users may open: a mount
/// of an ordinary user, and which users see its status.
const OF_A_USER: &str = r#"
set -u
cd "$1"
mount -t tmpfs -o mode=0755 tmpfs dev
mknod -m 0666 dev/fuse c 10 229
mount --bind dev/fuse /dev/fuse
own="setpriv --reuid=65534 --regid=65534 --clear-groups"
ann="setpriv --reuid=61001 --regid=61001 --clear-groups"
$own ./sessionfs mount --log-level off repository mnt || exit
trap "$own ./sessionfs umount --lazy mnt" EXIT
ls mnt 2> /dev/null && echo root gets in
for who in "" "$own" "$ann"; do
    $who ./sessionfs status mnt
    echo "status $?"
done
$ann ./sessionfs status --json mnt | grep reason
$ann ./sessionfs status > /dev/null
echo "status $?"
./sessionfs status --json mnt
"#;

#[test]
fn root_sees_the_mounts_of_all_users_and_others_their_own() {
    let disk = Disk::new(Backing::Here);
    let path = disk.path();
    fs::set_permissions(disk.beside("."), PermissionsExt::from_mode(0o711)).unwrap();
    copy_sessionfs(path.join("sessionfs"));
    for name in ["repository", "mnt", "dev"] {
        fs::create_dir(path.join(name)).unwrap();
        chown(path.join(name), Some(65534), Some(65534)).unwrap();
    }
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            OF_A_USER,
            "-",
        ])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output.stdout);
    let (lines, json) = said
        .split_once("\n[")
        .unwrap_or_else(|| panic!("{output:?}"));
    let at = path.join("mnt");
    let first = format!("{} on {}", path.join("repository").display(), at.display());
    let daemon = format!(", version {}, since ", env!("CARGO_PKG_VERSION"));
    let lines: Vec<&str> = lines.lines().collect();
    for (at, line) in [first.as_str(), "", "status 0"]
        .iter()
        .cycle()
        .take(6)
        .enumerate()
    {
        let found = lines[at];
        assert!(
            found == *line || line.is_empty() && found.contains(&daemon),
            "{said}"
        );
    }
    // Another user sees nothing of it, and for a status of all mounts that is no error.
    let rest = [
        first.as_str(),
        "  its daemon cannot be asked: Permission denied",
        "status 1",
        "    \"reason\": \"Permission denied\",",
    ];
    assert_eq!(lines[6..10], rest, "{said}");
    // There may be mounts of other tests, with faults.
    assert!(
        ["status 0", "status 7", "status 8"].contains(&lines[10]),
        "{said}"
    );
    let told: Value = serde_json::from_str(&format!("[{json}")).unwrap();
    assert_eq!(told[0]["state"], "serving", "{told}");
    assert_eq!(told[0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told[0]["schema"], 1);
    assert_eq!(text(&output.stderr), "");
}

/// A program that ends with this value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

#[test]
fn the_status_is_repeated_as_long_as_it_is_read() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    let mut watch = Program(
        Command::new(SESSIONFS)
            .args(["status", "--watch=0.1"])
            .arg(&mount.mountpoint)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let mut until = |part: &str| lines.any(|line| line.unwrap().contains(part));
    assert!(until("; 0 saved"));
    fs::write(session.file(), "saved").unwrap();
    assert!(until("; 1 saved"));
    drop(lines);
    wait_until("it ends with its reader", || {
        watch.0.try_wait().unwrap().is_some()
    });
    for bad in ["--watch=0", "--watch=x", "--watch=-1"] {
        assert_eq!(status(&[bad], None).status.code(), Some(2), "{bad}");
    }
}

/// A process whose memory lock is taken as long as another filesystem hangs: one thread
/// unmaps a page that must be written back first, and another waits for the lock behind
/// it.
const STUCK: &str = r"
import ctypes, os, sys, threading, time
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
f = os.open(sys.argv[1], os.O_RDWR)
at = c.mmap(None, 4096, 3, 1, f, 0)
ctypes.memmove(at, b'new', 3)
other = os.open(sys.argv[2], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.readline()
threading.Thread(target=lambda: c.munmap(at, 4096)).start()
while not any(open(f'/proc/self/task/{t}/wchan').read().startswith(('folio', 'request', 'fuse'))
              for t in os.listdir('/proc/self/task')):
    time.sleep(.01)
print('unmapping', flush=True)
c.mmap(None, 4096, 3, 0x22, -1, 0)
";

#[test]
fn rule_13_2_status_and_umount_do_not_wait_for_a_process_that_is_stuck_elsewhere() {
    let elsewhere = Mount::with(Backing::Here, &["--no-passthrough"]);
    let far = elsewhere.session("far");
    fs::write(far.on_mount.join("file"), vec![0; 4096]).unwrap();
    let mut mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    let mut stuck = Program(
        Command::new("python3")
            .args(["-c", STUCK])
            .args([far.on_mount.join("file"), session.file()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut said = BufReader::new(stuck.0.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    elsewhere.signal("STOP");
    let mut input = stuck.0.stdin.take().unwrap();
    input.write_all(b"go\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "unmapping");
    let pid = stuck.0.id();
    // What ps(1) reads; it waits.
    wait_until("the process is stuck", || {
        let read = format!("timeout 1 cat /proc/{pid}/cmdline > /dev/null");
        shell("sh", Path::new("/"), &read).status.code() == Some(124)
    });
    let output = status(&["--json"], Some(&mount.mountpoint));
    let umount = Command::new("timeout")
        .args(["60", SESSIONFS, "umount"])
        .arg(&mount.mountpoint)
        .output()
        .unwrap();
    elsewhere.signal("CONT");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["processes"][0]["pid"], pid, "{told}");
    assert_eq!(umount.status.code(), Some(6), "{umount:?}");
    assert!(
        text(&umount.stderr).contains(&format!("{pid} (python3)")),
        "{umount:?}"
    );
    drop(stuck);
    crate::common::unmount(
        SESSIONFS,
        &["umount".as_ref(), mount.mountpoint.as_os_str()],
    );
    assert!(mount.wait().success());
}

/// Neither the command nor the daemon reads a file in /proc that another process can
/// block: on some kernels that is more than `cmdline`.
#[test]
fn rule_13_2_nothing_is_read_that_waits_for_the_memory_of_others() {
    let disk = Disk::new(Backing::Here);
    let repository = disk.path().join("repository");
    let trace = disk.beside("trace");
    let starter = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=open,openat,openat2",
        "-o",
    ];
    let starter = [&starter[..], &[trace.to_str().unwrap()]].concat();
    let mut mount = Mount::started_by(&starter, disk, repository, &[]);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    let reader = File::open(session.file()).unwrap();
    let of_command = mount.disk.beside("of-command");
    let mut command = Command::new(starter[0]);
    let output = command
        .args(&starter[1..starter.len() - 1])
        .arg(&of_command)
        .args([SESSIONFS, "status"])
        .arg(&mount.mountpoint)
        .output()
        .unwrap();
    assert!(text(&output.stdout).contains("reads"), "{output:?}");
    let output = Command::new(SESSIONFS)
        .arg("umount")
        .arg(&mount.mountpoint)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    drop(reader);
    crate::common::unmount(
        SESSIONFS,
        &["umount".as_ref(), mount.mountpoint.as_os_str()],
    );
    mount.wait();
    let opened = [trace, of_command]
        .map(|path| fs::read_to_string(path).unwrap())
        .concat();
    assert!(opened.contains("fdinfo\""), "{opened}");
    for file in [
        "maps",
        "smaps",
        "cmdline",
        "environ",
        "mem",
        "stack",
        "wchan",
        "numa_maps",
    ] {
        let line = opened.lines().find(|line| {
            let name = format!("/{file}\"");
            line.contains("/proc/") && !line.contains("/proc/self/") && line.contains(&name)
        });
        assert_eq!(line, None);
    }
}

/// A process with very many open files must not keep others from an answer.
#[test]
fn rule_13_2_processes_with_very_many_descriptors_are_looked_at_in_part() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    let reader = File::open(session.file()).unwrap();
    let program = "
import os, resource, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
first = os.open('/dev/null', os.O_RDONLY)
for _ in range(min(most - 10, 20000)): os.dup(first)
print('ready', flush=True)
sys.stdin.readline()";
    let mut many: Vec<Program> = (0..4)
        .map(|_| {
            let mut python = Command::new("python3");
            let python = python.args(["-c", program]).stdin(Stdio::piped());
            Program(python.stdout(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    for one in &mut many {
        let mut line = String::new();
        BufReader::new(one.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
    }
    let output = status(&["--json"], Some(&mount.mountpoint));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["all_processes"], false, "{told}");
    let own = std::process::id();
    let named = told[0]["processes"]
        .as_array()
        .unwrap()
        .iter()
        .any(|p| p["pid"] == own);
    assert!(named, "{told}");
    let lines = text(&status(&[], Some(&mount.mountpoint)).stdout);
    assert!(lines.contains("and perhaps others"), "{lines}");
    drop(many);
    drop(reader);
}
