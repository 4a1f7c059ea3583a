//! Hostile or broken clients: symlinks swapped under the mount, very many clients, and a
//! daemon with tight limits.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::observe::state;
use crate::common::tools::{assert_next_save_works, assert_saved, close};
use crate::common::{Backing, Disk, Mount, is_full, times, wait_until};
use rustix::fs::{RenameFlags, renameat_with};

/// Everything in a directory: mode, times and content.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let seen = (stat.mode(), stat.ctime(), stat.ctime_nsec(), content);
        all.insert(path, seen);
    }
    all
}

/// Uses everything on the mount that leads to a file by its name, whatever the result.
/// Returns what was read.
fn use_files(directory: &Path, round: u64) -> Vec<u8> {
    let file = directory.join("file");
    let other = directory.join(format!("other-{round}"));
    let mut read = Vec::new();
    match round % 14 {
        0 | 1 => read = fs::read(&file).unwrap_or_default(),
        2 => drop(fs::write(&file, "ours")),
        3 => drop(
            File::options()
                .append(true)
                .open(&file)
                .map(|mut f| f.write_all(b"more")),
        ),
        4 => drop(File::create_new(&other)),
        5 => drop(fs::remove_file(&file)),
        6 => drop(fs::create_dir(&other).and_then(|()| fs::remove_dir(&other))),
        7 => drop(fs::set_permissions(
            &file,
            fs::Permissions::from_mode(0o600),
        )),
        8 => drop(fs::rename(&file, &other).and_then(|()| fs::rename(&other, &file))),
        9 => drop(fs::hard_link(&file, &other)),
        10 => drop(symlink("x", &other)),
        11 => drop(rustix::fs::setxattr(
            &file,
            "user.ours",
            b"1",
            rustix::fs::XattrFlags::empty(),
        )),
        12 => drop(
            File::options()
                .write(true)
                .open(&file)
                .map(|f| f.set_len(1)),
        ),
        _ => {
            let names = fs::read_dir(directory).into_iter().flatten().flatten();
            for name in names.map(|entry| entry.file_name()) {
                assert_ne!(name, "canary-file", "listed from outside");
                if name.as_encoded_bytes().starts_with(b"other-") {
                    drop(fs::remove_file(directory.join(name)));
                }
            }
        }
    }
    read
}

