//! What a session without a checkpoint shows: an empty `session`, which becomes a real
//! file when it is renamed or linked; or nothing, with `--missing absent` (DESIGN 1,
//! load).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::common::saves::{PYTHON_PAUSE, Running, Saves, kill};
use crate::common::tools::{
    assert_next_save_works, assert_saved, close, errno, names_in, output_of, python, save,
};
use crate::common::{Backing, Mount, SESSIONFS, Session, shell, wait_until};

on_each_filesystem!(
    section_1_what_is_shown_becomes_a_real_file,
    section_1_what_is_absent_is_made_as_in_a_directory,
    section_1_tools_that_replace_nothing_work_where_it_is_absent,
);

const ABSENT: [&str; 2] = ["--missing", "absent"];

/// The output of a shell line in a session's directory; the line must succeed.
fn run(session: &Session, line: &str) -> String {
    output_of(&session.on_mount, "bash", &["-ec", line])
}

/// All ways to rename or link the shown file, or another file to its name.
const RENAMED: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags) < 0:
        raise OSError(ctypes.get_errno(), a)
def link(fd, name):
    if libc.linkat(fd, b'', -100, name.encode(), 0x1000) < 0:
        raise OSError(ctypes.get_errno(), name)
open('there', 'w').write('there')
os.mkdir('dir')
";

fn section_1_what_is_shown_becomes_a_real_file(backing: Backing) {
    let mount = Mount::new(backing);
    // Each line, and the files afterwards with their content.
    let ways = [
        ("os.rename('session', 'x')", "dir session= there=there x="),
        ("os.rename('session', 'there')", "dir session= there="),
        ("os.rename('session', 'dir/x')", "dir session= there=there"),
        ("rename('session', 'x', 1)", "dir session= there=there x="),
        ("rename('session', 'there', 2)", "dir session=there there="),
        ("rename('there', 'session', 2)", "dir session=there there="),
        ("os.link('session', 'x')", "dir session= there=there x="),
        (
            "link(os.open('session', os.O_RDONLY), 'x')",
            "dir session= there=there x=",
        ),
        // These replace it as ever.
        ("os.rename('there', 'session')", "dir session=there"),
        ("rename('there', 'session', 1)", "dir session=there"),
        (
            "os.link('there', 'session')",
            "dir session=there there=there",
        ),
    ];
    let content = |directory: &Path| -> String {
        let names = names_in(directory).into_iter().map(|name| {
            let path = directory.join(&name);
            let name = name.to_string_lossy().into_owned();
            match fs::read_to_string(path) {
                Ok(content) => format!("{name}={content}"),
                Err(_) => name,
            }
        });
        names.collect::<Vec<_>>().join(" ")
    };
    for (number, (way, expected)) in ways.into_iter().enumerate() {
        let session = mount.session(number.to_string());
        python(&session.on_mount, &format!("{RENAMED}{way}"));
        assert_eq!(content(&session.on_mount), expected, "{way}");
        // What is left is no lock, and no hidden file.
        let names = session.names();
        let is_known = |name: &String| ["dir", "session", "there", "x"].contains(&&**name);
        assert!(names.iter().all(is_known), "{way}: {names:?}");
        assert_eq!(
            names.contains(&"x".to_owned()),
            expected.contains("x="),
            "{way}"
        );
        if way.contains("dir/x") {
            assert_eq!(fs::read(session.in_repository.join("dir/x")).unwrap(), b"");
        }
    }
    // By commands, with the permissions of a new file.
    let session = mount.session("a");
    run(&session, "umask 027; mv session x; ln session y");
    assert_eq!(run(&session, "stat -c %a:%s x y"), "640:0\n640:0");
    assert_saved(&session_without(&session, &["x", "y"]), "");
    assert_next_save_works(&session);
    // An exchange between two sessions, one of which has a checkpoint.
    let (one, two) = (mount.session("one"), mount.session("two"));
    save(one.file(), "one").unwrap();
    let exchange = "rename('one.session/session', 'two.session/session', 2)";
    let program = RENAMED.replace("open('there', 'w').write('there')\nos.mkdir('dir')\n", "");
    python(&mount.mountpoint, &format!("{program}{exchange}"));
    assert_saved(&two, "one");
    assert_saved(&one, "");
}

/// The session, once these other files are removed.
fn session_without(session: &Session, files: &[&str]) -> Session {
    for file in files {
        fs::remove_file(session.on_mount.join(file)).unwrap();
    }
    session.clone()
}

