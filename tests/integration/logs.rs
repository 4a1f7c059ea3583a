//! What the log tells, and where it goes (I5).

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::storage::text;
use crate::common::tools::save;
use crate::common::{Backing, Disk, Mount, SESSIONFS, wait_until};

fn sessionfs(arguments: &[&str], path: &Path) -> Output {
    let mut command = Command::new(SESSIONFS);
    command.args(arguments).arg(path).output().unwrap()
}

#[test]
fn a_save_is_logged_at_debug_and_each_request_at_trace() {
    let saved = |level: &str| {
        let mount = Mount::with(Backing::Here, &["--log-level", level]);
        save(mount.session("a").file(), "saved").unwrap();
        mount.log()
    };
    assert!(!saved("info").contains("a.session: saved"));
    let debug = saved("debug");
    assert_eq!(
        debug.matches("debug: a.session: saved, in ").count(),
        1,
        "{debug}"
    );
    assert!(!debug.contains("MKDIR"), "{debug}");
    let trace = saved("trace");
    assert_eq!(
        trace.matches("debug: a.session: saved, in ").count(),
        1,
        "{trace}"
    );
    assert!(trace.contains("MKDIR"), "{trace}");
}

#[test]
fn the_unmounting_user_is_named_in_the_log() {
    for options in [&[][..], &["--lazy"]] {
        let mut mount = Mount::new(Backing::Here);
        let arguments = [&["umount"], options].concat();
        let umount = sessionfs(&arguments, &mount.mountpoint);
        assert!(umount.status.success(), "{umount:?}");
        assert!(mount.wait().success());
        let log = mount.log();
        let line = log
            .lines()
            .find(|line| line.contains(": unmounted by sessionfs umount"));
        assert!(line.is_some(), "{log}");
        assert!(line.unwrap().ends_with(" of user 0"), "{log}");
    }
    let mut mount = Mount::new(Backing::Here);
    crate::common::unmount("umount", &[&mount.mountpoint]);
    assert!(mount.wait().success());
    assert!(
        mount.log().contains(": unmounted by another program\n"),
        "{}",
        mount.log()
    );
}

/// In a mount namespace of its own, in which `/dev` has the devices that a mount
/// needs, and a log or none.
const WITH_A_DEV: &str = r#"
set -eu
cd "$1"
mount -t tmpfs -o mode=0755 tmpfs dev
for node in "fuse c 10 229" "null c 1 3"; do mknod -m 0666 dev/$node; done
[ ! -e log ] || { : > dev/log; mount --bind log dev/log; }
mount --rbind dev /dev
"$2" mount repository mnt
"$2" umount mnt
"$2" mount --log-level off repository mnt
"$2" umount mnt
"$2" mount --log-file file repository mnt
"$2" umount mnt
"#;

#[test]
fn a_log_without_a_receiver_is_reported() {
    let disk = Disk::new(Backing::Here);
    for name in ["repository", "mnt", "dev"] {
        fs::create_dir(disk.path().join(name)).unwrap();
    }
    let mount = || {
        let output = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                WITH_A_DEV,
                "-",
            ])
            .arg(disk.path())
            .arg(SESSIONFS)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stderr)
    };
    let told = "sessionfs: warning: the log is lost: no syslog is running (/dev/log: No such file or \
        directory); --log-file keeps it\n";
    assert_eq!(mount(), told);
    let syslog = UnixDatagram::bind(disk.path().join("log")).unwrap();
    syslog
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    assert_eq!(mount(), "");
    let mut lines = String::new();
    wait_until("the end of the mount is in the log", || {
        let mut line = [0; 4096];
        let received = syslog.recv(&mut line);
        let length = received.unwrap_or_else(|e| panic!("{e}: {lines}"));
        lines.push_str(&text(&line[..length]));
        lines.push('\n');
        lines.contains(": unmounted by sessionfs umount")
    });
    assert!(lines.contains(" is mounted on "), "{lines}");
}