/// Directories and files are exchanged for symlinks that lead out of the
/// repository: there, and not on the mount, where a program would follow them
/// by itself. Nothing outside is read or changed.
#[test]
fn section_1_nothing_outside_is_reached_while_symlinks_are_swapped() {
    let mut mount = Mount::new(Backing::Tmpfs);
    // A checkpoint may be a symlink at some moment, which the daemon logs.
    mount.may_complain = true;
    let canary = mount.disk.path().join("canary");
    fs::create_dir(&canary).unwrap();
    for name in ["file", "session", "canary-file"] {
        fs::write(canary.join(name), "canary").unwrap();
    }
    fs::create_dir(canary.join("logs")).unwrap();
    fs::write(canary.join("logs/file"), "canary").unwrap();
    let session = mount.session("a");
    fs::create_dir(session.in_repository.join("logs")).unwrap();
    fs::write(session.in_repository.join("logs/file"), "ours").unwrap();
    fs::write(session.file(), "ours").unwrap();
    let outside = snapshot(&canary);

    // Each has a symlink beside it, to be exchanged with it; by descriptors of their
    // directories, as the swaps themselves would lead outside otherwise.
    let (repository, inside) = (&mount.repository, &session.in_repository);
    let swapped = [
        (inside.clone(), "logs", "../../canary"),
        (inside.join("logs"), "file", "../../../canary/file"),
        (inside.clone(), "session", "../../canary/session"),
        (repository.clone(), "a.session", "../canary"),
    ]
    .map(|(directory, name, target)| {
        let link = format!("{name}-link");
        symlink(target, directory.join(&link)).unwrap();
        assert!(
            fs::canonicalize(directory.join(&link))
                .unwrap()
                .starts_with(&canary)
        );
        (File::open(directory).unwrap(), name, link)
    });
    let (over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(if is_full() { 60 } else { 4 });
    thread::scope(|scope| {
        for (directory, name, link) in &swapped {
            let (over, swaps) = (&over, &swaps);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let swap =
                        renameat_with(directory, *name, directory, link, RenameFlags::EXCHANGE);
                    swaps.fetch_add(u64::from(swap.is_ok()), Ordering::Relaxed);
                    thread::yield_now();
                }
            });
        }
        let users: Vec<_> = (0..4_u64)
            .map(|user| {
                let directories = [session.on_mount.clone(), session.on_mount.join("logs")];
                let mut done = 0;
                scope.spawn(move || {
                    while Instant::now() < end {
                        for directory in &directories {
                            let read = use_files(directory, done * 4 + user);
                            assert_ne!(read, b"canary", "read from outside");
                        }
                        let session = directories[0].join("session");
                        assert_ne!(fs::read(&session).unwrap_or_default(), b"canary");
                        drop(fs::write(&session, "ours"));
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let ended: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        over.store(true, Ordering::Relaxed);
        let rounds: u64 = ended.into_iter().map(|rounds| rounds.unwrap()).sum();
        println!("{rounds} rounds of use");
    });
    println!("{} swaps", swaps.load(Ordering::Relaxed));
    assert_eq!(snapshot(&canary), outside);
    assert_next_save_works(&mount.session("b"));
}

/// A daemon that may open 64 files answers `EMFILE`, and goes on.
#[test]
fn too_few_descriptors_are_an_error_and_do_not_end_the_daemon() {
    let disk = Disk::new(Backing::Tmpfs);
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    let few = ["prlimit", "--nofile=64:64"];
    let mut mount = Mount::started_by(&few, disk, repository, &["--threads", "4"]);
    mount.may_complain = true;
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let mut open = Vec::new();
    let refused = loop {
        assert!(open.len() < 1000, "nobody is refused");
        let path = session.on_mount.join(format!("file-{}", open.len()));
        match File::create(path) {
            Ok(file) => open.push(file),
            Err(e) => break e,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
    // What a save reports must be true.
    let saved = fs::write(session.file(), "new").is_ok();
    drop(open);
    let expected = if saved { "new" } else { "old" };
    wait_until("files can be opened again", || {
        fs::read(session.file()).is_ok()
    });
    let checkpoint = || fs::read_to_string(session.checkpoint()).unwrap();
    assert_eq!(checkpoint(), expected);
    wait_until("a save works again", || {
        fs::write(session.file(), "newer").is_ok()
    });
    assert_eq!(checkpoint(), "newer");
}

/// Very many processes at once on few sessions.
#[test]
fn rule_2_3_a_flood_of_processes_is_served() {
    let mount = Mount::new(Backing::Tmpfs);
    let sessions: Vec<_> = (0..8).map(|n| mount.session(n.to_string())).collect();
    let script = r#"
i=0
while [ $i -lt "$1" ]; do
    i=$((i + 1))
    echo "$0 $i" > session 2>/dev/null
    cat session > /dev/null || exit 1
    echo "$i" > "file-$0" && rm "file-$0" || exit 2
    ls > /dev/null || exit 3
done"#;
    let rounds = times(50).to_string();
    let processes: Vec<_> = (0..200)
        .map(|number: usize| {
            Command::new("dash")
                .args(["-c", script, &number.to_string(), &rounds])
                .current_dir(&sessions[number % sessions.len()].on_mount)
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    for session in &sessions {
        let last = fs::read_to_string(session.checkpoint()).unwrap();
        assert!(last.ends_with('\n') && last.contains(' '), "{last:?}");
        assert_eq!(session.names(), ["session"]);
    }
}

/// Clients that stop, or never close, hold up only those that want the same session, and
/// can be found out.
#[test]
fn rule_2_8_writers_that_stand_still_hold_up_no_other_session() {
    let mount = Mount::new(Backing::Tmpfs);
    let (held, free) = (mount.session("held"), mount.session("free"));
    fs::write(held.file(), "old").unwrap();
    let mut stopped = Command::new("dash")
        .args(["-c", "exec 3> session; echo x >&3; echo; kill -STOP $$"])
        .current_dir(&held.on_mount)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = stopped.id();
    wait_until("it has stopped", || state(pid) == Some('T'));
    let never_closed: Vec<_> = (0..100)
        .map(|n| {
            let session = mount.session(format!("open-{n}"));
            let mut writer = File::create(session.file()).unwrap();
            writer.write_all(b"unfinished").unwrap();
            writer
        })
        .collect();
    for _ in 0..20 {
        assert_next_save_works(&free);
        let busy = fs::write(held.file(), "new").unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        assert_eq!(fs::read(held.file()).unwrap(), b"old");
    }
    let report = fs::read(mount.mountpoint.join(".sessionfs-status")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let saving = report["saving"].as_array().unwrap();
    assert_eq!(saving.len(), 101, "{report}");
    let of = |session: &str| {
        let mut all = saving.iter();
        let one = all.find(|one| {
            one["session"]
                .as_str()
                .is_some_and(|s| s.starts_with(session))
        });
        one.unwrap()["pid"].as_u64().unwrap()
    };
    assert_eq!(of("held"), u64::from(pid));
    assert_eq!(of("open-7"), u64::from(std::process::id()));
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    assert_saved(&held, "old");
    for writer in never_closed {
        close(writer).unwrap();
    }
    assert_next_save_works(&held);
    let names = fs::read_dir(&mount.mountpoint).unwrap().count();
    assert_eq!(names, 102);
}
