//! `sessionfs mount --allow-other`, by a daemon of root and by one of an ordinary user:
//! which users get in, and what they make and save.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::tools::{
    assert_next_save_works, assert_saved, copy_sessionfs, errno, open_rw, output_of,
};
use crate::common::users::User::{Ann, Bob, Cid, Root};
use crate::common::users::{run_as, shared_mount, told};
use crate::common::{Backing, Mount, times};

#[test]
fn new_files_belong_to_their_maker_from_the_first_moment() {
    let mount = shared_mount(Backing::Ext4);
    let session = mount.session("a");
    fs::set_permissions(&session.in_repository, PermissionsExt::from_mode(0o777)).unwrap();
    let ended = AtomicBool::new(false);
    let count = times(2000);
    let seen = std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let mut seen = 0;
            while !ended.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&session.in_repository).unwrap() {
                    // A file that has gone again has no owner to look at.
                    if let Ok(made) = entry.unwrap().metadata() {
                        assert_eq!((made.uid(), made.gid()), (61001, 61001), "{made:?}");
                        seen += 1;
                    }
                }
            }
            seen
        });
        let make = format!(
            "import os\n\
             os.umask(0)\n\
             for n in range({count}):\n \
                 os.close(os.open('f', os.O_CREAT | os.O_WRONLY)); os.remove('f')\n \
                 os.mkdir('d'); os.rmdir('d')\n \
                 os.mkfifo('p'); os.remove('p')\n \
                 os.symlink('t', 'l'); os.remove('l')\n"
        );
        let output = run_as(Ann, &session.on_mount, &format!("python3 -Sc \"{make}\""));
        ended.store(true, Ordering::Relaxed);
        assert!(output.status.success(), "{output:?}");
        seen.join().unwrap()
    });
    assert!(seen > 0, "nothing was seen of what was made");
}

#[test]
fn without_the_option_no_other_user_gets_in() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    fs::set_permissions(mount.disk.beside("."), PermissionsExt::from_mode(0o755)).unwrap();
    let output = run_as(Ann, mount.disk.path(), "cat repository/a.session/session");
    assert_eq!(told(&output), "Some(0): saved");
    let output = run_as(Ann, &mount.disk.beside("."), "cat mnt/a.session/session");
    assert!(told(&output).contains("Permission denied"), "{output:?}");
}

#[test]
fn the_mount_respects_the_directories_above_the_repository() {
    let disk = crate::common::Disk::new(Backing::Tmpfs);
    let above = disk.path().join("above");
    let repository = above.join("between/repository");
    fs::create_dir_all(&repository).unwrap();
    let mount = Mount::of(disk, repository, &["--allow-other"]);
    let outer = mount.disk.beside(".");
    output_of(&outer, "chmod", &["755", ".", "disk"]);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    let [direct, through] =
        [&session.checkpoint(), &session.file()].map(|path| format!("cat {}", path.display()));
    let compare = |user| {
        let [direct, through] = [&direct, &through].map(|line| run_as(user, Path::new("/"), line));
        assert_eq!(through.status, direct.status, "{user:?}: {through:?}");
        direct.status.success()
    };
    for (change, who) in [
        ("chmod 755 above", [true, true, true]),
        ("chmod 700 above", [false, false, false]),
        ("chmod 711 above", [true, true, true]),
        ("chmod 710 above; chgrp 61010 above", [true, true, false]),
        ("chmod 705 above", [false, false, true]),
        ("chmod 700 above; chown 61003 above", [false, false, true]),
        ("setfacl -m u:61002:x above", [false, true, true]),
        (
            "setfacl -b above; chmod 755 above; setfacl -m u:61001:r above",
            [false, true, true],
        ),
        (
            "setfacl -b above; chmod 750 above/between",
            [false, false, false],
        ),
        ("chgrp 61003 above/between", [false, false, true]),
        ("mkdir -p closed; chmod 700 closed", [false, false, true]),
        ("chmod 755 above/between", [true, true, true]),
    ] {
        output_of(mount.disk.path(), "sh", &["-c", change]);
        // Repeated, because nothing that is remembered may let a user in.
        for _ in 0..2 {
            assert_eq!([Ann, Bob, Cid].map(compare), who, "{change}");
        }
        assert!(compare(Root));
    }
    // To a place that no other user can reach.
    output_of(mount.disk.path(), "mv", &["above", "closed/above"]);
    let output = run_as(Ann, Path::new("/"), &through);
    assert!(told(&output).contains("Permission denied"), "{output:?}");
    assert_eq!(fs::read_to_string(session.file()).unwrap(), "saved");
}

