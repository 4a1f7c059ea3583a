//! Every type of file under every special name, put there in the repository: nothing
//! hangs, no link is followed, no fifo or device is opened, the errno is the real one,
//! and everything else goes on (DESIGN 1, 2.8, 2.13).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::tools::{assert_next_save_works, names_in};
use crate::common::{Backing, Mount, SESSIONFS, Session, is_full};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Empty,
    Regular,
    Directory,
    FullDirectory,
    /// With all that marks a lock of ours (DESIGN 3).
    MarkedDirectory,
    Outside,
    Inside,
    Dangling,
    Loop,
    Fifo,
    Socket,
    Null,
    Zero,
    Block,
}

use Kind::*;

const KINDS: [Kind; 14] = [
    Empty,
    Regular,
    Directory,
    FullDirectory,
    MarkedDirectory,
    Outside,
    Inside,
    Dangling,
    Loop,
    Fifo,
    Socket,
    Null,
    Zero,
    Block,
];

impl Kind {
    fn is_directory(self) -> bool {
        matches!(self, Directory | FullDirectory | MarkedDirectory)
    }

    fn is_link(self) -> bool {
        matches!(self, Outside | Inside | Dangling | Loop)
    }

    fn is_file(self) -> bool {
        matches!(self, Empty | Regular)
    }

    /// The results of opening it on the mount, for reading and for writing, where its
    /// name is not followed: as in any directory that is mounted with nodev.
    fn opens(self) -> [i32; 2] {
        match self {
            Empty | Regular => [0, 0],
            Directory | FullDirectory | MarkedDirectory => [0, libc::EISDIR],
            Outside | Inside | Dangling | Loop => [libc::ELOOP; 2],
            // An open for reading does not wait; for writing there is no reader.
            Fifo => [0, libc::ENXIO],
            Socket => [libc::ENXIO; 2],
            Null | Zero | Block => [libc::EACCES; 2],
        }
    }
}

/// Makes one; returns the reading end of a fifo.
fn make(kind: Kind, path: &Path, outside: &Path) -> Option<File> {
    let node = |kind, major, minor| {
        mknodat(CWD, path, kind, Mode::from(0o666), makedev(major, minor)).unwrap();
    };
    match kind {
        Empty => drop(File::create(path).unwrap()),
        Regular => fs::write(path, "regular").unwrap(),
        Directory => fs::create_dir(path).unwrap(),
        FullDirectory => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("session"), "deeper").unwrap();
            symlink(outside, path.join("out")).unwrap();
        }
        MarkedDirectory => {
            fs::create_dir(path).unwrap();
            setxattr(path, "user.sessionfs.staged", b"", XattrFlags::empty()).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).unwrap();
        }
        Outside => symlink(outside, path).unwrap(),
        Inside => symlink("../good.session/session", path).unwrap(),
        Dangling => symlink("/nowhere/at/all", path).unwrap(),
        Loop => symlink(path.file_name().unwrap(), path).unwrap(),
        Fifo => {
            node(FileType::Fifo, 0, 0);
            let nonblock = libc::O_NONBLOCK;
            let mut options = File::options();
            return Some(
                options
                    .read(true)
                    .custom_flags(nonblock)
                    .open(path)
                    .unwrap(),
            );
        }
        Socket => {
            // Its address has room for 108 bytes only.
            let directory = File::open(path.parent().unwrap()).unwrap();
            let fd = std::os::fd::AsRawFd::as_raw_fd(&directory);
            let name = path.file_name().unwrap();
            drop(UnixListener::bind(Path::new(&format!("/proc/self/fd/{fd}")).join(name)).unwrap());
        }
        Null => node(FileType::CharacterDevice, 1, 3),
        Zero => node(FileType::CharacterDevice, 1, 5),
        Block => node(FileType::BlockDevice, 7, 99),
    }
    None
}

