//! Names of sessions and of files beside them, and the root, which shows only sessions
//! (DESIGN 1).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::BufRead;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::time::{Duration, UNIX_EPOCH};

use crate::common::tools::{
    assert_next_save_works, assert_saved, errno, names_in, output_of, python, save, sessionfs,
};
use crate::common::{Backing, Disk, Mount, Session, times};

on_each_filesystem!(
    section_1_names_of_all_kinds_are_sessions,
    section_1_names_of_all_kinds_beside_a_session,
    section_1_the_root_refuses_what_is_no_session,
    section_1_sessions_are_made_renamed_and_removed,
    section_1_a_session_in_use_is_renamed,
    section_1_ten_thousand_sessions_list_in_order,
    section_1_a_missing_repository_is_empty_until_the_first_mkdir,
    section_1_a_missing_repository_is_empty_until_the_first_create,
    invariant_1_nothing_but_a_regular_file_becomes_a_checkpoint,
);

/// Ids of sessions that could confuse a careless program.
fn ids() -> Vec<OsString> {
    let longest = 255 - ".session".len();
    [
        b"plain".to_vec(),
        b"\xff\xfe not UTF-8 \x80".to_vec(),
        vec![b'x'; longest],
        vec![0xf0; longest],
        b" spaces  at both ends ".to_vec(),
        b"new\nline\n".to_vec(),
        b"-rf".to_vec(),
        b"--help".to_vec(),
        b"tab\tquote'\"back\\slash$`*?[".to_vec(),
        b"a.session".to_vec(),
        "ümläut und 字".as_bytes().to_vec(),
    ]
    .map(OsString::from_vec)
    .to_vec()
}

fn session_name(id: &OsStr) -> OsString {
    let mut name = id.to_owned();
    name.push(".session");
    name
}

fn sorted(names: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort();
    names
}

fn section_1_names_of_all_kinds_are_sessions(backing: Backing) {
    let mount = Mount::new(backing);
    for (number, id) in ids().iter().enumerate() {
        let session = mount.session(id);
        let content = format!("content {number}");
        fs::write(session.file(), &content).unwrap();
        assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), content);
        let name = session_name(id);
        let arguments = [OsStr::new("--"), if number % 2 == 0 { id } else { &name }];
        let loaded = sessionfs(&mount.repository, "load", arguments);
        assert_eq!(
            String::from_utf8_lossy(&loaded.stdout),
            content,
            "{loaded:?}"
        );
    }
    let expected = sorted(ids().iter().map(|id| session_name(id)));
    assert_eq!(names_in(&mount.mountpoint), expected);
    let listed = sessionfs(&mount.repository, "list", ["-0"]).stdout;
    let listed = listed.split(|&byte| byte == 0).filter(|id| !id.is_empty());
    let listed = sorted(listed.map(|id| OsStr::from_bytes(id).to_owned()));
    assert_eq!(listed, sorted(ids()));
    for id in ids() {
        // By name: an id may look like the name of another one.
        let name = session_name(&id);
        let removed = sessionfs(&mount.repository, "remove", [OsStr::new("--"), &name]);
        assert!(removed.status.success(), "{removed:?}");
    }
    assert!(names_in(&mount.mountpoint).is_empty());
    // One byte more than a name can have.
    let mut long = vec![b'x'; 256 - ".session".len()];
    long.extend(b".session");
    let long = mount.mountpoint.join(OsStr::from_bytes(&long));
    assert_eq!(errno(fs::create_dir(long)), libc::ENAMETOOLONG);
}

