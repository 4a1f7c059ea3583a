//! What a save keeps of a checkpoint besides its content, and what may be set
//! without one (DESIGN 2.7 and 4).

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::observe;
use crate::common::side_by_side::SideBySide;
use crate::common::tools::{close, open_rw, output_of, python};
use crate::common::{Backing, Mount, Session, shell};

on_each_filesystem!(
    rule_2_7_a_save_keeps_what_was_set_in_the_repository,
    rule_2_7_a_save_keeps_what_was_set_through_the_mount,
    rule_2_7_every_kind_of_save_keeps_the_attributes,
    rule_2_7_a_first_checkpoint_gets_the_umask,
    rule_2_7_a_first_checkpoint_is_made_as_any_file_is,
    rule_2_7_what_a_writer_sets_is_on_its_file_at_once,
    rule_13_3_attributes_cost_no_memory_and_no_save,
    rule_2_7_touch_is_no_save,
    section_4_attributes_set_before_a_change_are_set_at_once,
    section_4_attributes_set_after_a_change_go_with_the_save,
    section_4_attributes_set_after_a_save_point_go_to_both,
    section_4_attributes_of_a_save_that_fails_are_not_set,
    rule_2_13_what_is_made_beside_a_session_is_as_in_any_directory,
);

/// Sets everything that a save is to keep.
const SET: &str = "chmod 0600 session && chown 1234:5678 session && \
    setfattr -n user.first -v one session && setfattr -n user.second -v two session && \
    setfattr -n trusted.third -v three session && setfacl -m u:4321:r,g:8765:rw session";

/// Everything that a save is to keep, as the tools show it.
fn attributes(file: &Path) -> String {
    let directory = file.parent().unwrap();
    let show = "stat -c '%a %u %g %F %h' session && getfattr -d -m - session && getfacl -n session";
    output_of(directory, "sh", &["-c", show])
}

/// A mount with a session, whose attributes are set as `directory` says.
fn mounted(backing: Backing, directory: impl Fn(&Session) -> &Path) -> (Mount, Session, String) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    output_of(directory(&session), "sh", &["-c", SET]);
    let set = attributes(&session.checkpoint());
    for part in [
        "660 1234 5678",
        "user.first=\"one\"",
        "trusted.third=\"three\"",
        "user:4321:r--",
        "group:8765:rw-",
    ] {
        assert!(set.contains(part), "{part}: {set}");
    }
    (mount, session, set)
}

#[track_caller]
fn assert_kept(session: &Session, set: &str, content: &str) {
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), content);
    assert_eq!(attributes(&session.checkpoint()), set);
    assert_eq!(attributes(&session.file()), set);
    assert_eq!(session.names(), ["session"]);
}

fn rule_2_7_a_save_keeps_what_was_set_in_the_repository(backing: Backing) {
    let (_mount, session, set) = mounted(backing, |session| &session.in_repository);
    let inode = session.inode();
    assert_kept(&session, &set, "old");
    fs::write(session.file(), "new").unwrap();
    assert_kept(&session, &set, "new");
    assert_ne!(session.inode(), inode, "it was no save");
    // What is removed again stays removed.
    let take_off = "setfacl -b session && setfattr -x user.first session && chmod 0640 session";
    output_of(&session.in_repository, "sh", &["-c", take_off]);
    let set = attributes(&session.checkpoint());
    assert!(set.contains("640 1234") && !set.contains("4321") && !set.contains("first"));
    fs::write(session.file(), "newer").unwrap();
    assert_kept(&session, &set, "newer");
}

fn rule_2_7_a_save_keeps_what_was_set_through_the_mount(backing: Backing) {
    let (_mount, session, set) = mounted(backing, |session| &session.on_mount);
    let inode = session.inode();
    assert_kept(&session, &set, "old");
    fs::write(session.file(), "new").unwrap();
    assert_kept(&session, &set, "new");
    assert_ne!(session.inode(), inode, "it was no save");
    let take_off = "setfacl -b session && setfattr -x user.first session && chmod 4751 session";
    output_of(&session.on_mount, "sh", &["-c", take_off]);
    let set = attributes(&session.checkpoint());
    assert!(set.contains("4751 1234") && !set.contains("4321") && !set.contains("first"));
    assert_kept(&session, &set, "new");
}