/// The other end of a fifo was never opened: there was no hang-up.
fn assert_untouched(fifo: Option<&File>, what: &str) {
    if let Some(fifo) = fifo {
        let mut polled = [PollFd::new(fifo, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        assert_eq!(
            poll(&mut polled, Some(&now)),
            Ok(0),
            "{what}: the fifo was opened"
        );
    }
}

fn told<T>(result: io::Result<T>) -> i32 {
    result.map_or_else(|e| e.raw_os_error().unwrap(), |_| 0)
}

/// A command of the program, which has to end.
fn command(mount: &Mount, command: &str, session: &[&str]) -> Output {
    let done = Command::new("timeout")
        .args(["20", SESSIONFS, command, "-r"])
        .arg(&mount.repository)
        .args(session)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let code = done.status.code();
    assert!(
        code.is_some_and(|code| code < 100),
        "{command} {session:?}: {done:?}"
    );
    let said = [&done.stdout[..], &done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        !said.contains("canary") && !said.contains("panicked"),
        "{said}"
    );
    done
}

/// Whether a command is tried on this pair: on every fourth in an ordinary run.
fn in_full(case: usize) -> bool {
    is_full() || case.is_multiple_of(4)
}

/// A mount with a good session, and a place outside that must not be reached.
fn place() -> (Mount, Session, std::path::PathBuf) {
    let mut mount = Mount::new(Backing::Tmpfs);
    mount.may_complain = true;
    let outside = mount.disk.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("session"), "canary").unwrap();
    let good = mount.session("good");
    assert_next_save_works(&good);
    (mount, good, outside)
}

fn assert_nothing_followed(outside: &Path, good: &Session, what: &str) {
    assert_eq!(names_in(outside), ["session"], "{what}");
    assert_eq!(
        fs::read(outside.join("session")).unwrap(),
        b"canary",
        "{what}"
    );
    assert!(!Path::new("/nowhere").exists(), "{what}");
    assert_next_save_works(good);
}

/// The special names in a session, and others that look like them.
const IN_A_SESSION: [&str; 9] = [
    "session",
    "session.next",
    ".session.1.0",
    ".session",
    "a.session",
    "session.session",
    "session.next.session",
    ".sessionfs-status",
    "session.",
];

#[test]
fn section_1_every_type_of_file_under_every_name_in_a_session() {
    let (mount, good, outside) = place();
    let mut cases = 0;
    for name in IN_A_SESSION {
        for kind in KINDS {
            let what = format!("{kind:?} as {name}");
            let session = mount.session("a");
            let fifo = make(kind, &session.in_repository.join(name), &outside);
            let on_mount = session.on_mount.join(name);
            let (is_checkpoint, is_lock) = (name == "session", name == "session.next");
            // Listed as what it is.
            let type_of = |path: &Path| fs::symlink_metadata(path).unwrap().file_type();
            let its_type = type_of(&session.in_repository.join(name));
            assert_eq!(type_of(&on_mount), its_type, "{what}");
            let listed = names_in(&session.on_mount);
            assert!(
                listed.iter().any(|listed| listed == name),
                "{what}: {listed:?}"
            );
            // The results of opens. A program follows a link elsewhere by itself.
            if is_checkpoint || is_lock || !kind.is_link() {
                let nonblock = libc::O_NONBLOCK;
                let mut options = File::options();
                let read = options.read(true).custom_flags(nonblock).open(&on_mount);
                let read = read.map(|_| ());
                let write = |options: &mut fs::OpenOptions| {
                    told(options.write(true).custom_flags(nonblock).open(&on_mount))
                };
                let opens = [told(read), write(&mut File::options())];
                assert_eq!(opens, kind.opens(), "{what}");
                let expected = kind.opens()[1];
                if !kind.is_file() {
                    assert_eq!(write(File::options().truncate(true)), expected, "{what}");
                    assert_eq!(write(File::options().create(true)), expected, "{what}");
                    let exclusive = write(File::options().create_new(true));
                    assert_eq!(exclusive, libc::EEXIST, "{what}");
                }
            } else {
                let in_repository = fs::read_link(session.in_repository.join(name)).unwrap();
                assert_eq!(fs::read_link(&on_mount).unwrap(), in_repository, "{what}");
            }
            // A save, on the mount and by the command.
            let nonblock = libc::O_NONBLOCK;
            let mut save = File::options();
            save.write(true)
                .create(true)
                .truncate(true)
                .custom_flags(nonblock);
            let saved = told(save.open(session.file()));
            let by_command = command(&mount, "save", &["a"]).status.code();
            let expected = match (is_checkpoint, is_lock) {
                (true, _) => (kind.opens()[1], Some(i32::from(!kind.is_file()))),
                (_, true) => (libc::EBUSY, Some(4)),
                _ => (0, Some(0)),
            };
            assert_eq!((saved, by_command), expected, "{what}");
            let loaded = command(&mount, "load", &["a"]);
            let loads = !is_checkpoint || kind.is_file();
            assert_eq!(loaded.status.success(), loads, "{what}: {loaded:?}");
            if in_full(cases) || is_lock || is_checkpoint {
                let lists = [&["--long"][..], &["--json"], &[]];
                for (number, arguments) in lists.into_iter().enumerate() {
                    // They look at all processes of the machine.
                    if !in_full(cases + number) {
                        continue;
                    }

                    let done = command(&mount, "list", arguments);
                    assert!(
                        done.status.success() && done.stderr.is_empty(),
                        "{what}: {done:?}"
                    );
                }
                let doctor = command(&mount, "doctor", &[]);
                // This test has the fifo open, so the lock counts as in use.
                let is_found = name == ".session.1.0"
                    || is_lock && kind != Fifo
                    || is_checkpoint && !kind.is_file();
                assert_eq!(doctor.status.success(), !is_found, "{what}: {doctor:?}");
            }
            // A lock of any type is broken, except a directory.
            let broken = command(&mount, "break-lock", &["--force", "a"]);
            let breaks = !(is_lock && kind.is_directory());
            assert_eq!(broken.status.success(), breaks, "{what}: {broken:?}");
            let is_there = fs::symlink_metadata(session.in_repository.join(name)).is_ok();
            assert_eq!(is_there, !(is_lock && breaks), "{what}");
            // It can be moved and removed as in any directory.
            if is_there && !is_checkpoint {
                let moved = session.on_mount.join("moved");
                fs::rename(&on_mount, &moved).unwrap_or_else(|e| panic!("{what}: {e}"));
                fs::rename(&moved, &on_mount).unwrap_or_else(|e| panic!("{what}: {e}"));
                let unlinked = told(fs::remove_file(&on_mount));
                let expected = if kind.is_directory() { libc::EISDIR } else { 0 };
                assert_eq!(unlinked, expected, "{what}");
            }
            assert_untouched(fifo.as_ref(), &what);
            if cases.is_multiple_of(2) {
                crate::common::run("rm", ["-r".as_ref(), session.on_mount.as_os_str()]);
            } else {
                assert!(command(&mount, "remove", &["a"]).status.success(), "{what}");
            }
            assert!(!session.in_repository.exists(), "{what}");
            assert_nothing_followed(&outside, &good, &what);
            cases += 1;
        }
    }
    println!("{cases} pairs");
}

/// The same in the root: only a real directory of a session's name is one.
#[test]
fn section_1_every_type_of_file_under_every_name_in_the_root() {
    let (mount, good, outside) = place();
    let names = [
        ("a.session", true),
        ("a.session.session", true),
        ("session.next.session", true),
        (".session", false),
        (".a.session", false),
        ("session", false),
        ("session.next", false),
        (".session.1.0", false),
        (".sessionfs-status", false),
        ("a.Session", false),
    ];
    let mut cases = 0;
    for (name, is_session_name) in names {
        for kind in KINDS {
            let what = format!("{kind:?} as {name}");
            let path = mount.repository.join(name);
            let fifo = make(kind, &path, &outside);
            let on_mount = mount.mountpoint.join(name);
            let is_shown = is_session_name && kind.is_directory();
            let listed = names_in(&mount.mountpoint);
            assert_eq!(
                listed.iter().any(|listed| listed == name),
                is_shown,
                "{what}"
            );
            let listed = command(&mount, "list", &["-0"]).stdout;
            let id = name.strip_suffix(".session").filter(|id| !id.is_empty());
            let lists = listed
                .split(|&b| b == 0)
                .any(|one| Some(one) == id.map(str::as_bytes));
            assert_eq!(lists, is_shown, "{what}");
            if !is_shown {
                if name == ".sessionfs-status" {
                    // The report, and not what lies there.
                    let report = fs::read_to_string(&on_mount).unwrap();
                    assert!(report.starts_with('{'), "{what}: {report}");
                } else {
                    assert_eq!(
                        told(fs::symlink_metadata(&on_mount)),
                        libc::ENOENT,
                        "{what}"
                    );
                    assert_eq!(told(fs::remove_dir(&on_mount)), libc::ENOENT, "{what}");
                    let inside = on_mount.join("session");
                    assert_eq!(told(fs::read(&inside)), libc::ENOENT, "{what}");
                    let made = told(fs::create_dir(&on_mount));
                    let expected = if is_session_name {
                        libc::EEXIST
                    } else {
                        libc::EINVAL
                    };
                    assert_eq!(made, expected, "{what}");
                }
                let commands = ["load", "save", "break-lock", "remove"];
                for (number, which) in commands.into_iter().enumerate() {
                    if !in_full(cases + number) {
                        continue;
                    }
                    let done = command(&mount, which, &[&format!("./{name}")]);
                    assert!(!done.status.success(), "{what}: {which}: {done:?}");
                }
                assert!(fs::symlink_metadata(&path).is_ok(), "{what}");
            } else {
                crate::common::run("rm", ["-r".as_ref(), on_mount.as_os_str()]);
                assert!(fs::symlink_metadata(&path).is_err(), "{what}");
            }
            if in_full(cases) {
                assert!(
                    command(&mount, "list", &["--long"]).status.success(),
                    "{what}"
                );
                assert!(command(&mount, "doctor", &[]).status.success(), "{what}");
            }
            assert_untouched(fifo.as_ref(), &what);
            crate::common::run("rm", ["-rf".as_ref(), path.as_os_str()]);
            assert_nothing_followed(&outside, &good, &what);
            cases += 1;
        }
    }
    println!("{cases} pairs");
}
