//! A daemon whose memory is limited (`ulimit -v`, prlimit(2)): it refuses to mount, or
//! serves and answers `ENOMEM`. It does not end, and no acknowledged save is lost (I2).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::common::observe::{descriptors, state, status};
use crate::common::tools::{assert_next_save_works, save};
use crate::common::{
    Backing, Disk, Mount, SESSIONFS, Session, is_full, is_mounted, run, times, unmount, wait_until,
};

/// How often each errno was returned.
type Told = Mutex<BTreeMap<i32, usize>>;

/// The contents that a session's checkpoint may have.
type Contents = Mutex<Vec<Vec<u8>>>;

/// Counts an error, which must mean too little memory, or another writer.
fn note<T>(told: &Told, result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) => {
            let errno = e.raw_os_error().unwrap_or_else(|| panic!("{e}"));
            assert!(matches!(errno, libc::ENOMEM | libc::EBUSY), "{e}");
            *told.lock().unwrap().entry(errno).or_default() += 1;
            None
        }
    }
}

/// The content of a save: more than a page, or more than a piece.
fn content(session: usize, number: usize) -> Vec<u8> {
    let pages = if number.is_multiple_of(4) { 700 } else { 3 };
    format!("{session} {number} ").repeat(400 * pages).into()
}

/// Saves, reads, lists, attributes and files, by several threads at once; returns the
/// errors. For each session, `last` has the last content that was acknowledged, and those
/// that may have been saved since.
fn load(mount: &Mount, sessions: &[Session], last: &[Contents], rounds: usize) -> Told {
    let told = Told::default();
    thread::scope(|scope| {
        for (number, session) in sessions.iter().enumerate() {
            let (told, last) = (&told, &last[number]);
            scope.spawn(move || {
                for round in 0..rounds {
                    let mut last = last.lock().unwrap();
                    let next = content(number, last.len() + round);
                    // A save that fails at close, or whose result is unknown, may be
                    // there.
                    last.push(next.clone());
                    if note(told, save(session.file(), &next)).is_some() {
                        *last = vec![next];
                    }
                    if let Some(read) = note(told, fs::read(session.file())) {
                        assert!(last.contains(&read), "session {number}: torn, or lost");
                    }
                    drop(last);
                    let file = session.on_mount.join("file");
                    note(told, fs::write(&file, vec![b'x'; 3 << 20]));
                    if let Some(read) = note(told, fs::read_dir(&mount.mountpoint)) {
                        for entry in read {
                            note(told, entry.and_then(|entry| entry.metadata()));
                        }
                    }
                    let value = vec![b'v'; 2000];
                    let flags = rustix::fs::XattrFlags::empty();
                    let set = rustix::fs::setxattr(session.file(), "user.a", &value, flags);
                    note(told, set.map_err(io::Error::from));
                    let mut buffer = vec![0; 1 << 16];
                    let read = rustix::fs::getxattr(session.file(), "user.a", &mut buffer);
                    match read {
                        Err(rustix::io::Errno::NODATA) | Ok(_) => {}
                        Err(errno) => drop(note::<()>(told, Err(errno.into()))),
                    }
                }
            });
        }
    });
    told
}

/// Each session is whole: its last acknowledged save or a later one.
fn assert_nothing_lost(sessions: &[Session], last: &[Contents]) {
    for (number, session) in sessions.iter().enumerate() {
        let found = fs::read(session.checkpoint()).unwrap();
        let mut last = last[number].lock().unwrap();
        assert!(last.contains(&found), "session {number}: torn, or lost");
        *last = vec![found];
        assert!(!session.in_repository.join("session.next").exists());
    }
}

fn sessions(mount: &Mount) -> (Vec<Session>, Vec<Contents>) {
    for n in 0..times(3000) {
        let many = mount.repository.join(format!("many-{n}.session"));
        fs::create_dir(many).unwrap();
    }
    let sessions: Vec<_> = (0..6).map(|n| mount.session(n.to_string())).collect();
    let last = (0..sessions.len()).map(|number| {
        let first = content(number, 0);
        save(sessions[number].file(), &first).unwrap();
        Mutex::new(vec![first])
    });
    let last = last.collect();
    (sessions, last)
}