fn rule_2_7_every_kind_of_save_keeps_the_attributes(backing: Backing) {
    let (mount, session, set) = mounted(backing, |session| &session.in_repository);
    for (command, content) in [
        ("echo a > session", "a\n"),
        ("echo b >> session", "a\nb\n"),
        ("truncate -s 1 session", "a"),
        (
            "printf c | dd of=session conv=notrunc,fsync status=none",
            "c",
        ),
        ("printf '3\\n2\\n' | sort -o session", "2\n3\n"),
        ("python3 -c 'import os; os.truncate(\"session\", 1)'", "2"),
    ] {
        let inode = session.inode();
        output_of(&session.on_mount, "bash", &["-c", command]);
        assert_kept(&session, &set, content);
        assert_ne!(session.inode(), inode, "{command} was no save");
    }
    let save = format!("echo d | {} save -r . a", crate::common::SESSIONFS);
    output_of(&mount.repository, "sh", &["-c", &save]);
    assert_kept(&session, &set, "d\n");
}

fn rule_2_7_a_first_checkpoint_gets_the_umask(backing: Backing) {
    let mount = Mount::new(backing);
    let mut number = 0;
    for umask in ["027", "077", "0", "022"] {
        for save in [
            "echo x > session",
            "echo x >> session",
            "truncate -s 5 session",
            "dd of=session if=/dev/zero count=1 conv=fsync status=none",
            "python3 -c 'import os; os.truncate(\"session\", 5)'",
        ] {
            number += 1;
            let session = mount.session(format!("{number}"));
            // An open that only truncates passes no mode.
            let asked = if save.contains("os.truncate") {
                0o644
            } else {
                0o666
            };
            let mode = asked & !u32::from_str_radix(umask, 8).unwrap();
            output_of(
                &session.on_mount,
                "bash",
                &["-c", &format!("umask {umask}; {save}")],
            );
            let attributes = fs::metadata(session.checkpoint()).unwrap();
            assert_eq!(attributes.mode() & 0o7777, mode, "umask {umask}; {save}");
            assert_eq!((attributes.uid(), attributes.gid()), (0, 0));
            assert_eq!(session.names(), ["session"]);
            // The umask is for the first one only.
            output_of(
                &session.on_mount,
                "bash",
                &["-c", "umask 777; echo y > session"],
            );
            let attributes = fs::metadata(session.checkpoint()).unwrap();
            assert_eq!(attributes.mode() & 0o7777, mode, "umask {umask}; {save}");
        }
    }
}

/// Python: the output of a shell command.
const SHELL: &str = "
import subprocess, time
def sh(command):
    done = subprocess.run(['sh', '-c', command], capture_output=True, text=True)
    return done.returncode, done.stdout
";

fn rule_2_7_a_first_checkpoint_is_made_as_any_file_is(backing: Backing) {
    let both = SideBySide::new(backing);
    let said = both.same(&format!(
        "{SHELL}
number = 0
acls = ('', 'u::rwx,g::rx,o::-', 'u::rw,u:1234:rw,g::rwx,o::r', 'u::rwx,u:1234:rwx,g:5:r,g::-,m::rx,o::x')
for acl in acls:
    for umask in (0o22, 0o77, 0):
        os.umask(umask)
        for mode in (0o600, 0o666, 0o640, 0o777, 0o444):
            for flags in (os.O_TRUNC, os.O_EXCL, os.O_APPEND):
                number += 1
                d = f'../n{{number}}.session'
                os.mkdir(d, 0o755)
                if acl: t('acl', lambda: sh(f'setfacl -d -m {{acl}} {{d}}'))
                fd = os.open(d + '/session', os.O_WRONLY | os.O_CREAT | flags, mode)
                os.write(fd, b'x')
                print(oct(os.fstat(fd).st_mode))
                os.close(fd)
print(sh('cd ..; stat -c \"%n %a %u %g\" n*/session; getfacl -n n*/session'))
"
    ));
    assert!(said.contains("user:1234:rw-"), "{said}");
    assert!(said.contains("0o100600"), "{said}");
}