/// A process that has a descriptor may go on using it when it may not open the file any
/// more, as anywhere; and a save keeps the owner of what it replaces.
#[test]
fn rule_2_7_a_save_by_another_user_keeps_the_owner() {
    let mount = shared_mount(Backing::Ext4);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let own = "chown 61001:61010 session && chmod 666 session && chmod 755 .";
    output_of(&session.in_repository, "sh", &["-c", own]);
    let save = "exec 3> session; echo one >&3; echo open; read go; echo two >&3; exec 3>&-";
    let mut saving = Command::new("setpriv")
        .args([
            "--reuid=61003",
            "--regid=61003",
            "--clear-groups",
            "dash",
            "-ec",
            save,
        ])
        .current_dir(&session.on_mount)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut open = [0; 5];
    std::io::Read::read_exact(saving.stdout.as_mut().unwrap(), &mut open).unwrap();
    output_of(&session.in_repository, "chmod", &["600", "session"]);
    std::io::Write::write_all(saving.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert!(saving.wait().unwrap().success());
    assert_saved(&session, "one\ntwo\n");
    let made = fs::metadata(session.checkpoint()).unwrap();
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o7777),
        (61001, 61010, 0o600)
    );
}

#[test]
fn an_immutable_checkpoint_is_refused_at_the_open() {
    let mount = Mount::new(Backing::Ext4);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    output_of(&session.in_repository, "chattr", &["+i", "session"]);
    assert_eq!(errno(fs::File::create(session.file())), libc::EPERM);
    assert_eq!(errno(open_rw(session.file())), libc::EPERM);
    assert_saved(&session, "old");
    output_of(&session.in_repository, "chattr", &["-i", "session"]);
    assert_next_save_works(&session);
}

