//! Programs that wait for a state file to change (inotify) are told of changes through
//! the mount.

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::common::side_by_side::SideBySide;
use crate::common::{Backing, Mount, shell, wait_until};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// An event: the name in the watched directory, if there is one, and what happened.
type Event = (String, ReadFlags);

/// A watch for all that changes something.
struct Watch {
    fd: OwnedFd,
    seen: RefCell<Vec<Event>>,
}

impl Watch {
    fn on(path: &Path) -> Self {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let reads = WatchFlags::ACCESS | WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE;
        inotify::add_watch(&fd, path, WatchFlags::ALL_EVENTS - reads).unwrap();
        let seen = RefCell::default();
        Self { fd, seen }
    }

    /// All that has been reported so far.
    fn seen(&self) -> Vec<Event> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_str().unwrap());
                    let event = (name.unwrap_or_default().to_owned(), event.events());
                    self.seen.borrow_mut().push(event);
                }
                Err(Errno::AGAIN) => return self.seen.borrow().clone(),
                Err(errno) => panic!("{errno}"),
            }
        }
    }
}

#[track_caller]
fn sh(directory: &Path, command: &str) {
    let output = shell("sh", directory, command);
    assert!(output.status.success(), "{command}: {output:?}");
}

#[test]
fn a_watch_on_the_session_reports_what_any_directory_does() {
    let both = SideBySide::new(Backing::Tmpfs);
    for command in [
        "echo old >> session",
        "printf more >> session",
        "echo t > tmp; mv tmp session",
        "touch session",
        "chmod 600 session",
        "rm session",
        "mkdir d; rmdir d",
        "mv session other; mv other session",
    ] {
        let reported = |directory: &Path| {
            // By another process: a child that another test starts has copies of what
            // this process has open, and may close them once the watch is there.
            sh(directory, "echo there > session");
            let watch = Watch::on(directory);
            sh(directory, command);
            watch.seen()
        };
        let expected = reported(&both.plain);
        assert!(!expected.is_empty(), "{command}");
        assert_eq!(reported(&both.session.on_mount), expected, "{command}");
    }
}

#[test]
fn a_watch_on_the_root_reports_sessions_that_come_and_go() {
    let mount = Mount::new(Backing::Here);
    let watch = Watch::on(&mount.mountpoint);
    fs::create_dir(mount.mountpoint.join("a.session")).unwrap();
    fs::rename(
        mount.mountpoint.join("a.session"),
        mount.mountpoint.join("b.session"),
    )
    .unwrap();
    fs::remove_dir(mount.mountpoint.join("b.session")).unwrap();
    let directory = ReadFlags::ISDIR;
    let expected = [
        ("a.session", ReadFlags::CREATE),
        ("a.session", ReadFlags::MOVED_FROM),
        ("b.session", ReadFlags::MOVED_TO),
        ("b.session", ReadFlags::DELETE),
    ]
    .map(|(name, how)| (name.to_owned(), how | directory));
    assert_eq!(watch.seen(), expected);
    // The kernel is not told of changes beside the mount.
    fs::create_dir(mount.repository.join("c.session")).unwrap();
    assert_eq!(watch.seen(), expected);
    assert!(mount.mountpoint.join("c.session").is_dir());
}

#[test]
fn a_direct_save_is_not_reported_and_seen_at_the_next_open() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("s");
    sh(&session.on_mount, "echo old > session");
    let (file, directory) = (Watch::on(&session.file()), Watch::on(&session.on_mount));
    sh(
        &session.in_repository,
        "echo direct > session.next; mv session.next session",
    );
    assert_eq!(fs::read(session.file()).unwrap(), b"direct\n");
    assert_eq!(file.seen(), []);
    assert_eq!(directory.seen(), []);
    // The watch still works.
    sh(&session.on_mount, "echo new > session");
    let how: Vec<_> = directory.seen().into_iter().map(|(_, how)| how).collect();
    assert_eq!(how, [ReadFlags::MODIFY, ReadFlags::CLOSE_WRITE]);
}

/// A watch on the file itself watches the checkpoint of that time: that it loses its name
/// is reported.
#[test]
fn a_watch_on_the_file_reports_that_it_is_replaced_or_removed() {
    let both = SideBySide::new(Backing::Tmpfs);
    for command in ["echo t > tmp; mv tmp session", "rm session"] {
        let reported = |directory: &Path| {
            // By another process: a child that another test starts has copies of what
            // this process has open, and may close them once the watch is there.
            sh(directory, "echo there > session");
            let watch = Watch::on(&directory.join("session"));
            sh(directory, command);
            watch.seen()
        };
        let expected = reported(&both.plain);
        assert!(!expected.is_empty(), "{command}");
        assert_eq!(reported(&both.session.on_mount), expected, "{command}");
    }
}

/// A save replaces the file, however it is made.
#[test]
fn a_watch_on_the_file_reports_a_save_by_writing() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    let gone = [ReadFlags::DELETE_SELF, ReadFlags::IGNORED];
    for command in [
        // Where there was none, an empty one was shown.
        "echo first > session",
        "echo new > session",
        "echo more >> session",
        "truncate -s 5 session",
        "dd if=/dev/zero of=session bs=1 count=1 conv=notrunc,fsync status=none",
        "sort -o session session",
    ] {
        // Each program looks the file up again, as programs do after such an event.
        let watches = [Watch::on(&session.file()), Watch::on(&session.file())];
        sh(&session.on_mount, command);
        for watch in &watches {
            wait_until("the watch is told", || watch.seen().len() == gone.len());
            let how: Vec<_> = watch.seen().into_iter().map(|(_, how)| how).collect();
            assert_eq!(how, gone, "{command}");
        }
    }
}

#[test]
fn a_watch_on_a_replaced_file_reports_it_when_its_last_reader_has_closed_it() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let (watch, reader) = (Watch::on(&session.file()), fs::File::open(session.file()));
    let mut reader = reader.unwrap();
    fs::write(session.file(), "new").unwrap();
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "old");
    assert_eq!(watch.seen(), []);
    drop(reader);
    wait_until("the watch is told", || watch.seen().len() == 2);
}