/// The remaining address space goes down to nothing and up again, under load: what cannot
/// be done is reported, and all works again later.
#[test]
fn invariant_2_a_daemon_that_gets_no_memory_answers_enomem() {
    // With any limit from the beginning it keeps no address space in reserve; otherwise
    // each thread has 64 MiB of it.
    let limited = ["prlimit", "--as=8000000000:"];
    for (starter, options) in [
        (&limited[..], &["--no-passthrough"][..]),
        (&limited, &[]),
        (&[], &[]),
    ] {
        let disk = Disk::new(Backing::Tmpfs);
        let repository = disk.path().join("repository");
        fs::create_dir(&repository).unwrap();
        let mut mount = Mount::started_by(starter, disk, repository, options);
        mount.may_complain = true;
        let (sessions, last) = sessions(&mount);
        let pid = mount.pid();
        let before = descriptors(pid).len();
        let mut refused = 0;
        for left in [
            0, 64, 512, 1024, 3072, 7168, 8192, 9216, 10240, 12288, 16384, 65536,
        ] {
            let now = status(pid, "VmSize") + left;
            run(
                "prlimit",
                [format!("--as={}:", now << 10), format!("--pid={pid}")],
            );
            let told = load(&mount, &sessions, &last, times(20));
            run(
                "prlimit",
                ["--as=8000000000:".to_owned(), format!("--pid={pid}")],
            );
            let told = told.into_inner().unwrap();
            println!("{left} KiB left: {told:?}");
            assert_eq!(state(pid).map(|s| s == 'Z'), Some(false), "{}", mount.log());
            let lacking = told.get(&libc::ENOMEM).copied().unwrap_or(0);
            assert!(
                lacking > 0 || left > 7168 || starter.is_empty(),
                "{left} KiB are enough"
            );
            assert!(lacking == 0 || left < 65536, "{left} KiB are not enough");
            refused += lacking;
            assert_nothing_lost(&sessions, &last);
            // All of it works again.
            let told = load(&mount, &sessions, &last, 1);
            assert_eq!(told.into_inner().unwrap(), BTreeMap::new());
        }
        println!("{refused} times ENOMEM");
        for session in &sessions {
            fs::remove_file(session.on_mount.join("file")).unwrap();
            assert_next_save_works(session);
        }
        mount.assert_descriptors_closed(before);
    }
}

/// A daemon that ends with the test, also if that fails.
struct Daemon<'a>(Child, &'a Path);

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = Command::new("umount").arg("-l").arg(self.1).status();
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Beginning with far too little: it mounts and serves, or says why not, and leaves no
/// mount behind.
#[test]
fn section_7_with_too_little_memory_nothing_is_mounted() {
    let (mut mounted, mut refused) = (0, 0);
    let step = if is_full() { 1 } else { 4 };
    for mib in (10..=120).step_by(step) {
        let disk = Disk::new(Backing::Here);
        let (repository, mountpoint) = (disk.path().join("repository"), disk.beside("mnt"));
        fs::create_dir(&repository).unwrap();
        let limit = format!("--as={}", mib << 20);
        let daemon = Command::new("prlimit")
            .args([&limit, SESSIONFS, "mount", "--foreground", "--threads", "2"])
            .args([&repository, &mountpoint])
            .stdin(Stdio::null())
            .stderr(File::create(disk.beside("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut daemon = Daemon(daemon, &mountpoint);
        let mut ended = None;
        wait_until("it is mounted, or refused", || {
            ended = daemon.0.try_wait().unwrap();
            ended.is_some() || is_mounted(&mountpoint)
        });
        let log = || fs::read_to_string(disk.beside("log")).unwrap();
        if let Some(ended) = ended {
            assert_eq!(ended.code(), Some(1), "{mib} MiB: {ended}: {}", log());
            assert_eq!(log().lines().count(), 1, "{mib} MiB: {}", log());
            assert!(log().contains("memory"), "{mib} MiB: {}", log());
            assert_eq!(mounted, 0, "{mib} MiB are fewer than what was enough");
            assert!(!mountpoint.exists(), "{mib} MiB: it leaves a mountpoint");
            refused += 1;
            continue;
        }
        let session = Session {
            on_mount: mountpoint.join("a.session"),
            in_repository: repository.join("a.session"),
        };
        fs::create_dir(&session.on_mount).unwrap();
        let file = session.on_mount.join("file");
        fs::write(&file, vec![b'x'; 3 << 20]).unwrap();
        fs::remove_file(&file).unwrap();
        assert_next_save_works(&session);
        unmount("umount", &[&mountpoint]);
        let ended = daemon.0.wait().unwrap();
        assert!(ended.success(), "{mib} MiB: {ended}: {}", log());
        mounted += 1;
    }
    println!("{refused} limits refused, {mounted} enough");
    assert!(mounted > 0 && refused > 0);
}