#[test]
fn rule_2_6_a_killed_writer_of_another_user_saves_nothing() {
    let mount = shared_mount(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    fs::set_permissions(session.checkpoint(), PermissionsExt::from_mode(0o666)).unwrap();
    let output = run_as(
        Cid,
        &session.on_mount,
        "exec > session; echo half; kill -9 $$",
    );
    assert_eq!(output.status.code(), None, "{output:?}");
    assert_saved(&session, "old");
    let output = run_as(Cid, &session.on_mount, "echo whole > session");
    assert!(output.status.success(), "{output:?}");
    assert_saved(&session, "whole\n");
}

/// In a mount namespace of its own, with a `/dev/fuse` that all users may open, and
/// `user_allow_other` in `/etc/fuse.conf` for the second mount.
const AN_ORDINARY_USER_LETS_OTHERS_IN: &str = r#"
exec 2>&1
cd "$1"
own="setpriv --reuid=65534 --regid=65534 --clear-groups"
bob="setpriv --reuid=61002 --regid=61002 --groups=61010"
mount -t tmpfs -o mode=0755 tmpfs dev
mknod -m 0666 dev/fuse c 10 229
mount --bind dev/fuse /dev/fuse
: > fuse.conf
mount --bind fuse.conf /etc/fuse.conf
$own ./sessionfs mount --allow-other above/repository mnt
echo "status $?"
$own ./sessionfs mount --log-file log above/repository mnt || exit
trap "$own ./sessionfs umount --lazy mnt" EXIT
$own dash -c 'mkdir mnt/a.session; cd mnt/a.session; echo zero > session; chmod 444 session
    echo one > session; truncate -s 1 session; cat session; chmod 644 session'
$bob cat mnt/a.session/session
cat mnt/a.session/session
$own ./sessionfs umount mnt
echo user_allow_other > fuse.conf
$own ./sessionfs mount --allow-other --log-file log above/repository mnt || exit
trap "$own ./sessionfs umount --lazy mnt" EXIT
$own dash -c '
    cd mnt; umask 022; mkdir b.session; cd a.session
    echo one > session; echo file > file; echo secret > ../b.session/session
    chmod 666 session; setfacl -m u:61002:- file; chmod 600 ../b.session/session; chmod 777 .
    cat session ../b.session/session
    chmod 444 session; echo two > session; truncate -s 1 session; chmod 666 session'
for line in "cat session" "cat file" "cat ../b.session/session" "echo two > session" \
    "truncate -s 1 session" "echo two > new" "mkdir d" "mkdir ../c.session" "ln -s t l" \
    "chmod 777 session" "mv session ../b.session/session" "cat session" "rm file" "ls"
do
    echo "-- $line"
    $bob dash -c "cd mnt/a.session && $line"
done
echo "-- a closed directory above"
chmod 750 above
$bob cat mnt/a.session/session
$own cat mnt/a.session/session
cat mnt/a.session/session
chmod 755 above
trap - EXIT
$own ./sessionfs umount mnt
cd above/repository; stat -c "%n %u:%g %a" */*
grep -v ' info: ' ../../log
"#;

/// The result: a user who may not read in the repository may not read here, and other
/// users can make and save nothing, whatever the modes say.
const WHAT_OTHERS_GET: &str = "\
sessionfs: cannot mount on /mnt: fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf
status 1
dash: 2: cannot create session: Permission denied
truncate: cannot open 'session' for writing: Permission denied
zero
cat: mnt/a.session/session: Permission denied
cat: mnt/a.session/session: Permission denied
one
secret
dash: 6: cannot create session: Permission denied
truncate: cannot open 'session' for writing: Permission denied
-- cat session
one
-- cat file
cat: file: Permission denied
-- cat ../b.session/session
cat: ../b.session/session: Permission denied
-- echo two > session
dash: 1: cannot create session: Operation not permitted
-- truncate -s 1 session
truncate: cannot open 'session' for writing: Operation not permitted
-- echo two > new
dash: 1: cannot create new: Operation not permitted
-- mkdir d
mkdir: cannot create directory ‘d’: Operation not permitted
-- mkdir ../c.session
mkdir: cannot create directory ‘../c.session’: Permission denied
-- ln -s t l
ln: failed to create symbolic link 'l': Operation not permitted
-- chmod 777 session
chmod: changing permissions of 'session': Operation not permitted
-- mv session ../b.session/session
mv: cannot move 'session' to '../b.session/session': Permission denied
-- cat session
one
-- rm file
-- ls
session
-- a closed directory above
cat: mnt/a.session/session: Permission denied
one
one
a.session/session 65534:65534 666
b.session/session 65534:65534 600
";

#[test]
fn a_daemon_of_an_ordinary_user_lets_others_read() {
    let disk = crate::common::Disk::new(Backing::Here);
    let path = disk.path();
    let outer = path.parent().unwrap();
    fs::set_permissions(outer, PermissionsExt::from_mode(0o711)).unwrap();
    copy_sessionfs(path.join("sessionfs"));
    for name in ["above/repository", "mnt", "dev"] {
        fs::create_dir_all(path.join(name)).unwrap();
    }
    for path in [path, &path.join("above/repository"), &path.join("mnt")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "dash", "-c"])
        .args([AN_ORDINARY_USER_LETS_OTHERS_IN, "sh"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let said = said.replace(path.to_str().unwrap(), "");
    assert_eq!(said, WHAT_OTHERS_GET);
}