fn section_1_names_of_all_kinds_beside_a_session(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let mut names = ids();
    names.push(OsString::from_vec(vec![0xe9; 255]));
    names.push("session ".into());
    names.push("Session".into());
    for (number, name) in names.iter().enumerate() {
        let path = session.on_mount.join(name);
        if number % 2 == 0 {
            fs::write(&path, name.as_bytes()).unwrap();
        } else {
            fs::create_dir(&path).unwrap();
            fs::write(path.join(name), name.as_bytes()).unwrap();
        }
    }
    for (number, name) in names.iter().enumerate() {
        let mut path = session.in_repository.join(name);
        if number % 2 == 1 {
            path.push(name);
        }
        assert_eq!(fs::read(path).unwrap(), name.as_bytes());
    }
    let long = session.on_mount.join(OsStr::from_bytes(&[b'x'; 256]));
    assert_eq!(errno(fs::write(long, "x")), libc::ENAMETOOLONG);
    names.push("session".into());
    assert_eq!(names_in(&session.on_mount), sorted(names));
    output_of(&mount.mountpoint, "rm", &["-r", "a.session"]);
    assert!(!session.in_repository.exists());
}

fn section_1_the_root_refuses_what_is_no_session(backing: Backing) {
    let mount = Mount::new(backing);
    let root = &mount.mountpoint;
    let session = mount.session("a");
    let other = mount.session("b");
    fs::write(session.on_mount.join("file"), "file").unwrap();
    fs::create_dir(session.on_mount.join("c.session")).unwrap();
    for name in ["file", "file.session", ".hidden", "session"] {
        let path = root.join(name);
        assert_eq!(errno(fs::write(&path, "x")), libc::EPERM, "{name}");
        assert_eq!(errno(symlink("target", &path)), libc::EPERM, "{name}");
        let fifo = rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        );
        assert_eq!(fifo, Err(rustix::io::Errno::PERM), "{name}");
        let file = session.on_mount.join("file");
        assert_eq!(errno(fs::hard_link(&file, &path)), libc::EPERM, "{name}");
        assert_eq!(errno(fs::rename(&file, &path)), libc::EPERM, "{name}");
    }
    let renames = [
        (session.on_mount.join("c.session"), root.join("c.session")),
        (other.on_mount.clone(), session.on_mount.join("b.session")),
        (other.on_mount.clone(), session.on_mount.join("b")),
    ];
    for (from, to) in renames {
        assert_eq!(errno(fs::rename(&from, &to)), libc::EPERM, "{to:?}");
    }
    for name in [
        "new",
        ".hidden.session",
        "new.Session",
        "new.session.bak",
        ".session",
    ] {
        let path = root.join(name);
        assert_eq!(errno(fs::create_dir(&path)), libc::EINVAL, "{name}");
        assert_eq!(
            errno(fs::rename(&other.on_mount, &path)),
            libc::EINVAL,
            "{name}"
        );
    }
    for name in ["new", "new.session", ".hidden", ".Trash", "session"] {
        let path = root.join(name);
        assert_eq!(errno(fs::metadata(&path)), libc::ENOENT, "{name}");
        assert_eq!(errno(fs::File::open(&path)), libc::ENOENT, "{name}");
        assert_eq!(errno(fs::read_dir(&path)), libc::ENOENT, "{name}");
        assert_eq!(errno(fs::remove_file(&path)), libc::ENOENT, "{name}");
        assert_eq!(errno(fs::remove_dir(&path)), libc::ENOENT, "{name}");
        let to = root.join("to.session");
        assert_eq!(errno(fs::rename(&path, to)), libc::ENOENT, "{name}");
    }
    assert_eq!(errno(fs::remove_dir(root)), libc::EBUSY);
    for directory in [&mount.mountpoint, &mount.repository] {
        assert_eq!(names_in(directory), ["a.session", "b.session"]);
    }
    assert_eq!(fs::read(session.on_mount.join("file")).unwrap(), b"file");
}

