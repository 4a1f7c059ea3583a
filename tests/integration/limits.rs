//! Names, attributes and open files at their limits, and writers that are never closed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use crate::common::observe::{MOST_MEMORY, descriptors, status};
use crate::common::tools::{
    assert_next_save_works, assert_saved, close, errno, names_in, output_of, sessionfs,
};
use crate::common::{Backing, Disk, Mount, is_full};
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};

on_each_filesystem!(
    section_1_names_beyond_their_limit_are_refused_everywhere,
    rule_2_13_a_path_beyond_path_max_is_used_step_by_step,
    rule_2_7_attributes_at_their_limits_are_kept,
);

fn section_1_names_beyond_their_limit_are_refused_everywhere(backing: Backing) {
    let mount = Mount::new(backing);
    let longest = mount.session("x".repeat(247));
    let too_long = format!("{}.session", "y".repeat(248));
    // The temporary names of a save and of a rename do not grow with it.
    assert_next_save_works(&longest);
    let beside = longest.on_mount.join("n".repeat(255));
    fs::write(&beside, "by rename").unwrap();
    fs::rename(&beside, longest.file()).unwrap();
    assert_saved(&longest, "by rename");
    let to = mount.mountpoint.join(&too_long);
    assert_eq!(errno(fs::rename(&longest.on_mount, to)), libc::ENAMETOOLONG);
    let beside = longest.on_mount.join("n".repeat(256));
    assert_eq!(
        errno(fs::rename(longest.file(), &beside)),
        libc::ENAMETOOLONG
    );
    assert_eq!(
        errno(fs::hard_link(longest.file(), &beside)),
        libc::ENAMETOOLONG
    );
    for command in ["load", "save", "remove", "break-lock"] {
        let done = sessionfs(&mount.repository, command, [&too_long]);
        assert_eq!(done.status.code(), Some(5), "{command}: {done:?}");
    }
    let created = sessionfs(&mount.repository, "create", ["z".repeat(240)]);
    assert_eq!(created.status.code(), Some(5), "{created:?}");
    // The longest prefix: a second creation of the same moment needs `_(1)`.
    let prefix = "p".repeat(247 - "2026-01-01T00.00.00".len());
    let created = sessionfs(&mount.repository, "create", [&prefix]);
    assert!(created.status.success(), "{created:?}");
    assert_eq!(names_in(&mount.repository).len(), 2);
    assert_saved(&longest, "by rename");
}

/// A path longer than the kernel takes, used by a working directory that goes down step
/// by step.
fn rule_2_13_a_path_beyond_path_max_is_used_step_by_step(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    assert_next_save_works(&session);
    let program = "
import os
name = 'd' * 255
for depth in range(20):
    os.mkdir(name); os.chdir(name)
    open('session', 'w').write(str(depth))
    open('f' * 255, 'w').write('x')
    assert open('session').read() == str(depth)
try: open('/'.join([name] * 17)); print('opened')
except OSError as e: print(e.errno)";
    let said = output_of(&session.on_mount, "python3", &["-c", program]);
    assert_eq!(said, libc::ENAMETOOLONG.to_string());
    let found = output_of(&session.in_repository, "find", &[".", "-name", "session"]);
    assert_eq!(found.lines().count(), 21);
    let removed = sessionfs(&mount.repository, "remove", ["a"]);
    assert!(removed.status.success(), "{removed:?}");
    assert!(names_in(&mount.mountpoint).is_empty());
}

