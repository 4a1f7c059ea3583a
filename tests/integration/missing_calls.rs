//! Filesystems that lack a call: flock(2) of an NFS without its lock daemon, and
//! fsync(2) of directories, as some shared folders. No filesystem here is one, so
//! strace(1) makes the calls of the program fail.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::homes::{Home, Place, Settled};
use crate::common::observe::Strace;
use crate::common::storage::leave_dead;
use crate::common::tools::{assert_next_save_works, assert_saved, close, errno};
use crate::common::{SESSIONFS, times};

/// strace(1) of a program for which flock(2) fails with this errno.
fn without_flock(errno: &str) -> [String; 7] {
    let inject = format!("inject=flock:error={errno}");
    let options = ["strace", "-f", "-q", "-o/dev/null", "-e", "trace=flock"];
    let [strace, all, quiet, out, e, trace] = options.map(str::to_owned);
    [strace, all, quiet, out, e, trace, format!("-e{inject}")]
}

/// A command of the program, started by another, with this input.
fn command(starter: &[String], arguments: &[&str], repository: &Path, input: &str) -> Output {
    let mut words = starter.iter().map(String::as_str).chain([SESSIONFS]);
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .args(arguments)
        .arg("-r")
        .arg(repository)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that is refused does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Section 3: without flock, saves rely on the exclusive creation alone. A lock that a
/// crash has left may belong to a living save: it refuses every save until it is broken
/// by hand.
#[test]
fn invariant_4_without_flock_the_dead_look_like_the_living() {
    for (home, errno_of_flock) in [
        (Home::Tmpfs, "EOPNOTSUPP"),
        (Home::Tmpfs, "ENOLCK"),
        (Home::Bindfs, "ENOLCK"),
        (Home::Ramfs, "ENOSYS"),
    ] {
        let starter = without_flock(errno_of_flock);
        let words: Vec<_> = starter.iter().map(String::as_str).collect();
        let settled = Settled::started_by(&words, home);
        let repository = &settled.mount.repository;
        let session = settled.mount.session("a");
        fs::write(session.file(), "old").unwrap();
        assert_saved(&session, "old");
        let saved = command(&starter, &["save", "a"], repository, "by the command");
        assert_eq!(saved.status.code(), Some(0), "{saved:?}");
        assert_saved(&session, "by the command");

        let writer = fs::File::create(session.file()).unwrap();
        assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
        if home == Home::Bindfs {
            // The staged file has its name already.
            let saved = command(&starter, &["save", "a"], repository, "meanwhile");
            assert_eq!(saved.status.code(), Some(4), "{saved:?}");
        }
        close(writer).unwrap();
        assert_saved(&session, "");

        let next = session.in_repository.join("session.next");
        if home == Home::Ramfs {
            fs::write(&next, "half").unwrap();
            let sticky = std::os::unix::fs::PermissionsExt::from_mode(0o1600);
            fs::set_permissions(&next, sticky).unwrap();
        } else {
            leave_dead(&session.in_repository);
        }
        let append = fs::File::options().append(true).open(session.file());
        let appended = append.and_then(|mut writer| {
            writer.write_all(b"more")?;
            close(writer)
        });
        assert_eq!(errno(appended), libc::EBUSY, "{home:?}");
        assert_eq!(errno(fs::File::create(session.file())), libc::EBUSY);
        let saved = command(&starter, &["save", "a"], repository, "meanwhile");
        assert_eq!(saved.status.code(), Some(4), "{saved:?}");
        assert_eq!(fs::read_to_string(&next).unwrap(), "half");

        let kept = command(&starter, &["break-lock", "a"], repository, "");
        assert_eq!(kept.status.code(), Some(6), "{kept:?}");
        let broken = command(&starter, &["break-lock", "--force", "a"], repository, "");
        assert_eq!(broken.status.code(), Some(0), "{broken:?}");
        assert_next_save_works(&session);
    }
}

/// Any other error of flock is reported as it is, and nothing is saved.
#[test]
fn invariant_5_a_flock_that_fails_is_reported() {
    for home in [Home::Tmpfs, Home::Bindfs] {
        let place = Place::new(home);
        let repository = place.path.join("repository");
        let session = repository.join("a.session");
        fs::create_dir_all(&session).unwrap();
        fs::write(session.join("session"), "old").unwrap();
        let saved = command(&without_flock("EIO"), &["save", "a"], &repository, "new");
        assert_eq!(saved.status.code(), Some(1), "{saved:?}");
        let told = String::from_utf8_lossy(&saved.stderr).into_owned();
        assert!(told.contains("Input/output error"), "{told}");
        assert_eq!(fs::read_to_string(session.join("session")).unwrap(), "old");
        assert_eq!(fs::read_dir(&session).unwrap().count(), 1);
    }
}

/// Many saves at once: each is made, or refused because of another, and leaves nothing
/// behind.
fn race(home: Home, starter: &[String]) {
    let place = Place::new(home);
    let repository = place.path.join("repository");
    let session = repository.join("a.session");
    fs::create_dir_all(&session).unwrap();
    let save = |n: usize| {
        let content = format!("{n} ").repeat(1000);
        let saved = command(starter, &["save", "a"], &repository, &content);
        (content, saved)
    };
    let mut made = HashSet::new();
    for round in 0..times(40) {
        std::thread::scope(|scope| {
            let savers: Vec<_> = (0..4)
                .map(|n| scope.spawn(move || save(round * 4 + n)))
                .collect();
            for saver in savers {
                let (content, saved) = saver.join().unwrap();
                match saved.status.code() {
                    Some(0) => assert!(made.insert(content)),
                    Some(4) => {}
                    _ => panic!("{home:?}: {saved:?}"),
                }
            }
        });
        let names: Vec<_> = fs::read_dir(&session)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["session"]);
        let content = fs::read_to_string(session.join("session")).unwrap();
        assert!(made.contains(&content), "{content:?} was refused");
    }
}

