//! The commands on the storage do the same in a repository, beside its mount, and through
//! the mount (DESIGN 1).

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::tools::{self, output_of};
use crate::common::{Backing, Disk, Mount, SESSIONFS, is_full, times};

/// Runs a command with an input; its exit status and what it said.
fn sessionfs(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(SESSIONFS)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that needs no input does not wait for it.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.lines().count() <= 1, "more than a line: {errors}");
    output
}

/// Runs all commands in a repository, given with `-r`; `backing` is the same one beside
/// any mount. Returns the transcript, without the path.
fn everything(repository: &Path, backing: &Path) -> Vec<String> {
    let path = repository.to_str().unwrap();
    let mut transcript = Vec::new();
    let mut run = |expected: i32, arguments: &[&str], input: &[u8]| -> Vec<u8> {
        let arguments = [&[arguments[0], "-r", path], &arguments[1..]].concat();
        let output = sessionfs(&arguments, input);
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {err}");
        assert_eq!(err.is_empty(), expected == 0, "{arguments:?}: {err}");
        transcript.push(format!("{arguments:?}: {expected} {out} {err}").replace(path, "REPO"));
        output.stdout
    };
    assert_eq!(run(0, &["list"], b""), b"");
    for id in ["a", "b", "c d"] {
        assert_eq!(
            run(0, &["create", "--name", id], b""),
            format!("{id}\n").as_bytes()
        );
        assert_eq!(run(0, &["load", id], b""), b"");
    }
    run(5, &["create", "--name", "a"], b"");
    run(5, &["create", "--name", "x/.session"], b"");
    run(3, &["load", "none"], b"");
    run(3, &["save", "none"], b"lost");
    run(3, &["remove", "none"], b"");
    run(3, &["break-lock", "none"], b"");
    run(2, &["load"], b"");

    for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        let content: Vec<u8> = (0..len).map(|n: u32| (n * 7 + n / 251) as u8).collect();
        run(0, &["save", "a"], &content);
        let stored = fs::read(backing.join("a.session/session")).unwrap();
        assert!(
            stored == content,
            "{len} bytes are stored as {}",
            stored.len()
        );
        let loaded = sessionfs(&["load", "-r", path, "a"], b"").stdout;
        assert!(
            loaded == content,
            "{len} bytes are loaded as {}",
            loaded.len()
        );
    }
    run(0, &["save", "b.session"], b"of b");

    for (day, id) in ["b", "c d", "a"].iter().enumerate() {
        let date = format!("2024-01-0{}", day + 1);
        output_of(backing, "touch", &["-d", &date, &format!("{id}.session")]);
    }
    assert_eq!(run(0, &["list"], b""), b"a\nc d\nb\n");
    assert_eq!(run(0, &["list", "-0"], b""), b"a\0c d\0b\0");

    let lock = backing.join("b.session/session.next");
    fs::write(&lock, "foreign").unwrap();
    run(4, &["save", "b"], b"refused");
    assert_eq!(run(0, &["load", "b"], b""), b"of b");
    run(0, &["break-lock", "b"], b"");
    assert!(!lock.exists());
    run(0, &["break-lock", "b"], b"");
    run(0, &["save", "b"], b"saved");
    assert_eq!(run(0, &["load", "b"], b""), b"saved");

    fs::create_dir_all(backing.join("b.session/io-logs/deep")).unwrap();
    fs::write(backing.join("b.session/io-logs/deep/log"), "x").unwrap();
    run(0, &["remove", "b", "c d"], b"");
    run(3, &["remove", "b"], b"");
    assert_eq!(run(0, &["list"], b""), b"a\n");
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|e| e.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!(names(backing), ["a.session"]);
    assert_eq!(names(&backing.join("a.session")), ["session"]);

    // Two in one second, of which one may be in the next.
    let created = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    };
    let create = || created(sessionfs(&["create", "-r", path, "My Nightly-"], b""));
    let (one, two) = (create(), create());
    assert_ne!(one, two);
    for id in [one, two] {
        assert!(backing.join(format!("{id}.session")).is_dir(), "{id}");
        assert!(!id.contains(' '), "{id}");
    }
    transcript
}

#[test]
fn rule_1_the_commands_do_the_same_with_a_mount_and_without() {
    let disk = Disk::new(Backing::Here);
    let repository = disk.path().join("repository");
    let without = everything(&repository, &repository);
    let mount = Mount::new(Backing::Here);
    let beside = everything(&mount.repository, &mount.repository);
    assert_eq!(without, beside);
    drop(mount);
    let mount = Mount::new(Backing::Here);
    let through = everything(&mount.mountpoint, &mount.repository);
    assert_eq!(without, through);
}