fn section_1_what_is_absent_is_made_as_in_a_directory(backing: Backing) {
    let mount = Mount::with(backing, &ABSENT);
    let session = mount.session("a");
    let file = session.file();
    let is_absent = || {
        assert_eq!(errno(fs::symlink_metadata(&file)), libc::ENOENT);
        assert_eq!(errno(File::open(&file)), libc::ENOENT);
        assert_eq!(
            errno(File::options().append(true).open(&file)),
            libc::ENOENT
        );
        assert_eq!(
            errno(fs::rename(&file, session.on_mount.join("x"))),
            libc::ENOENT
        );
        assert_eq!(
            errno(fs::hard_link(&file, session.on_mount.join("x"))),
            libc::ENOENT
        );
        assert_eq!(errno(fs::remove_file(&file)), libc::ENOENT);
        assert_eq!(names_in(&session.on_mount), [""; 0]);
        assert_eq!(session.names(), [""; 0]);
    };
    is_absent();
    // The first save is seen when it is closed (2.2, 2.4); a second writer gets EBUSY
    // (2.8).
    let mut saves = Saves::of(&session);
    let mut writer = File::create(&file).unwrap();
    writer.write_all(b"first").unwrap();
    assert_eq!(
        run(&session, "ls; test -e session || echo absent"),
        "absent"
    );
    let second = shell("bash", &session.on_mount, "echo second > session");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("Device or resource busy"), "{said}");
    close(writer).unwrap();
    assert_saved(&session, "first");
    assert_eq!(saves.count(), 1);
    assert_eq!(run(&session, "ls"), "session");

    // After a removal it is absent for all when the process has ended (2.12).
    run(&session, "rm session");
    wait_until("it is removed", || session.names().is_empty());
    is_absent();
    // A killed writer makes none (2.6).
    let script =
        format!("{PYTHON_PAUSE}f = open('session', 'w'); f.write('x'); f.flush(); pause()");
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    running.told();
    kill("KILL", &running.pid.to_string());
    running.finish();
    is_absent();
    // A checkpoint made or removed in the repository is seen at once (2.10).
    for _ in 0..20 {
        fs::write(session.checkpoint(), "direct").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "direct");
        fs::remove_file(session.checkpoint()).unwrap();
        is_absent();
    }
    // An open for reading that creates it (flock(1)) keeps no writer out.
    let line = "flock session sh -c 'cat session; echo x > session'; cat session; rm session";
    assert_eq!(run(&session, line), "x");
    wait_until("it is removed", || session.names().is_empty());
    let line = "umask 026; touch session; stat -c %a session";
    assert_eq!(run(&session, line), "640");
    assert_saved(&session, "");
    // The commands read a missing checkpoint as empty, as always.
    mount.session("b");
    let loaded = output_of(&mount.repository, SESSIONFS, &["load", "-r", ".", "b"]);
    assert_eq!(loaded, "");
    run(&session, "rm -r ../a.session ../b.session");
    assert_eq!(fs::read_dir(&mount.repository).unwrap().count(), 0);
}

fn section_1_tools_that_replace_nothing_work_where_it_is_absent(backing: Backing) {
    let mount = Mount::with(backing, &ABSENT);
    let emacs = "emacs -Q --batch --eval '(progn (setq backup-enable-predicate (lambda (_) t))
        (find-file \"session\") (insert \"NEW\") (save-buffer))' 2>&1";
    let lines = [
        (
            "echo saved > x; bzip2 < x > session.bz2; rm x; bunzip2 session.bz2",
            "saved\n",
        ),
        (
            "echo saved > x; zstd -q --rm x -o session.zst; zstd -qd --rm session.zst",
            "saved\n",
        ),
        ("set -C; echo saved > session", "saved\n"),
        (
            "if [ -e session ]; then echo old; else echo saved; fi > x; mv -n x session",
            "saved\n",
        ),
        (&emacs.replace("NEW", "saved"), "saved"),
        ("echo saved > x; cp -n x session; rm x", "saved\n"),
        ("printf saved | install -m 644 /dev/stdin session", "saved"),
    ];
    for (number, (line, expected)) in lines.into_iter().enumerate() {
        let session = mount.session(number.to_string());
        run(&session, line);
        assert_saved(&session, expected);
    }
}

/// To make a backup, Emacs renames the file it finds, which is the shown one.
#[test]
fn section_1_the_first_save_of_emacs_with_backups_works_where_it_is_shown() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    let line = "emacs -Q --batch --eval '(progn (setq backup-enable-predicate (lambda (_) t))
        (find-file \"session\") (insert \"saved\") (save-buffer))' 2>&1";
    run(&session, line);
    assert_eq!(
        fs::read_to_string(session.on_mount.join("session~")).unwrap(),
        ""
    );
    fs::remove_file(session.on_mount.join("session~")).unwrap();
    assert_saved(&session, "saved");
}

#[test]
fn section_1_what_is_missing_is_an_option_of_the_mount() {
    for (options, is_shown) in [
        (&["-o", "missing=absent"][..], false),
        (&["--missing=absent"], false),
        (&["-o", "missing=empty"], true),
        (&["--missing=absent", "-o", "missing=empty"], true),
        (&[], true),
    ] {
        let mount = Mount::with(Backing::Here, options);
        let session = mount.session("a");
        assert_eq!(session.file().exists(), is_shown, "{options:?}");
    }
    let mut wrong = Command::new(SESSIONFS);
    let said = wrong
        .args(["mount", "-o", "missing=gone", "x", "y"])
        .output();
    let said = String::from_utf8(said.unwrap().stderr).unwrap();
    assert!(said.contains("[possible values: empty, absent]"), "{said}");
}