/// The longest names and values that the filesystem takes, and as many as it takes: each
/// save keeps all of them, even if its mark (DESIGN 3) has no room beside them.
fn rule_2_7_attributes_at_their_limits_are_kept(backing: Backing) {
    let mut mount = Mount::new(backing);
    mount.may_complain = true;
    let session = mount.session("a");
    assert_next_save_works(&session);
    let (file, checkpoint) = (session.file(), session.checkpoint());
    let set = |path: &std::path::Path, name: &str, len| {
        setxattr(path, name, &vec![b'v'; len], XattrFlags::empty())
    };
    // Mount and repository agree at and beyond each limit.
    let ordinary = mount.disk.path().join("ordinary");
    fs::write(&ordinary, "").unwrap();
    let longest = format!("user.{}", "n".repeat(250));
    for (name, len) in [
        (longest.clone(), 10),
        (format!("{longest}n"), 10),
        ("user.big".to_owned(), 65536),
        ("user.big".to_owned(), 65537),
        ("user.medium".to_owned(), 4000),
        ("user.".to_owned(), 1),
        ("unknown.name".to_owned(), 1),
    ] {
        let expected = set(&ordinary, &name, len);
        assert_eq!(set(&file, &name, len), expected, "{} {len}", name.len());
    }
    // Until not even the smallest fits.
    let (mut count, mut refused) = (0, None);
    for len in [100, 10, 0] {
        refused = loop {
            match set(&file, &format!("user.m{count}"), len) {
                Ok(()) if count < 400 => count += 1,
                Ok(()) => break None,
                Err(errno) => break Some(errno),
            }
        };
    }
    let full = refused.map(rustix::io::Errno::raw_os_error);
    assert!(
        matches!(full, None | Some(libc::ENOSPC | libc::E2BIG)),
        "{full:?}"
    );
    let all = |path: &std::path::Path| -> BTreeSet<(Vec<u8>, Vec<u8>)> {
        let mut list = vec![0; 1 << 16];
        let n = listxattr(path, &mut list).unwrap();
        let names = list[..n].split(|&byte| byte == 0).filter(|n| !n.is_empty());
        names
            .map(|name| {
                let mut value = vec![0; 1 << 16];
                let n = getxattr(path, name, &mut value).unwrap();
                (name.to_vec(), value[..n].to_vec())
            })
            .collect()
    };
    let before = all(&checkpoint);
    println!("{backing:?}: {} attributes, then {full:?}", before.len());
    assert_eq!(all(&file), before);
    // A buffer that is too small, and a call that only asks for the length.
    let mut small = [0; 5];
    assert_eq!(
        getxattr(&file, &*longest, &mut small),
        Err(rustix::io::Errno::RANGE)
    );
    assert_eq!(listxattr(&file, &mut small), Err(rustix::io::Errno::RANGE));
    // rustix does not ask for a length.
    let program = "
import ctypes, sys
libc = ctypes.CDLL(None)
path = sys.argv[1].encode()
print(libc.getxattr(path, sys.argv[2].encode(), None, 0), libc.listxattr(path, None, 0))";
    let ask = |path: &std::path::Path| {
        let arguments = ["-c", program, path.to_str().unwrap(), &longest];
        output_of(&session.on_mount, "python3", &arguments)
    };
    assert!(ask(&file).starts_with("10 "), "{}", ask(&file));
    assert_eq!(ask(&file), ask(&checkpoint));
    // The kept attributes fill the block in which our mark would be, too.
    for round in 0..3 {
        let content = format!("round {round}");
        let mut writer = File::create(&file).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
        close(writer).unwrap();
        assert_saved(&session, &content);
        let mode = fs::metadata(&checkpoint).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert_eq!(all(&checkpoint), before);
        assert_eq!(session.names(), ["session"]);
    }
}

/// A python program on a mount, which has printed a line and waits for the end of its
/// input.
fn started(mount: &Mount, arguments: &[String]) -> (Child, String) {
    let mut child = Command::new("python3")
        .arg("-c")
        .args(arguments)
        .current_dir(&mount.mountpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, line)
}

/// Programs that hold files open, each as many as it may.
fn hold(mount: &Mount, name: &str, of: usize, count: usize, mode: &str) -> (Child, usize, String) {
    let program = "
import os, resource, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
name, of, count, flags = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
held, why = [], 'none'
for n in range(count):
    try: held.append(os.open(f'{n % of}.session/{name}'.replace('@', str(n)), flags, 0o644))
    except OSError as e:
        why = str(e.errno)
        break
print(len(held), why, flush=True)
sys.stdin.readline()";
    let flags = match mode {
        "read" => libc::O_RDONLY,
        _ => libc::O_RDWR | libc::O_CREAT,
    };
    let numbers = [of.to_string(), count.to_string(), flags.to_string()];
    let arguments = [&[program.to_owned(), name.to_owned()][..], &numbers].concat();
    let (child, line) = started(mount, &arguments);
    let (held, why) = line.trim().split_once(' ').unwrap();
    let held = held.parse().unwrap();
    (child, held, why.to_owned())
}

fn let_go(holders: Vec<Child>) {
    for mut holder in holders {
        drop(holder.stdin.take());
        assert!(holder.wait().unwrap().success());
    }
}

/// A mount with so many sessions, each with a checkpoint.
fn with_sessions(starter: &[&str], count: usize) -> Mount {
    let disk = Disk::new(Backing::Tmpfs);
    let repository = disk.path().join("repository");
    fs::create_dir(&repository).unwrap();
    for n in 0..count {
        let session = repository.join(format!("{n}.session"));
        fs::create_dir(&session).unwrap();
        fs::write(session.join("session"), n.to_string()).unwrap();
    }
    Mount::started_by(starter, disk, repository, &[])
}

