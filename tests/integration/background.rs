//! A mount in the background: what the process is, and where its log goes.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::observe::{has_ended, threads};
use crate::common::storage::text;
use crate::common::{Backing, Disk, SESSIONFS, is_mounted};

/// A place to mount in; what is mounted on `mnt` ends with it.
struct Place {
    disk: Disk,
}

impl Place {
    fn new() -> Self {
        let disk = Disk::new(Backing::Here);
        fs::create_dir_all(disk.path().join("repository/a.session")).unwrap();
        fs::create_dir(disk.path().join("dev")).unwrap();
        Self { disk }
    }

    fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Runs the program, with a variable of its environment if it is given one.
    fn run(&self, log_filter: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = Command::new(SESSIONFS);
        command.env_remove("RUST_LOG").current_dir(self.path());
        if let Some(filter) = log_filter {
            command.env("RUST_LOG", filter);
        }
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
        output
    }

    /// What a mount with these options writes to its log file.
    fn log(&self, log_filter: Option<&str>, options: &[&str]) -> String {
        let log = self.path().join("log");
        let _ = fs::remove_file(&log);
        let arguments = ["mount", "--log-file", "log", "repository", "mnt"];
        self.run(log_filter, &[&arguments, options].concat());
        let pid = self.pid();
        self.run(None, &["umount", "mnt"]);
        crate::common::wait_until("the daemon has ended", || has_ended(pid));
        fs::read_to_string(&log).unwrap()
    }

    /// The process that serves the mount.
    fn pid(&self) -> u32 {
        let output = self.run(None, &["status", "--json", "mnt"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let pid = told[0]["pid"].as_u64().unwrap_or_else(|| panic!("{told}"));
        pid.try_into().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.path().join("mnt")) {
            self.run(None, &["umount", "--lazy", "mnt"]);
        }
    }
}

#[test]
fn the_daemon_keeps_nothing_of_the_terminal_it_was_started_from() {
    let place = Place::new();
    // Two descriptors that a shell has open, and a directory, are left behind.
    let script = format!(
        "exec 7< '{SESSIONFS}' 8>> ../other; '{SESSIONFS}' mount --log-file log ../repository ../mnt"
    );
    fs::create_dir(place.path().join("cwd")).unwrap();
    let started = Command::new("bash")
        .args(["-c", &script])
        .current_dir(place.path().join("cwd"))
        .status()
        .unwrap();
    assert!(started.success());
    let pid = place.pid();
    let of_process = |name: &str| format!("/proc/{pid}/{name}");
    let link = |name: &str| fs::read_link(of_process(name)).unwrap();
    assert_eq!(link("cwd"), Path::new("/"));
    for number in 0..3 {
        assert_eq!(link(&format!("fd/{number}")), Path::new("/dev/null"));
    }
    let open: Vec<_> = fs::read_dir(of_process("fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.contains(&place.path().join("other")), "{open:?}");
    assert!(!open.iter().any(|path| path == Path::new(SESSIONFS)));
    assert!(open.contains(&place.path().join("cwd/log")), "{open:?}");
    // Threads that have a table of their own have nothing of the sort in it.
    for thread in threads(pid, None) {
        for entry in fs::read_dir(of_process(&format!("task/{thread}/fd"))).unwrap() {
            let path = entry.unwrap().path();
            let is_open = fs::read_link(&path).is_ok_and(|file| open.contains(&file));
            assert!(is_open || fs::read_link(&path).is_err(), "{path:?}");
        }
    }
    // proc_pid_stat(5): the session is the fourth field after the name, the
    // terminal the fifth.
    let stat = fs::read_to_string(of_process("stat")).unwrap();
    let (name, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    assert!(name.ends_with("(sessionfs"), "{stat}");
    assert_eq!(fields[3], pid.to_string(), "{stat}");
    assert_eq!(fields[4], "0", "{stat}");
}

#[test]
fn the_log_file_has_what_is_asked_for() {
    let place = Place::new();
    let usual = place.log(None, &[]);
    let lines: Vec<&str> = usual.lines().collect();
    assert!(
        lines[0].contains("Z info: ") && lines[0].contains("is mounted on"),
        "{usual}"
    );
    assert!(lines.last().unwrap().contains("0 save(s)"), "{usual}");
    assert!(!usual.contains("debug"), "{usual}");
    // The option goes before the variable, which goes before the default.
    assert_eq!(place.log(Some("off"), &[]), "");
    assert_eq!(place.log(None, &["--log-level", "error"]), "");
    let more = place.log(Some("sessionfs=debug,fuser=debug"), &[]);
    assert!(more.contains(" debug: "), "{more}");
    let both = place.log(Some("off"), &["--log-level", "info"]);
    assert!(both.contains("is mounted on"), "{both}");
    let none = place.log(Some("debug"), &["-o", "log_level=off"]);
    assert!(!none.contains("is mounted on"), "{none}");

    // It goes on where another has ended.
    fs::write(place.path().join("kept"), "kept\n").unwrap();
    place.run(None, &["mount", "--log-file", "kept", "repository", "mnt"]);
    place.run(None, &["umount", "mnt"]);
    let kept = fs::read_to_string(place.path().join("kept")).unwrap();
    assert!(kept.starts_with("kept\n2"), "{kept}");
}

/// Where the system's log is a socket of the test's own.
const WITH_A_LOG: &str = r#"
set -eu
cd "$1"
mount -t tmpfs -o mode=0755 tmpfs dev
mknod dev/fuse c 10 229
mknod dev/null c 1 3
mknod dev/urandom c 1 9
: > dev/log
mount --bind socket dev/log
mount --rbind dev /dev
trap 'umount -l mnt 2> /dev/null || true' EXIT
"$2" mount repository mnt
(sh -c 'exec > mnt/a.session/session; echo half; kill -KILL $$') 2> /dev/null || true
"$2" umount mnt
"#;

#[test]
fn the_log_goes_to_syslog_with_the_severity_of_each_line() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path().join("socket")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .args([WITH_A_LOG, "sh"])
        .arg(place.path())
        .arg(SESSIONFS)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // The shell's own word for it.
    assert_eq!(text(&output.stderr), "Killed\n");
    let mut lines = Vec::new();
    while !lines
        .last()
        .is_some_and(|line: &String| line.contains(": ended"))
    {
        let mut datagram = [0; 4096];
        let n = socket.recv(&mut datagram).unwrap();
        lines.push(text(&datagram[..n]));
    }
    // The facility "daemon", 3, times 8: info is 6, a warning 4.
    let begins = |line: &str, priority: u32, level: &str| {
        let (head, message) = line.split_once("]: ").unwrap();
        head.starts_with(&format!("<{priority}>sessionfs[")) && message.starts_with(level)
    };
    assert!(begins(&lines[0], 30, "info: "), "{lines:?}");
    assert!(lines[0].contains("is mounted on"), "{lines:?}");
    assert!(
        lines.iter().any(|line| {
            begins(line, 28, "warning: a.session: process ")
                && line.contains(" (sh) was killed while it was writing")
        }),
        "{lines:?}"
    );
    assert!(begins(lines.last().unwrap(), 30, "info: "), "{lines:?}");
}
