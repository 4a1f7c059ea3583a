//! The options of a mount, and the ways to give them: those of the program itself, of
//! mount(8), and of fstab.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::tools::copy_sessionfs;
use crate::common::users::{self, User};
use crate::common::{Backing, Disk, Mount, SESSIONFS, is_mounted, run, wait_until};

/// Runs a program in the directory of the disk.
fn program(name: &str, disk: &Disk, arguments: &[&str]) -> Output {
    Command::new(name)
        .args(arguments)
        .current_dir(disk.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What findmnt(8) shows of a mount.
fn shown(mountpoint: &Path, columns: &str) -> String {
    let arguments = ["-n", "-o", columns].map(OsStr::new);
    let all = arguments.into_iter().chain([mountpoint.as_os_str()]);
    let words = text(&run("findmnt", all).stdout);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The errno of each change that there is, by its name.
const CHANGES: &str = r#"
import os, errno
def change(f):
    try: f(); return 'done'
    except OSError as e: return errno.errorcode[e.errno]
d = 'a.session/'
told = {change(f) for f in [
    lambda: open(d + 'session', 'w'), lambda: open(d + 'session', 'a'),
    lambda: os.truncate(d + 'session', 0), lambda: os.unlink(d + 'session'),
    lambda: os.rename(d + 'file', d + 'session'), lambda: os.link(d + 'file', d + 'link'),
    lambda: os.chmod(d + 'session', 0o600), lambda: os.chown(d + 'session', 1, 1),
    lambda: os.utime(d + 'session'), lambda: os.setxattr(d + 'session', 'user.x', b''),
    lambda: open(d + 'new', 'w'), lambda: open(d + 'file', 'r+'),
    lambda: os.mkdir(d + 'dir'), lambda: os.symlink('x', d + 'symlink'),
    lambda: os.mkfifo(d + 'fifo'), lambda: os.unlink(d + 'session.next'),
    lambda: os.mkdir('b.session'), lambda: os.rename('a.session', 'b.session'),
    lambda: os.rmdir('a.session'),
]}
print(told, open(d + 'session').read(), sorted(os.listdir(d)))
"#;

#[test]
fn a_read_only_mount_of_a_read_only_repository_refuses_every_change() {
    let disk = Disk::new(Backing::Tmpfs);
    let repository = disk.path().join("repository");
    fs::create_dir_all(repository.join("a.session")).unwrap();
    for (name, content) in [("session", "one"), ("file", "two"), ("session.next", "")] {
        fs::write(repository.join("a.session").join(name), content).unwrap();
    }
    let remount = ["-o", "remount,ro"].map(OsStr::new).into_iter();
    run("mount", remount.chain([disk.path().as_os_str()]));
    let mount = Mount::of(disk, repository, &["-o", "ro"]);
    let told = Command::new("python3")
        .args(["-c", CHANGES])
        .current_dir(&mount.mountpoint)
        .output()
        .unwrap();
    assert_eq!(
        text(&told.stdout),
        "{'EROFS'} one ['file', 'session', 'session.next']\n",
        "{told:?}"
    );
    assert!(shown(&mount.mountpoint, "OPTIONS").starts_with("ro,"));
}

#[test]
fn a_mount_shows_what_it_is() {
    let mount = Mount::new(Backing::Here);
    let source = mount.repository.to_str().unwrap();
    assert_eq!(
        shown(&mount.mountpoint, "SOURCE,FSTYPE"),
        format!("{source} fuse.sessionfs")
    );
    let df = run("df", [mount.mountpoint.as_os_str()]);
    assert!(text(&df.stdout).contains(source), "{df:?}");
}

#[test]
fn a_mount_shows_what_it_is_asked_to_and_is_still_ours() {
    let mut mount = Mount::with(
        Backing::Here,
        &[
            "-o",
            r"fsname=a\,b,subtype=saved,max_read=8192",
            "--noexec",
            "-onoatime",
        ],
    );
    assert_eq!(shown(&mount.mountpoint, "SOURCE,FSTYPE"), "a,b fuse.saved");
    let options = shown(&mount.mountpoint, "OPTIONS");
    for option in [
        "noexec",
        "noatime",
        "max_read=8192",
        "nosuid",
        "nodev",
        "rw",
    ] {
        assert!(
            options.split(',').any(|o| o == option),
            "{option}: {options}"
        );
    }
    let session = mount.session("a");
    fs::write(session.file(), "#!/bin/sh\n").unwrap();
    fs::set_permissions(session.file(), PermissionsExt::from_mode(0o755)).unwrap();
    let started = Command::new(session.file()).output();
    assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EACCES));
    let umount = Command::new(SESSIONFS)
        .arg("umount")
        .arg(&mount.mountpoint)
        .output()
        .unwrap();
    assert!(umount.status.success(), "{umount:?}");
    assert!(mount.wait().success());
}

/// Rule 2.10 holds for checkpoints, whatever timeouts are given.
#[test]
fn rule_2_10_timeouts_are_not_for_checkpoints() {
    let options = ["-o", "entry_timeout=1000,attr_timeout=1000"];
    let mount = Mount::with(Backing::Here, &options);
    let session = mount.session("a");
    let beside = (
        session.on_mount.join("file"),
        session.in_repository.join("file"),
    );
    for round in 1..10 {
        for (seen, written) in [
            (&session.file(), &session.checkpoint()),
            (&beside.0, &beside.1),
        ] {
            let new = session.in_repository.join("new");
            fs::write(&new, "x".repeat(round)).unwrap();
            fs::rename(&new, written).unwrap();
            assert_eq!(fs::metadata(seen).unwrap().len(), round as u64);
        }
    }
    // The attributes of the other file are kept by the kernel.
    let mode = || fs::metadata(&beside.0).unwrap().permissions().mode() & 0o777;
    let before = mode();
    fs::set_permissions(&beside.1, PermissionsExt::from_mode(0o711)).unwrap();
    assert_eq!(fs::metadata(&beside.0).unwrap().len(), 9);
    assert!(mode() == before || mode() == 0o711);
}

#[test]
fn an_unknown_or_broken_option_is_reported_in_one_line_and_changes_nothing() {
    let disk = Disk::new(Backing::Here);
    fs::create_dir(disk.path().join("repository")).unwrap();
    for (options, expected) in [
        (
            &["-o", "ro,alow_other"][..],
            "unknown mount option \"alow_other\"; the nearest is \"allow_other\"",
        ),
        (
            &["-o", "lock_wait"],
            "the option \"lock_wait\" needs a value",
        ),
        (
            &["-o", "lock_wait=soon"],
            "invalid value 'soon' for '--lock-wait",
        ),
        (&["-o", "ro=yes"], "the option \"ro\" takes no value"),
        (&["-o", "threads=0"], "invalid value '0' for '--threads"),
        (&["-o", "max_read=1"], "invalid value '1' for '--max-read"),
        (&["-o", "fsname="], "value is required for '--fsname"),
        (&["-o", "allow_root,allow_other"], "cannot be used with"),
        (
            &["-o", "log_level=loud"],
            "invalid value 'loud' for '--log-level",
        ),
        (&["-o"], "a list of options is missing"),
    ] {
        for words in [
            &["mount", "repository", "mnt"][..],
            &["./repository", "mnt"],
        ] {
            let output = program(SESSIONFS, &disk, &[words, options].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(
                said.starts_with("sessionfs: ") && said.contains(expected),
                "{said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(!disk.path().join("mnt").exists());
        }
    }
}

#[test]
fn auto_unmount_leaves_no_dead_mount_behind() {
    let mut mount = Mount::with(Backing::Here, &["--auto-unmount"]);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    mount.signal("KILL");
    mount.wait();
    wait_until("the helper has unmounted", || {
        fs::read_dir(&mount.mountpoint).is_ok_and(|mut names| names.next().is_none())
    });
    assert!(!is_mounted(&mount.mountpoint));
    mount.restart(&["--auto-unmount"]);
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "saved");
}

#[test]
fn allow_root_lets_in_only_root() {
    let mount = Mount::with(Backing::Here, &["-o", "allow_root"]);
    let outer = mount.disk.beside(".");
    fs::set_permissions(&outer, PermissionsExt::from_mode(0o755)).unwrap();
    let list = |user| users::told(&users::run_as(user, &outer, "ls mnt"));
    mount.session("a");
    assert_eq!(list(User::Root), "Some(0): a.session\n");
    let denied = list(User::Cid);
    assert!(denied.contains("Permission denied"), "{denied}");
}

/// In a mount namespace in which mount(8) finds its helper, and all users may open
/// `/dev/fuse`. The fstab is a private one.
const BY_MOUNT_8: &str = r#"
set -eu
cd "$1"
PATH="$1/bin:$PATH"
mount -t overlay -o "lowerdir=$1/sbin:$(realpath /sbin)" overlay "$(realpath /sbin)"
mount -t tmpfs -o mode=0755 tmpfs dev
mknod -m 0666 dev/fuse c 10 229
mount --bind dev/fuse /dev/fuse
: > etc/empty
cat > etc/fstab <<END
$1/repository $1/one fuse.sessionfs rw,nofail,x-systemd.automount,_netdev,lock_wait=0.5 0 0
$1/repository $1/two sessionfs ro,noauto,nodev,nosuid 0 0
$1/mine $1/three fuse.sessionfs noauto,user 0 0
END
show() { findmnt -n -o SOURCE,FSTYPE "$1" | sed "s,$PWD,,; s/  */ /g"; }
mounted() { show "$1"; echo "$1" > "$1/a.session/session"; cat "$1/a.session/session"; umount "$1"; }
trap 'umount -l one two three 2> /dev/null || true' EXIT

echo "-- the program's own words"
sessionfs mount repository one; mounted one
sessionfs "$1/repository" "$1/one" -o rw; mounted one
echo "-- mount -t"
mount -t fuse.sessionfs "$1/repository" "$1/one"; mounted one
mount -t sessionfs "$1/repository" "$1/one"; mounted one
mount -t sessionfs -r "$1/repository" "$1/two"; show two
touch two/a.session/new 2>&1 | sed 's/.*: //'; umount two
mount -t sessionfs -o alow_other "$1/repository" "$1/one" 2>&1 | head -n 1 || true
mount -f -t sessionfs "$1/repository" "$1/one"; findmnt "$1/one" || echo not mounted
echo "-- remount"
for type in fuse.sessionfs sessionfs; do
    mount -t $type "$1/repository" "$1/one" -o noatime
    for how in ro rw; do
        mount -o remount,$how one; findmnt -n -o OPTIONS one | cut -d, -f1,4
        (: > one/a.session/session) 2>&1 | sed 's/.*: //'
    done
    exec 3> one/a.session/other
    sessionfs mount -o remount,ro "$1/one" 2>&1 | sed "s,$1,,g; s/use by.*/use/"
    exec 3>&-
    sessionfs mount -o remount,ro,threads=3 "$1/one" 2>&1 | cut -d: -f 1-3
    umount one
done
mount -o remount,ro "$1/one" 2>&1 | grep -c "not mounted"
sessionfs mount -o remount,ro "$1/one" 2>&1 | sed "s,$1,,g"
echo "-- fstab"
mount -a -T etc/fstab; show one; findmnt two || echo not mounted
umount one
mount -T etc/fstab two; show two; findmnt -n -o OPTIONS two | cut -d, -f1; umount two
echo "-- by a user"
mount --bind etc/fstab /etc/fstab
setpriv --reuid=65534 --regid=65534 --clear-groups dash -eu -c '
    PATH=$1/bin:$PATH
    mount "$1/three"
    findmnt -n -o OPTIONS "$1/three" | tr , "\n" | grep -E "^(noexec|user_id.*)$"
    mkdir three/a.session; echo mine > three/a.session/session
    sessionfs umount three
    stat -c %u mine/a.session/session
' - "$1"
"#;

const WHAT_MOUNT_8_SHOWS: &str = "\
-- the program's own words
/repository fuse.sessionfs
one
/repository fuse.sessionfs
one
-- mount -t
/repository fuse.sessionfs
one
/repository fuse.sessionfs
one
/repository fuse.sessionfs
Read-only file system
sessionfs: unknown mount option \"alow_other\"; the nearest is \"allow_other\" (see sessionfs mount --help)
not mounted
-- remount
ro,noatime
Read-only file system
rw,noatime
sessionfs: cannot remount /one: it is in use
sessionfs: warning: threads stays as it is
ro,noatime
Read-only file system
rw,noatime
sessionfs: cannot remount /one: it is in use
sessionfs: warning: threads stays as it is
1
sessionfs: cannot remount /one: it is not a mount of sessionfs
-- fstab
/repository fuse.sessionfs
not mounted
/repository fuse.sessionfs
ro
-- by a user
noexec
user_id=65534
65534
";

#[test]
fn mount_8_and_fstab_find_the_program_and_their_options_are_understood() {
    let disk = Disk::new(Backing::Here);
    let path = disk.path();
    let outer = path.parent().unwrap();
    fs::set_permissions(outer, PermissionsExt::from_mode(0o711)).unwrap();
    for name in [
        "repository/a.session",
        "mine",
        "one",
        "two",
        "three",
        "dev",
        "etc",
        "bin",
        "sbin",
    ] {
        fs::create_dir_all(path.join(name)).unwrap();
    }
    copy_sessionfs(path.join("bin/sessionfs"));
    // mount(8) looks for programs in the system's directories only.
    for name in ["sessionfs", "mount.sessionfs"] {
        let link = path.join("sbin").join(name);
        std::os::unix::fs::symlink(path.join("bin/sessionfs"), link).unwrap();
    }
    for name in [".", "mine", "three"] {
        std::os::unix::fs::chown(path.join(name), Some(65534), Some(65534)).unwrap();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c"])
        .args([BY_MOUNT_8, "sh"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        text(&output.stdout),
        WHAT_MOUNT_8_SHOWS,
        "{}",
        text(&output.stderr)
    );
    assert!(output.status.success(), "{output:?}");
}