#[test]
fn rule_1_a_path_says_where_the_session_is() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    let paths = [session.on_mount.as_path(), session.in_repository.as_path()];
    for (path, other) in [(paths[0], paths[1]), (paths[1], paths[0])] {
        let saved = path.to_str().unwrap();
        assert!(
            sessionfs(&["save", saved], saved.as_bytes())
                .status
                .success()
        );
        let output = sessionfs(&["load", other.to_str().unwrap()], b"");
        assert_eq!(output.stdout, saved.as_bytes());
    }
}

/// Makes a file of a little more than 2 GiB, in an ordinary run 256 MiB. It takes little
/// disk space, and has data at the beginning, around that mark and at the end. Returns
/// its size.
fn large(path: &Path) -> u64 {
    let mark = 1 << if is_full() { 31 } else { 28 };
    let size = mark + (8 << 20);
    let mut file = File::create(path).unwrap();
    for at in [0, mark - 3, size - 7] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(b"content").unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), size);
    size
}

#[test]
fn rule_1_large_saves_are_exact_and_need_little_memory() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    let file = mount.disk.beside("large");
    let size = large(&file);
    // The shell's limit is in KiB of address space.
    let script = format!(
        "ulimit -v 65536
        '{SESSIONFS}' save '{0}' < '{1}' && '{SESSIONFS}' load '{0}' | cmp - '{1}'",
        session.in_repository.display(),
        file.display()
    );
    output_of(
        mount.disk.path(),
        "bash",
        &["-o", "pipefail", "-ec", &script],
    );
    assert_eq!(session.names(), ["session"]);

    // Through the mount: a new one, and in full one that replaces it.
    fs::remove_file(session.checkpoint()).unwrap();
    for _ in 0..times(2) {
        let script = format!("cp '{0}' session; cmp '{0}' session", file.display());
        output_of(&session.on_mount, "bash", &["-ec", &script]);
        let length = fs::metadata(session.checkpoint()).unwrap().len();
        assert_eq!(length, size);
    }
    assert_eq!(session.names(), ["session"]);
    let memory = crate::common::observe::status(mount.pid(), "VmHWM");
    assert!(memory < crate::common::observe::MOST_MEMORY, "{memory} KiB");
}

#[test]
fn rule_1_the_default_location_is_that_of_the_original() {
    let disk = Disk::new(Backing::Here);
    let base = disk.path();
    let file = base.join("file");
    fs::write(&file, "").unwrap();
    let create = |variables: &[(&str, &Path)]| {
        let output = Command::new(SESSIONFS)
            .args(["create", "--name", "a"])
            .current_dir(base)
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"a\n", "{output:?}");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let (named, cache, home) = ("PLAINBOX_SESSION_REPOSITORY", "XDG_CACHE_HOME", "HOME");
    let empty = Path::new("");
    for (variables, place) in [
        (
            vec![(named, Path::new("relative")), (home, base)],
            "relative",
        ),
        (
            vec![(cache, &*base.join("c")), (home, base)],
            "c/plainbox/sessions",
        ),
        (
            vec![(cache, empty), (home, &*base.join("h"))],
            "h/.cache/plainbox/sessions",
        ),
    ] {
        assert_eq!(create(&variables), "");
        assert!(base.join(place).join("a.session").is_dir(), "{place}");
    }
    let warning = create(&[(named, &file), ("TMPDIR", base)]);
    let begin = format!(
        "sessionfs: warning: cannot use the repository {}",
        file.display()
    );
    assert!(warning.starts_with(&begin), "{warning}");
    assert_eq!(warning.lines().count(), 1);
    let fresh = fs::read_dir(base)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("a.session").is_dir() && !path.ends_with("relative"))
        .expect("a temporary directory");
    assert!(warning.contains(fresh.to_str().unwrap()), "{warning}");
}

/// I1: the output would truncate the checkpoint before it is read.
#[test]
fn i1_load_does_not_write_over_the_checkpoint_itself() {
    let disk = Disk::new(Backing::Here);
    let dir = disk.path().join("a.session");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("session"), "saved").unwrap();
    fs::hard_link(dir.join("session"), disk.path().join("link")).unwrap();
    for output in ["a.session/session", "link"] {
        let arguments =
            ["a", "-o", &disk.path().join(output).display().to_string()].map(String::from);
        let refused = tools::sessionfs(disk.path(), "load", arguments);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        assert_eq!(fs::read(dir.join("session")).unwrap(), b"saved");
    }
    let other = disk.path().join("other");
    fs::write(&other, "longer than the checkpoint").unwrap();
    let arguments = ["a", "-o", &other.display().to_string()].map(String::from);
    assert!(
        tools::sessionfs(disk.path(), "load", arguments)
            .status
            .success()
    );
    assert_eq!(fs::read(&other).unwrap(), b"saved");
    let arguments = ["a", "-o", "/dev/null"];
    assert!(
        tools::sessionfs(disk.path(), "load", arguments)
            .status
            .success()
    );
}