fn rule_2_7_what_a_writer_sets_is_on_its_file_at_once(backing: Backing) {
    let both = SideBySide::new(backing);
    let said = both.same(&format!(
        "{SHELL}
def names(fd): return sorted(name for name in os.listxattr(fd) if name.startswith('user.'))
for first in (True, False):
    fd = os.open('session', os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(fd, b'new')
    t('create', lambda: os.setxattr(fd, 'user.a', b'1', os.XATTR_CREATE))
    t('create', lambda: os.setxattr(fd, 'user.a', b'2', os.XATTR_CREATE))
    t('replace', lambda: os.setxattr(fd, 'user.b', b'1', os.XATTR_REPLACE))
    t('replace', lambda: os.setxattr(fd, 'user.a', b'3', os.XATTR_REPLACE))
    t('get', lambda: (os.getxattr(fd, 'user.a'), names(fd)))
    t('remove', lambda: os.removexattr(fd, 'user.missing'))
    t('set', lambda: os.setxattr(fd, 'user.gone', b'1'))
    t('remove', lambda: (os.removexattr(fd, 'user.gone'), names(fd)))
    t('get', lambda: os.getxattr(fd, 'user.gone'))
    t('unknown', lambda: os.setxattr(fd, 'nowhere.a', b'1'))
    t('trusted', lambda: (os.setxattr(fd, 'trusted.a', b'1'), os.getxattr(fd, 'trusted.a')))
    t('long', lambda: os.setxattr(fd, 'user.long', b'1' * 3000))
    t('too long', lambda: os.setxattr(fd, 'user.toolong', b'1' * 70000))
    t('mode', lambda: (os.fchmod(fd, 0o4751), oct(os.fstat(fd).st_mode)))
    t('sticky', lambda: (os.fchmod(fd, 0o1640), oct(os.fstat(fd).st_mode)))
    t('owner', lambda: (os.fchown(fd, 1234, 5678), os.fstat(fd).st_uid, os.fstat(fd).st_gid))
    t('times', lambda: (os.utime(fd, (5, 7)), os.fstat(fd).st_mtime, os.fstat(fd).st_atime))
    os.close(fd)
    print(sh('stat -c \"%a %u %g %Y\" session; getfattr -dm ^user session; cat session'))
    # A write after it is a change.
    fd = os.open('session', os.O_WRONLY)
    os.write(fd, b'N')
    os.utime(fd, (5, 7))
    os.write(fd, b'E')
    t('changed', lambda: os.fstat(fd).st_mtime > time.time() - 100)
    os.fchmod(fd, 0o444)
    t('may write', lambda: os.write(fd, b'W'))
    os.close(fd)
    print(sh('stat -c \"%a %u %g\" session; getfattr -dm ^user session; cat session'))
    if first: os.chmod('session', 0o600)
"
    ));
    assert!(said.contains("EEXIST") && said.contains("0o100640") || said.contains("0o101640"));
    // The mark of a staged file is not its writer's.
    let mark = "
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
t('get', lambda: os.getxattr(fd, 'user.sessionfs.staged'))
t('set', lambda: os.setxattr(fd, 'user.sessionfs.staged', b'1'))
t('remove', lambda: os.removexattr(fd, 'user.sessionfs.staged'))
t('list', lambda: [name for name in os.listxattr(fd) if 'staged' in name])
os.close(fd)
";
    let program = format!("{}{mark}", crate::common::side_by_side::TRY);
    let said = python(&both.session.on_mount, &program);
    assert_eq!(said, "get ENODATA\nset EPERM\nremove ENODATA\nlist []");
}

fn rule_13_3_attributes_cost_no_memory_and_no_save(backing: Backing) {
    let (mount, session) = crate::common::mounted(backing);
    let program = "
import errno
fd = os.open('session', os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'new')
said = {}
for n in range(400):
    try: os.setxattr(fd, f'user.{n}', b'x' * 60000)
    except OSError as e: said.setdefault(errno.errorcode[e.errno], n)
# Names of 250 bytes: beyond what is remembered of them.
for n in range(100):
    try: os.setxattr(fd, 'user.' + str(n).zfill(245), b'')
    except OSError as e: said.setdefault(errno.errorcode[e.errno], n)
os.setxattr(fd, 'user.0', b'short') if 'user.0' in os.listxattr(fd) else None
os.close(fd)
print(sorted(said))
";
    let program = format!("{}{program}", crate::common::side_by_side::TRY);
    // An attribute for which there is no room is refused at once; the rest is saved.
    assert_eq!(python(&session.on_mount, &program), "['ENOSPC']");
    crate::common::assert_checkpoint(&session, "new");
    let most = observe::status(mount.pid(), "VmHWM");
    assert!(most < observe::MOST_MEMORY, "{most} KiB");
}

fn rule_2_7_touch_is_no_save(backing: Backing) {
    let (_mount, session, set) = mounted(backing, |session| &session.in_repository);
    let inode = session.inode();
    let old = "2001-02-03T04:05:06Z";
    output_of(&session.on_mount, "touch", &["-d", old, "session"]);
    for file in [session.file(), session.checkpoint()] {
        let attributes = fs::metadata(file).unwrap();
        assert_eq!(attributes.mtime(), 981_173_106);
        assert_eq!(attributes.atime(), 981_173_106);
    }
    output_of(
        &session.on_mount,
        "touch",
        &["-m", "-d", "@5.25", "session"],
    );
    let attributes = fs::metadata(session.checkpoint()).unwrap();
    assert_eq!(
        (attributes.mtime(), attributes.mtime_nsec()),
        (5, 250_000_000)
    );
    assert_eq!(attributes.atime(), 981_173_106);
    let before = SystemTime::now() - Duration::from_secs(1);
    output_of(&session.on_mount, "touch", &["session"]);
    let touched = fs::metadata(session.checkpoint()).unwrap();
    assert!(touched.modified().unwrap() >= before);
    assert_eq!(session.inode(), inode);
    assert_kept(&session, &set, "old");
    // A save is a modification.
    output_of(&session.on_mount, "touch", &["-d", old, "session"]);
    fs::write(session.file(), "new").unwrap();
    let saved = fs::metadata(session.checkpoint()).unwrap();
    assert!(saved.modified().unwrap() >= before);
}

fn set_times(file: &fs::File, seconds: u64) {
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time))
        .unwrap();
}