/// A hundred thousand files, kept open by many programs; on several mounts if one process
/// may not have as many descriptors. All of them are given back.
#[test]
fn a_hundred_thousand_files_are_kept_open_and_given_back() {
    let wanted = if is_full() { 100_000 } else { 5_000 };
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    // The daemon keeps a quarter for itself, at most 4,096, and other users can save.
    let each = most.map_or(wanted, |most| {
        let free = most - (most / 4).min(4096) - 100;
        usize::try_from(free).unwrap().min(wanted)
    });
    let (mut mounts, mut holders, mut held) = (Vec::new(), Vec::new(), 0);
    let start = std::time::Instant::now();
    while held < wanted {
        let mount = with_sessions(&[], 100);
        let free = mount.session("free");
        assert_next_save_works(&free);
        let (pid, mut here) = (mount.pid(), 0);
        let (before, memory) = (descriptors(pid).len(), status(pid, "VmRSS"));
        while here < each && held < wanted {
            let piece = (wanted - held).min(each - here).min(2_500);
            let (child, got, why) = hold(&mount, "session", 100, piece, "read");
            holders.push(child);
            assert_eq!((got, &*why), (piece, "none"));
            (held, here) = (held + got, here + got);
        }
        let (descriptors, now) = (descriptors(pid).len(), status(pid, "VmRSS"));
        println!("{here} held: {descriptors} descriptors, {memory} KiB became {now} KiB");
        assert!(now < MOST_MEMORY, "{now} KiB");
        assert_next_save_works(&free);
        mounts.push((mount, free, before));
    }
    println!(
        "{held} held on {} mount(s); {:?}",
        mounts.len(),
        start.elapsed()
    );
    let_go(holders);
    for (mount, free, before) in &mounts {
        mount.assert_descriptors_closed(*before);
        assert_next_save_works(free);
        let read = fs::read_to_string(mount.mountpoint.join("7.session/session"));
        assert_eq!(read.unwrap(), "7");
    }
}

/// The same with fewer descriptors than are asked for: readers, other files and writers.
#[test]
fn too_many_open_files_are_emfile_and_all_work_afterwards() {
    let mut mount = with_sessions(&["prlimit", "--nofile=1200:1200"], 1000);
    mount.may_complain = true;
    let free = mount.session("free");
    assert_next_save_works(&free);
    let before = descriptors(mount.pid()).len();
    for (name, mode) in [
        ("session", "read"),
        ("file-@", "write"),
        ("session", "write"),
    ] {
        let (child, held, why) = hold(&mount, name, 1000, 1000, mode);
        println!("{name} for {mode}: {held} held, then {why}");
        assert!(held > 100, "{name}: {held}");
        assert_eq!(why, libc::EMFILE.to_string(), "{name}");
        let_go(vec![child]);
        mount.assert_descriptors_closed(before);
        assert_next_save_works(&free);
        assert_eq!(
            fs::read_to_string(mount.repository.join("7.session/session")).unwrap(),
            "7"
        );
    }
}

/// A client that never closes its writers: the others can save, and `status` shows its
/// pid, its name and its sessions.
#[test]
fn rule_2_8_status_shows_the_process_that_never_closes() {
    let mount = with_sessions(&[], 20);
    let free = mount.session("free");
    let program = "
import os, sys
held = [open(f'{n}.session/session', 'w') for n in range(20)]
for f in held: f.write('x'); f.flush()
print(flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)";
    let (mut client, _) = started(&mount, &[program.to_owned()]);
    for _ in 0..10 {
        assert_next_save_works(&free);
    }
    let mountpoint = mount.mountpoint.to_str().unwrap();
    let told = output_of(
        &mount.repository,
        crate::common::SESSIONFS,
        &["status", mountpoint],
    );
    for n in 0..20 {
        let saved_by = format!("{n}: being saved by {}", client.id());
        assert!(told.contains(&saved_by), "{saved_by}: {told}");
        let writes = format!(
            "{} (python3) writes {mountpoint}/{n}.session/session",
            client.id()
        );
        assert!(told.contains(&writes), "{writes}: {told}");
        let busy = errno(fs::write(
            mount.mountpoint.join(format!("{n}.session/session")),
            "y",
        ));
        assert_eq!(busy, libc::EBUSY);
        let logged = format!("{n}.session: EBUSY: process {} (python3)", client.id());
        assert_eq!(mount.log().matches(&logged).count(), 1, "{}", mount.log());
    }
    drop(client.stdin.take());
    client.wait().unwrap();
    for n in 0..20 {
        let session = mount.session(n.to_string());
        assert_saved(&session, &n.to_string());
        assert_next_save_works(&session);
    }
}