fn section_1_sessions_are_made_renamed_and_removed(backing: Backing) {
    let mount = Mount::new(backing);
    let root = &mount.mountpoint;
    output_of(root, "mkdir", &["a.session", "b.session"]);
    assert_eq!(errno(fs::create_dir(root.join("a.session"))), libc::EEXIST);
    assert_eq!(names_in(&root.join("a.session")), ["session"]);
    assert_eq!(fs::read(root.join("a.session/session")).unwrap(), b"");
    assert!(names_in(&mount.repository.join("a.session")).is_empty());
    // An empty session can be removed by rmdir: the empty `session` that it shows does
    // not count.
    output_of(root, "rmdir", &["b.session"]);
    assert_eq!(names_in(&mount.repository), ["a.session"]);
    let fill = "echo content > session; mkdir -p io-logs/deep; echo log > io-logs/deep/log";
    output_of(&root.join("a.session"), "sh", &["-c", fill]);
    assert_eq!(
        errno(fs::remove_dir(root.join("a.session"))),
        libc::ENOTEMPTY
    );
    output_of(root, "mv", &["a.session", "new name.session"]);
    assert_eq!(names_in(root), ["new name.session"]);
    assert_eq!(names_in(&mount.repository), ["new name.session"]);
    let renamed = root.join("new name.session");
    assert_eq!(fs::read(renamed.join("session")).unwrap(), b"content\n");
    assert_eq!(
        fs::read(renamed.join("io-logs/deep/log")).unwrap(),
        b"log\n"
    );
    fs::write(renamed.join("session"), "saved").unwrap();
    let checkpoint = mount.repository.join("new name.session/session");
    assert_eq!(fs::read(checkpoint).unwrap(), b"saved");
    // Not onto a session that has something in it; onto an empty one.
    fs::create_dir(root.join("full.session")).unwrap();
    fs::write(root.join("full.session/session"), "full").unwrap();
    let full = root.join("full.session");
    // xfs says EEXIST.
    let refused = errno(fs::rename(&renamed, &full));
    assert!(
        matches!(refused, libc::ENOTEMPTY | libc::EEXIST),
        "{refused}"
    );
    fs::create_dir(root.join("empty.session")).unwrap();
    fs::rename(&renamed, root.join("empty.session")).unwrap();
    assert_eq!(names_in(root), ["empty.session", "full.session"]);
    assert_eq!(
        fs::read(root.join("empty.session/session")).unwrap(),
        b"saved"
    );
    output_of(root, "rm", &["-r", "empty.session", "full.session"]);
    assert!(names_in(root).is_empty() && names_in(&mount.repository).is_empty());
}

/// A program that has a session as its working directory goes on while it is renamed, by
/// relative names.
fn section_1_a_session_in_use_is_renamed(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), "saved").unwrap();
    fs::write(session.on_mount.join("file"), "beside").unwrap();
    let names = ["a.session", "b.session"].map(|name| mount.mountpoint.join(name));
    let program = "
import os, sys
print('here', flush=True)
failed = {}
while not os.path.exists(sys.argv[1]):
    for name in ('session', 'file'):
        try: open(name).close()
        except OSError as e: failed[e.errno] = failed.get(e.errno, 0) + 1
print(failed)";
    let stop = mount.disk.beside("stop");
    let mut reader = std::process::Command::new("python3")
        .args(["-c", program])
        .arg(&stop)
        .current_dir(&session.on_mount)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its starter may go there by the name first.
    let mut said = std::io::BufReader::new(reader.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "here");
    for round in 0..times(400) {
        fs::rename(&names[round % 2], &names[(round + 1) % 2]).unwrap();
    }
    fs::write(&stop, "").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "{}");
    assert!(reader.wait().unwrap().success());
}