/// Sets one attribute of each kind on an open file.
fn set_on(file: &fs::File, number: u32) {
    file.set_permissions(fs::Permissions::from_mode(0o600 | number))
        .unwrap();
    std::os::unix::fs::fchown(file, Some(1000 + number), Some(2000 + number)).unwrap();
    let (name, value) = ("user.number", number.to_string());
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(file, name, value.as_bytes(), flags).unwrap();
    set_times(file, 3000 + u64::from(number));
}

/// What [`set_on`] has set, as a number; `None` if it is not set, or mixed.
#[track_caller]
fn number_of(file: &fs::File) -> Option<u32> {
    let attributes = file.metadata().unwrap();
    let mut value = [0; 8];
    let value = rustix::fs::fgetxattr(file, "user.number", &mut value)
        .ok()
        .map(|n| String::from_utf8_lossy(&value[..n]).into_owned());
    let number: u32 = value?.parse().unwrap();
    assert_eq!(attributes.mode() & 0o7777, 0o600 | number);
    assert_eq!(attributes.uid(), 1000 + number);
    assert_eq!(attributes.gid(), 2000 + number);
    assert_eq!(attributes.mtime(), 3000 + i64::from(number));
    Some(number)
}

fn number_in(path: impl AsRef<Path>) -> Option<u32> {
    number_of(&fs::File::open(path).unwrap())
}

fn section_4_attributes_set_before_a_change_are_set_at_once(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let inode = session.inode();
    let writer = open_rw(session.file()).unwrap();
    set_on(&writer, 1);
    assert_eq!(number_of(&writer), Some(1));
    assert_eq!(number_in(session.checkpoint()), Some(1));
    assert_eq!(number_in(session.file()), Some(1));
    close(writer).unwrap();
    assert_eq!(session.inode(), inode, "it was a save");
    assert_eq!(number_in(session.checkpoint()), Some(1));
    // A change of the content after it sets the mtime again.
    let writer = open_rw(session.file()).unwrap();
    set_on(&writer, 2);
    writer.write_all_at(b"new", 0).unwrap();
    close(writer).unwrap();
    assert_ne!(session.inode(), inode);
    let saved = fs::metadata(session.checkpoint()).unwrap();
    assert_eq!((saved.mode() & 0o7777, saved.uid()), (0o602, 1002));
    assert!(saved.mtime() > 1_000_000);
}

