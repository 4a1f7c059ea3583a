//! Everything in a session but its checkpoint behaves as in any directory (DESIGN 2.13).
//! The same programs run on the mount and in a directory of the backing filesystem, and
//! must see and leave the same.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::common::tools::{errno, names_in, output_of, python};
use crate::common::{Backing, Mount, times};

on_each_filesystem!(
    rule_2_13_files_at_every_depth,
    rule_2_13_directories_symlinks_and_attributes_at_every_depth,
    rule_2_13_renames_within_and_between_sessions,
    rule_2_13_names_are_exchanged_and_kept_from_replacing,
    rule_2_13_errors_are_those_of_any_directory,
    rule_2_13_a_file_lives_on_while_it_is_open,
    rule_2_13_a_file_called_session_deeper_down_is_a_file,
    rule_2_13_statfs_is_that_of_the_backing_filesystem,
    rule_2_13_a_big_directory_is_listed_and_removed,
    rule_2_13_changes_in_the_repository_are_seen_at_the_next_access,
    rule_2_13_changes_on_the_mount_are_seen_in_the_repository,
);

/// A tree as it is: names, types, modes, sizes, targets, times that were set,
/// and contents.
const TREE: &str = "find . -mindepth 1 ! -path ./a.session/session ! -path ./b.session/session \
    -printf '%P %y %m %n %l ' \\( -type f -printf '%s %Ts' -o -true \\) -printf '\\n' | \
    sed 's/ 1[67][0-9]\\{8\\}$/ now/; s/ 1[89][0-9]\\{8\\}$/ now/' | sort; \
    find . -type f ! -path './?.session/session' -exec md5sum {} + | sort -k 2";

/// Runs a python program in two sessions on the mount, and in two plain directories. Both
/// must print the same, and leave the same trees, also in the repository of the mount.
/// Returns what they print.
#[track_caller]
fn same_as_in_a_directory(backing: Backing, program: &str) -> String {
    let mount = Mount::new(backing);
    let plain = mount.disk.path().join("plain");
    for name in ["a.session", "b.session"] {
        fs::create_dir_all(plain.join(name)).unwrap();
        fs::create_dir(mount.mountpoint.join(name)).unwrap();
    }
    let here = python(&plain, program);
    let there = python(&mount.mountpoint, program);
    assert_eq!(there, here);
    let tree = |directory: &Path| output_of(directory, "sh", &["-c", TREE]);
    let expected = tree(&plain);
    assert!(expected.lines().count() > 4, "{expected}");
    assert_eq!(tree(&mount.mountpoint), expected);
    assert_eq!(tree(&mount.repository), expected);
    here
}

/// Python: prints the result of an operation, or how it fails.
const TRY: &str = "
import os, stat, errno
def t(name, f):
    try: print(name, f())
    except OSError as e: print(name, errno.errorcode[e.errno])
def put(path, data, flags=os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode=0o666):
    fd = os.open(path, flags, mode); n = os.write(fd, data); os.close(fd); return n
def get(path):
    with open(path, 'rb') as f: return f.read()
depths = ['a.session', 'a.session/one', 'a.session/one/two', 'a.session/one/two/three four']
for d in depths: os.makedirs(d, exist_ok=True)
";