#[test]
fn rule_2_8_one_of_many_saves_is_made_without_flock() {
    for home in [Home::Tmpfs, Home::Bindfs] {
        race(home, &without_flock("ENOLCK"));
    }
}

#[test]
fn rule_2_8_one_of_many_saves_is_made_on_fuse() {
    for home in [Home::Bindfs, Home::BindfsWithoutMark, Home::Sshfs] {
        race(home, &[]);
    }
}

/// Section 3: that a filesystem cannot sync directories is no I/O error, and is logged
/// once.
#[test]
fn section_3_a_directory_that_cannot_be_synced_is_warned_about_once() {
    let settled = Settled::new(Home::Tmpfs);
    let session = settled.mount.session("a");
    let directory = session.in_repository.to_str().unwrap();
    let inject = |errno| format!("inject=fsync:error={errno}");
    let fails = |errno| {
        [
            "-P".into(),
            directory.to_owned(),
            "-e".into(),
            inject(errno),
        ]
    };
    let strace = Strace::attach_to_all(settled.mount.pid(), fails("EINVAL"));
    fs::write(session.file(), "first").unwrap();
    fs::write(session.file(), "second").unwrap();
    drop(strace);
    assert_saved(&session, "second");
    let log = settled.mount.log();
    assert_eq!(log.matches("cannot sync directories").count(), 1, "{log}");

    let repository = &settled.mount.repository;
    for (errno, status, told) in [
        ("EINVAL", 0, "cannot sync directories"),
        ("EIO", 1, "may not survive a power cut"),
    ] {
        let options = ["-f".into(), "-q".into(), "-o/dev/null".into()];
        let strace = ["strace".to_owned()].into_iter().chain(options);
        let starter: Vec<_> = strace.chain(fails(errno)).collect();
        let saved = command(&starter, &["save", "a"], repository, errno);
        assert_eq!(saved.status.code(), Some(status), "{saved:?}");
        let text = String::from_utf8_lossy(&saved.stderr).into_owned();
        assert!(text.contains(told), "{text}");
        assert_saved(&session, errno);
    }
}