fn section_4_attributes_set_after_a_change_go_with_the_save(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    for number in [1, 2] {
        let earlier = (number > 1).then_some(number - 1);
        let mut writer = fs::File::create(session.file()).unwrap();
        writer.write_all(b"new").unwrap();
        set_on(&writer, number);
        assert_eq!(number_of(&writer), Some(number));
        assert_eq!(number_in(session.checkpoint()), earlier);
        assert_eq!(number_in(session.file()), earlier);
        close(writer).unwrap();
        assert_eq!(number_in(session.checkpoint()), Some(number));
        assert_eq!(number_in(session.file()), Some(number));
    }
    // As cp -p does it.
    let source = mount.disk.beside("source");
    fs::write(&source, "copied").unwrap();
    set_on(&fs::File::open(&source).unwrap(), 3);
    let output = shell(
        "sh",
        &session.on_mount,
        &format!("cp --preserve=all {} session", source.display()),
    );
    assert!(output.status.success(), "{output:?}");
    assert_eq!(number_in(session.checkpoint()), Some(3));
    assert_eq!(fs::read(session.checkpoint()).unwrap(), b"copied");
}

fn section_4_attributes_set_after_a_save_point_go_to_both(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let mut writer = fs::File::create(session.file()).unwrap();
    writer.write_all(b"one").unwrap();
    writer.sync_all().unwrap();
    let inode = session.inode();
    set_on(&writer, 1);
    assert_eq!(number_in(session.checkpoint()), Some(1), "nothing staged");
    assert_eq!(session.inode(), inode);
    writer.write_all(b"two").unwrap();
    set_on(&writer, 2);
    assert_eq!(number_of(&writer), Some(2));
    assert_eq!(number_in(session.checkpoint()), Some(2), "something staged");
    assert_eq!(session.inode(), inode);
    assert_eq!(fs::read(session.file()).unwrap(), b"one");
    close(writer).unwrap();
    assert_eq!(number_in(session.checkpoint()), Some(2));
    assert_eq!(fs::read(session.file()).unwrap(), b"onetwo");
    assert_ne!(session.inode(), inode);
}

fn section_4_attributes_of_a_save_that_fails_are_not_set(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let writer = open_rw(session.file()).unwrap();
    writer.write_all_at(b"new", 0).unwrap();
    set_on(&writer, 1);
    let direct = session.in_repository.join("direct");
    fs::write(&direct, "direct").unwrap();
    fs::rename(direct, session.checkpoint()).unwrap();
    let inode = session.inode();
    assert_eq!(crate::common::tools::errno(close(writer)), libc::ESTALE);
    assert_eq!(number_in(session.checkpoint()), None);
    assert_eq!(fs::metadata(session.checkpoint()).unwrap().uid(), 0);
    assert_eq!(session.inode(), inode);
}

fn rule_2_13_what_is_made_beside_a_session_is_as_in_any_directory(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let plain = mount.disk.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let make = "
        for mask in 0 022 027 077 777; do
            umask $mask; mkdir -m 3775 $mask; chgrp 5678 $mask; chmod 2775 $mask; cd $mask
            echo x > file; mkdir directory; mkfifo fifo; ln -s target link; touch touched
            mkdir -m 1777 sticky; install -m 4711 /dev/null installed; mknod null c 1 3
            cp --preserve=mode installed copied; chmod u+x,g-w,o= file; cd ..
        done
        umask 022; find . -mindepth 1 ! -name session -printf '%P %y %m %U %G %l\\n' | sort";
    let here = output_of(&plain, "bash", &["-c", make]);
    let there = output_of(&session.on_mount, "bash", &["-c", make]);
    assert!(here.lines().count() > 40 && here.contains("5678"), "{here}");
    assert_eq!(there, here);
    let list = "find . -mindepth 1 ! -name session -printf '%P %y %m %U %G %l\\n' | sort";
    let backing = output_of(&session.in_repository, "bash", &["-c", list]);
    assert_eq!(backing, here);
}