fn rule_2_13_files_at_every_depth(backing: Backing) {
    let program = "
for d in depths:
    f = d + '/file'
    t('create', lambda: put(f, b'hello', os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    t('again', lambda: put(f, b'hello', os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    t('read', lambda: get(f))
    t('append', lambda: put(f, b' world', os.O_WRONLY | os.O_APPEND))
    t('read', lambda: get(f))
    t('truncate', lambda: os.truncate(f, 3))
    t('read', lambda: get(f))
    t('extend', lambda: os.truncate(f, 10))
    t('read', lambda: get(f))
    t('shorter', lambda: put(f, b'x'))
    t('stat', lambda: (os.stat(f).st_size, oct(os.stat(f).st_mode), os.stat(f).st_nlink))
    fd = os.open(f, os.O_RDWR)
    t('pwrite', lambda: os.pwrite(fd, b'y' * 300000, 100000))
    t('fstat', lambda: os.fstat(fd).st_size)
    t('pread', lambda: os.pread(fd, 5, 399998))
    t('hole', lambda: os.pread(fd, 5, 99998))
    t('fsync', lambda: os.fsync(fd))
    t('fdatasync', lambda: os.fdatasync(fd))
    t('ftruncate', lambda: os.ftruncate(fd, 200000))
    t('seek', lambda: os.lseek(fd, 0, os.SEEK_END))
    t('end', lambda: os.read(fd, 5))
    t('close', lambda: os.close(fd))
    big = bytes(range(256)) * 10000
    t('big', lambda: (put(d + '/big', big), get(d + '/big') == big))
    fd = os.open(d + '/log', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for i in range(100): os.write(fd, b'line %d\\n' % i)
    t('log', lambda: get(d + '/log')[-8:])
    t('other writer', lambda: put(d + '/log', b'other\\n', os.O_WRONLY | os.O_APPEND))
    os.write(fd, b'last\\n'); os.close(fd)
    t('log', lambda: get(d + '/log')[-19:])
    t('unlink', lambda: os.unlink(d + '/big'))
    t('gone', lambda: get(d + '/big'))
    t('list', lambda: sorted(n for n in os.listdir(d) if n != 'session'))
";
    let said = same_as_in_a_directory(backing, &format!("{TRY}{program}"));
    assert_eq!(said.matches("hello").count(), 8, "{said}");
    assert!(said.contains("list ['file', 'log', 'one']"), "{said}");
}

fn rule_2_13_directories_symlinks_and_attributes_at_every_depth(backing: Backing) {
    let program = "
for d in depths:
    s = d + '/sub'
    t('mkdir', lambda: os.mkdir(s, 0o750))
    t('again', lambda: os.mkdir(s))
    t('stat', lambda: oct(os.stat(s).st_mode))
    t('file', lambda: put(s + '/f', b'f', mode=0o640))
    t('rmdir', lambda: os.rmdir(s))
    t('symlink', lambda: os.symlink('sub/f', d + '/link'))
    t('dangling', lambda: os.symlink('/nowhere/at/all', d + '/dangling'))
    t('readlink', lambda: (os.readlink(d + '/link'), os.readlink(d + '/dangling')))
    t('through', lambda: get(d + '/link'))
    t('through', lambda: get(d + '/dangling'))
    t('lstat', lambda: (oct(os.lstat(d + '/link').st_mode), os.lstat(d + '/link').st_size))
    t('write', lambda: put(d + '/link', b'by link'))
    t('fifo', lambda: os.mkfifo(d + '/fifo', 0o600))
    t('chmod', lambda: os.chmod(s + '/f', 0o4711))
    t('chmod', lambda: os.chmod(s, 0o2701))
    t('utime', lambda: os.utime(s + '/f', (1, 2)))
    t('utime', lambda: os.utime(s, ns=(3_000_000_001, 4_000_000_002)))
    t('utime', lambda: os.utime(d + '/link', (5, 6), follow_symlinks=False))
    for p in [s, s + '/f', d + '/link', d + '/fifo']:
        t('stat', lambda: (oct(os.lstat(p).st_mode), os.lstat(p).st_mtime_ns if p != d + '/fifo' else 0))
    t('chown', lambda: os.chown(s + '/f', 12, 34))
    t('owner', lambda: (os.stat(s + '/f').st_uid, os.stat(s + '/f').st_gid, oct(os.stat(s + '/f').st_mode)))
    t('xattr', lambda: os.setxattr(s + '/f', 'user.x', b'value'))
    t('xattr', lambda: (os.getxattr(s + '/f', 'user.x'), os.listxattr(s + '/f')))
    t('access', lambda: (os.access(s + '/f', os.X_OK), os.access(d + '/fifo', os.R_OK)))
    t('unlink', lambda: os.unlink(d + '/dangling'))
    t('empty', lambda: (os.mkdir(d + '/empty'), os.rmdir(d + '/empty')))
    t('unlink', lambda: os.unlink(s))
    t('rmdir', lambda: os.rmdir(s + '/f'))
    fd = os.open(s, os.O_RDONLY | os.O_DIRECTORY)
    t('fsyncdir', lambda: os.fsync(fd)); os.close(fd)
";
    let said = same_as_in_a_directory(backing, &format!("{TRY}{program}"));
    assert_eq!(said.matches("fsyncdir None").count(), 4, "{said}");
}

fn rule_2_13_renames_within_and_between_sessions(backing: Backing) {
    let program = "
os.makedirs('b.session/deep/er')
for d in depths:
    put(d + '/file', d.encode())
    t('within', lambda: os.rename(d + '/file', d + '/renamed'))
    t('gone', lambda: get(d + '/file'))
    t('read', lambda: get(d + '/renamed'))
    put(d + '/other', b'other')
    t('over', lambda: os.rename(d + '/other', d + '/renamed'))
    t('read', lambda: get(d + '/renamed'))
    t('between', lambda: os.rename(d + '/renamed', 'b.session/deep/er/file'))
    t('read', lambda: get('b.session/deep/er/file'))
    t('back', lambda: os.rename('b.session/deep/er/file', d + '/back'))
    os.makedirs(d + '/tree/inner'); put(d + '/tree/inner/f', b'in a tree')
    t('tree', lambda: os.rename(d + '/tree', 'b.session/tree'))
    t('read', lambda: get('b.session/tree/inner/f'))
    t('write', lambda: put('b.session/tree/inner/f', b'still'))
    t('onto full', lambda: (os.mkdir(d + '/x'), os.rename(d + '/x', 'b.session/tree')))
    t('tree back', lambda: os.rename('b.session/tree', d + '/tree back'))
    t('read', lambda: get(d + '/tree back/inner/f'))
    t('into itself', lambda: os.rename(d + '/tree back', d + '/tree back/inner/x'))
    t('file onto directory', lambda: os.rename(d + '/back', d + '/x'))
    t('directory onto file', lambda: os.rename(d + '/x', d + '/back'))
    fd = os.open(d + '/back', os.O_RDWR)
    t('while open', lambda: os.rename(d + '/back', 'b.session/while open'))
    t('write', lambda: os.write(fd, b'OPEN'))
    t('fstat', lambda: os.fstat(fd).st_size)
    os.close(fd)
    t('read', lambda: get('b.session/while open')[:4])
    os.symlink('target', d + '/link')
    t('symlink', lambda: (os.rename(d + '/link', d + '/link2'), os.readlink(d + '/link2')))
os.rename('a.session/one', 'b.session/one')
t('moved depth', lambda: get('b.session/one/two/three four/tree back/inner/f'))
";
    let said = same_as_in_a_directory(backing, &format!("{TRY}{program}"));
    assert!(said.contains("moved depth b'still'"), "{said}");
}

/// renameat2(2): RENAME_NOREPLACE is 1, RENAME_EXCHANGE 2.
fn rule_2_13_names_are_exchanged_and_kept_from_replacing(backing: Backing) {
    let said = same_as_in_a_directory(
        backing,
        &format!(
            "{TRY}
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags) < 0:
        raise OSError(ctypes.get_errno(), a)
    return 'done'
A, B = 'a.session/', 'b.session/'
os.makedirs(A + 'd/e'); os.makedirs(B + 'f')
put(A + 'first', b'1'); put(A + 'd/two', b'22'); put(B + 'f/three', b'333'); put(A + 'd/e/in', b'i')
held = os.open(A + 'first', os.O_RDWR)
for a, b in [(A + 'first', A + 'd/two'), (A + 'd/two', B + 'f/three'), (A + 'd/e', A + 'first'),
             (A + 'd', B + 'f'), (B + 'f/e', B + 'f/two'), (A + 'none', A + 'first')]:
    t('exchange', lambda: rename(a, b, 2))
    t('names', lambda: [sorted(set(os.listdir(d)) - {{'session'}}) for d in (A, B)])
t('keep', lambda: rename(A + 'first', B + 'f', 1))
t('keep', lambda: rename(A + 'first', B + 'new', 1))
t('both', lambda: rename(B + 'new', B + 'f', 3))
os.write(held, b'written'); os.close(held)
t('all', lambda: sorted((d, sorted(set(f) - {{'session'}})) for d, _, f in os.walk('.')))
"
        ),
    );
    assert!(
        said.contains("exchange done") && said.contains("keep EEXIST"),
        "{said}"
    );
    assert!(said.contains("both EINVAL"), "{said}");
}

fn rule_2_13_errors_are_those_of_any_directory(backing: Backing) {
    let program = "
for d in depths:
    put(d + '/file', b'x'); os.mkdir(d + '/dir'); os.symlink('loop', d + '/loop')
    t('missing', lambda: os.stat(d + '/missing'))
    t('missing', lambda: os.unlink(d + '/missing'))
    t('missing', lambda: os.rename(d + '/missing', d + '/x'))
    t('missing', lambda: os.chmod(d + '/missing', 0))
    t('missing', lambda: put(d + '/missing/x', b''))
    t('no directory', lambda: put(d + '/file/x', b''))
    t('no directory', lambda: os.listdir(d + '/file'))
    t('no directory', lambda: os.rmdir(d + '/file'))
    t('directory', lambda: put(d + '/dir', b''))
    t('directory', lambda: os.unlink(d + '/dir'))
    t('directory', lambda: get(d + '/dir'))
    t('loop', lambda: get(d + '/loop'))
    t('nofollow', lambda: os.open(d + '/loop', os.O_RDONLY | os.O_NOFOLLOW))
    t('exists', lambda: os.symlink('x', d + '/file'))
    t('long', lambda: put(d + '/' + 'x' * 256, b''))
    t('no link', lambda: os.readlink(d + '/file'))
    t('no xattr', lambda: os.getxattr(d + '/file', 'user.none'))
    t('negative', lambda: os.truncate(d + '/file', -1))
    fd = os.open(d + '/file', os.O_RDONLY)
    t('read only', lambda: os.write(fd, b'x'))
    t('read only', lambda: os.ftruncate(fd, 0))
    os.close(fd)
    fd = os.open(d + '/file', os.O_WRONLY)
    t('write only', lambda: os.read(fd, 1))
    os.close(fd)
";
    let said = same_as_in_a_directory(backing, &format!("{TRY}{program}"));
    assert_eq!(said.matches("ENAMETOOLONG").count(), 4, "{said}");
}

fn rule_2_13_a_file_lives_on_while_it_is_open(backing: Backing) {
    let program = "
for d in depths:
    f = d + '/file'
    put(f, b'content')
    fd = os.open(f, os.O_RDWR); other = os.open(f, os.O_RDONLY)
    t('unlink', lambda: os.unlink(f))
    t('gone', lambda: os.stat(f))
    t('list', lambda: sorted(n for n in os.listdir(d) if n != 'session'))
    t('read', lambda: os.pread(fd, 100, 0))
    t('write', lambda: os.pwrite(fd, b'CONTENT and more', 0))
    t('other', lambda: os.pread(other, 100, 0))
    t('fstat', lambda: (os.fstat(fd).st_size, os.fstat(fd).st_nlink))
    t('ftruncate', lambda: os.ftruncate(fd, 4))
    t('fchmod', lambda: os.fchmod(fd, 0o600))
    t('fstat', lambda: (os.fstat(other).st_size, oct(os.fstat(other).st_mode)))
    t('new', lambda: put(f, b'another file'))
    t('read', lambda: os.pread(fd, 100, 0))
    t('read', lambda: get(f))
    put(d + '/replacing', b'replacing')
    new = os.open(f, os.O_RDONLY)
    t('replace', lambda: os.rename(d + '/replacing', f))
    t('read', lambda: os.read(new, 100))
    t('read', lambda: get(f))
    for x in (fd, other, new): os.close(x)
    os.makedirs(d + '/gone'); fd = os.open(d + '/gone', os.O_RDONLY | os.O_DIRECTORY)
    t('rmdir', lambda: os.rmdir(d + '/gone'))
    t('create', lambda: os.open('x', os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
";
    let said = same_as_in_a_directory(backing, &format!("{TRY}{program}"));
    assert!(said.contains("fstat (16, 0)"), "{said}");
}

fn rule_2_13_a_file_called_session_deeper_down_is_a_file(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    for directory in ["sub", "sub/inner.session"] {
        let path = session.on_mount.join(directory);
        fs::create_dir(&path).unwrap();
        assert!(!path.join("session").exists());
        fs::write(path.join("session"), "file").unwrap();
        fs::write(path.join("session.next"), "no lock").unwrap();
        let file = fs::File::options().write(true).open(path.join("session"));
        let mut file = file.unwrap();
        let inode = file.metadata().unwrap().ino();
        let mut second = fs::File::create(path.join("session")).unwrap();
        second.write_all(b"second").unwrap();
        // It is seen before it is closed.
        assert_eq!(fs::read(path.join("session")).unwrap(), b"second");
        file.write_all(b"SE").unwrap();
        assert_eq!(fs::read(path.join("session")).unwrap(), b"SEcond");
        let backing = session.in_repository.join(directory).join("session");
        assert_eq!(fs::read(&backing).unwrap(), b"SEcond");
        assert_eq!(fs::metadata(backing).unwrap().ino(), inode);
        fs::remove_file(path.join("session")).unwrap();
        assert_eq!(
            names_in(&session.in_repository.join(directory))[0],
            "session.next"
        );
    }
}

fn rule_2_13_statfs_is_that_of_the_backing_filesystem(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::create_dir_all(session.on_mount.join("x/y")).unwrap();
    let numbers = |path: &Path| {
        let s = rustix::fs::statvfs(path).unwrap();
        (
            s.f_frsize,
            s.f_blocks,
            s.f_files,
            s.f_bfree,
            s.f_bavail,
            s.f_namemax,
        )
    };
    let paths = [
        mount.mountpoint.clone(),
        session.on_mount.clone(),
        session.on_mount.join("x/y"),
        session.file(),
    ];
    for path in &paths {
        crate::common::wait_until("the numbers agree", || {
            numbers(path) == numbers(&mount.repository)
        });
    }
    let before = numbers(&session.on_mount).3;
    fs::write(session.on_mount.join("x/file"), vec![1; 8 << 20]).unwrap();
    fs::File::open(session.on_mount.join("x/file"))
        .unwrap()
        .sync_all()
        .unwrap();
    // btrfs counts what has been committed.
    let disk = fs::File::open(mount.disk.path()).unwrap();
    rustix::fs::syncfs(disk).unwrap();
    let used = (before - numbers(&session.on_mount).3) * numbers(&session.on_mount).0;
    assert!(used >= 8 << 20, "{used}");
    output_of(&session.on_mount, "df", &["."]);
}

fn rule_2_13_a_big_directory_is_listed_and_removed(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "checkpoint").unwrap();
    let big = session.on_mount.join("io-logs/deep");
    fs::create_dir_all(&big).unwrap();
    for number in 0..2000 {
        let path = big.join(format!(
            "{number} of a name that fills the buffers of listings"
        ));
        match number % 10 {
            0 => fs::create_dir(path).unwrap(),
            1 => symlink("target", path).unwrap(),
            _ => fs::write(path, "x").unwrap(),
        }
    }
    let names = names_in(&big);
    assert_eq!(names.len(), 2000);
    assert_eq!(names, names_in(&session.in_repository.join("io-logs/deep")));
    let long = output_of(&big, "ls", &["-lU"]);
    assert_eq!(long.lines().count(), 2001);
    output_of(&mount.mountpoint, "rm", &["-r", "a.session"]);
    assert!(!session.in_repository.exists());
    assert!(names_in(&mount.mountpoint).is_empty());
}

fn rule_2_13_changes_in_the_repository_are_seen_at_the_next_access(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let (there, here) = (&session.on_mount, &session.in_repository);
    fs::create_dir_all(there.join("x/y")).unwrap();
    for round in 0..times(200) {
        let (seen, file) = (there.join("x/y/file"), here.join("x/y/file"));
        assert_eq!(errno(fs::metadata(&seen)), libc::ENOENT);
        fs::write(&file, "one").unwrap();
        assert_eq!(fs::read(&seen).unwrap(), b"one", "{round}");
        let mut open = fs::File::open(&seen).unwrap();
        fs::write(&file, "three").unwrap();
        assert_eq!(fs::metadata(&seen).unwrap().len(), 5, "{round}");
        assert_eq!(fs::read(&seen).unwrap(), b"three", "{round}");
        let mut read = String::new();
        open.read_to_string(&mut read).unwrap();
        assert_eq!(read, "three", "{round}");
        open.rewind().unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(
            fs::metadata(&seen).unwrap().mode() & 0o7777,
            0o600,
            "{round}"
        );
        fs::write(here.join("other"), "another file").unwrap();
        fs::rename(here.join("other"), &file).unwrap();
        assert_eq!(fs::read(&seen).unwrap(), b"another file", "{round}");
        fs::remove_file(&file).unwrap();
        symlink("target", &file).unwrap();
        assert_eq!(
            fs::read_link(&seen).unwrap(),
            Path::new("target"),
            "{round}"
        );
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(fs::metadata(&seen).unwrap().is_dir(), "{round}");
        fs::remove_dir(&file).unwrap();
        assert_eq!(errno(fs::metadata(&seen)), libc::ENOENT, "{round}");
        // Directories on the way: renamed, made anew, swapped.
        fs::rename(here.join("x"), here.join("z")).unwrap();
        assert_eq!(
            errno(fs::metadata(there.join("x/y"))),
            libc::ENOENT,
            "{round}"
        );
        fs::write(there.join("z/y/renamed"), "r").unwrap();
        fs::create_dir_all(here.join("x/y")).unwrap();
        assert!(names_in(&there.join("x/y")).is_empty(), "{round}");
        assert_eq!(names_in(&there.join("z/y")), ["renamed"], "{round}");
        fs::remove_dir_all(here.join("z")).unwrap();
        assert_eq!(
            errno(fs::read(there.join("z/y/renamed"))),
            libc::ENOENT,
            "{round}"
        );
        assert_eq!(names_in(there), ["session", "x"], "{round}");
    }
    fs::remove_dir_all(here).unwrap();
    assert_eq!(errno(fs::write(there.join("x/y/file"), "x")), libc::ENOENT);
    assert!(names_in(&mount.mountpoint).is_empty());
}

fn rule_2_13_changes_on_the_mount_are_seen_in_the_repository(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let path = session.in_repository.join("log");
    let mut log = fs::File::options();
    let mut log = log
        .append(true)
        .create(true)
        .open(session.on_mount.join("log"))
        .unwrap();
    let mut expected = String::new();
    for round in 0..times(200) {
        for line in [format!("{round}\n"), "more\n".to_owned()] {
            log.write_all(line.as_bytes()).unwrap();
            expected.push_str(&line);
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
            // Two writers of a log, one of them beside the mount: each appends where the
            // other has ended.
            let mut direct = fs::File::options().append(true).open(&path).unwrap();
            direct.write_all(b"direct\n").unwrap();
            expected.push_str("direct\n");
        }
        assert_eq!(
            fs::read_to_string(session.on_mount.join("log")).unwrap(),
            expected
        );
    }
}