fn section_1_ten_thousand_sessions_list_in_order(backing: Backing) {
    let count = match backing {
        Backing::Ext4 => 10_000,
        _ => times(10_000),
    };
    let mount = Mount::new(backing);
    // Neither in the order of their names nor of their creation.
    let age = |number: usize| (number * 7919) % count;
    for number in 0..count {
        let path = mount.repository.join(format!("{number}.session"));
        fs::create_dir(&path).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs((2_000_000_000 - age(number)) as u64);
        let times = fs::FileTimes::new().set_modified(time);
        fs::File::open(&path).unwrap().set_times(times).unwrap();
    }
    let mut numbers: Vec<usize> = (0..count).collect();
    numbers.sort_by_key(|&number| age(number));
    let ids: String = numbers.iter().map(|n| format!("{n}\n")).collect();
    let names: String = numbers.iter().map(|n| format!("{n}.session\n")).collect();
    let root = &mount.mountpoint;
    for round in 0..2 {
        let listed = sessionfs(&mount.repository, "list", [""; 0]).stdout;
        assert!(listed == ids.as_bytes(), "list, round {round}");
        assert!(
            output_of(root, "ls", &["-U"]) == names.trim(),
            "ls -U, round {round}"
        );
        // By the times that the mount shows.
        assert!(
            output_of(root, "ls", &["-t"]) == names.trim(),
            "ls -t, round {round}"
        );
        assert_eq!(output_of(root, "ls", &["-l"]).lines().count(), count + 1);
        let found = "find . -mindepth 1 -maxdepth 1 -name '*.session' -type d | wc -l";
        assert_eq!(output_of(root, "sh", &["-c", found]), count.to_string());
    }
    // One that changes becomes the youngest.
    let oldest = mount.session(numbers[count - 1].to_string());
    fs::write(oldest.file(), "x").unwrap();
    let now = fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(2_000_000_001));
    fs::File::open(&oldest.in_repository)
        .unwrap()
        .set_times(now)
        .unwrap();
    let first = output_of(root, "sh", &["-c", "ls -U | head -n 1"]);
    assert_eq!(OsStr::new(&first), oldest.on_mount.file_name().unwrap());
}

/// A mount of a repository that is missing, two levels deep.
fn missing(backing: Backing) -> Mount {
    let disk = Disk::new(backing);
    let repository = disk.path().join("not/there");
    let mount = Mount::of(disk, repository, &[]);
    assert!(names_in(&mount.mountpoint).is_empty());
    output_of(&mount.mountpoint, "ls", &["-la"]);
    output_of(&mount.mountpoint, "df", &["."]);
    let listed = sessionfs(&mount.repository, "list", [""; 0]);
    assert!(
        listed.status.success() && listed.stdout.is_empty(),
        "{listed:?}"
    );
    assert!(listed.stderr.is_empty(), "{listed:?}");
    let lookup = fs::metadata(mount.mountpoint.join("a.session"));
    assert_eq!(errno(lookup), libc::ENOENT);
    let refused = fs::create_dir(mount.mountpoint.join("no session"));
    assert_eq!(errno(refused), libc::EINVAL);
    assert!(
        !mount.disk.path().join("not").exists(),
        "made by looking at it"
    );
    mount
}

fn section_1_a_missing_repository_is_empty_until_the_first_mkdir(backing: Backing) {
    let mount = missing(backing);
    let session = mount.session("a");
    fs::write(session.file(), "first").unwrap();
    assert_eq!(fs::read(session.checkpoint()).unwrap(), b"first");
    assert_eq!(names_in(&mount.mountpoint), ["a.session"]);
    assert_eq!(names_in(&mount.repository), ["a.session"]);
}

fn section_1_a_missing_repository_is_empty_until_the_first_create(backing: Backing) {
    let mount = missing(backing);
    let created = sessionfs(&mount.repository, "create", ["first-"]);
    assert!(created.status.success(), "{created:?}");
    let id = String::from_utf8(created.stdout).unwrap();
    let name = session_name(OsStr::new(id.trim()));
    assert!(id.starts_with("first-"), "{id}");
    assert_eq!(names_in(&mount.mountpoint), std::slice::from_ref(&name));
    fs::write(mount.mountpoint.join(&name).join("session"), "x").unwrap();
    let loaded = sessionfs(&mount.repository, "load", [id.trim()]);
    assert_eq!(loaded.stdout, b"x");
    // It may be removed, and made again.
    fs::remove_dir_all(&mount.repository).unwrap();
    assert!(names_in(&mount.mountpoint).is_empty());
    mount.session("again");
    assert_eq!(names_in(&mount.repository), ["again.session"]);
}

/// Tries to make everything but a regular file of the name `session`.
const OTHER_KINDS: &str = "
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def t(name, f):
    try: print(name, f())
    except OSError as e: print(name, errno.errorcode[e.errno])
def bind(name): socket.socket(socket.AF_UNIX).bind(name)
def exchange(a, b):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), 2) < 0: raise OSError(ctypes.get_errno(), a)
os.mkdir('dir'); os.mkfifo('fifo'); os.symlink('nowhere', 'link'); bind('socket')
t('ln -s', lambda: os.symlink('nowhere', 'session'))
t('mkdir', lambda: os.mkdir('session'))
t('mkfifo', lambda: os.mkfifo('session'))
t('bind', lambda: bind('session'))
for kind in 'fifo', 'link', 'socket':
    t('link ' + kind, lambda: os.link(kind, 'session', follow_symlinks=False))
print('and')
t('rename dir', lambda: os.rename('dir', 'session'))
for kind in 'fifo', 'link', 'socket':
    t('rename ' + kind, lambda: os.rename(kind, 'session'))
if os.stat('session').st_size:
    for kind in 'dir', 'fifo', 'link', 'socket':
        t('exchange', lambda: exchange('session', kind))
        t('exchange', lambda: exchange(kind, 'session'))
for name in sorted(os.listdir()): print(name, oct(os.lstat(name).st_mode >> 12))
";

/// Otherwise nothing could be read or saved there any more.
fn invariant_1_nothing_but_a_regular_file_becomes_a_checkpoint(backing: Backing) {
    let mount = Mount::new(backing);
    let (absent, session) = (mount.session("absent"), mount.session("a"));
    save(session.file(), "old").unwrap();
    let said = python(&absent.on_mount, OTHER_KINDS);
    let made = "ln -s EPERM mkdir EPERM mkfifo EPERM bind EADDRINUSE \
                link fifo EPERM link link EPERM link socket EPERM";
    let renamed = "rename dir ENOTDIR rename fifo EPERM rename link EPERM rename socket EPERM";
    let kinds = "dir 0o4 fifo 0o1 link 0o12 session 0o10 socket 0o14";
    let expected = format!("{made} and {renamed} {kinds}");
    assert_eq!(said.replace('\n', " "), expected);
    assert_eq!(absent.names(), ["dir", "fifo", "link", "socket"]);

    let said = python(&session.on_mount, OTHER_KINDS);
    let exchanged = "exchange EPERM ".repeat(8);
    let expected = format!(
        "{} and {renamed} {exchanged}{kinds}",
        made.replace("EPERM", "EEXIST")
    );
    assert_eq!(said.replace('\n', " "), expected);
    // Between sessions, with files that were put there in the repository.
    fs::rename(
        absent.in_repository.join("fifo"),
        absent.in_repository.join("session"),
    )
    .unwrap();
    let exchange = |from: &Session, to: &Session| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, from.file(), cwd, to.file(), flags)
    };
    for (from, to) in [(&absent, &session), (&session, &absent)] {
        assert_eq!(exchange(from, to), Err(rustix::io::Errno::PERM));
    }
    let linked = output_of(
        &session.on_mount,
        "sh",
        &["-c", "ln -sf /etc/passwd session 2>&1 || ls"],
    );
    assert!(linked.contains("Operation not permitted"), "{linked}");
    output_of(
        &session.on_mount,
        "rm",
        &["-r", "dir", "fifo", "link", "socket"],
    );
    assert_saved(&session, "old");
    assert_next_save_works(&session);
}
