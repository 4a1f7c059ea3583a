//! What ordinary tools show of a mount, and what graphical file managers try to leave in
//! its root.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::common::{Backing, Mount, run, shell, wait_until};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The output of a program, in words, without the paths of the test.
fn words(program: &str, arguments: &[&str], mount: &Mount) -> Vec<String> {
    let said = text(&run(program, arguments).stdout);
    let said = said.replace(mount.mountpoint.to_str().unwrap(), "MOUNT");
    let said = said.replace(mount.repository.to_str().unwrap(), "REPOSITORY");
    said.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn source_type_and_place_are_those_of_the_mount() {
    let mount = Mount::new(Backing::Tmpfs);
    mount.session("a");
    let place = mount.mountpoint.to_str().unwrap();

    let shown = words("df", &["--output=source,fstype,target", place], &mount);
    let of_mount = ["REPOSITORY", "fuse.sessionfs", "MOUNT"];
    assert_eq!(shown[shown.len() - 3..], of_mount);
    let sizes = |path: &Path| {
        let shown = run("df", [Path::new("--output=size,itotal"), path]);
        text(&shown.stdout).lines().last().map(str::to_owned)
    };
    assert_eq!(sizes(&mount.mountpoint), sizes(&mount.repository));

    let columns = ["-n", "-o", "SOURCE,FSTYPE,TARGET", place];
    assert_eq!(words("findmnt", &columns, &mount), of_mount);

    let all = text(&run("mount", ["-t", "fuse.sessionfs"]).stdout);
    let line = all.lines().find(|line| line.contains(place)).unwrap();
    let repository = mount.repository.to_str().unwrap();
    let expected = format!("{repository} on {place} type fuse.sessionfs (rw,nosuid,nodev,");
    assert!(line.starts_with(&expected), "{line}");

    let listed = words("ls", &["-l", "--time-style=+", place], &mount);
    assert_eq!(listed[0], "total");
    assert_eq!(listed[2], "drwxr-xr-x");
    assert_eq!(listed.last().unwrap(), "a.session");
    assert_eq!(
        words("stat", &["-f", "-c", "%T", place], &mount),
        ["fuseblk"]
    );
}

#[test]
fn processes_with_a_checkpoint_open_are_found_by_its_path() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let own = std::process::id().to_string();
    let path = session.file();
    for is_writer in [false, true] {
        let open = if is_writer {
            File::options().write(true).open(&path).unwrap()
        } else {
            File::open(&path).unwrap()
        };
        let shown = text(&run("lsof", ["-w", "-F", "pan", path.to_str().unwrap()]).stdout);
        let expected = format!("p{own}\n");
        assert!(shown.contains(&expected), "{shown}");
        let access = if is_writer { "\naw\n" } else { "\nar\n" };
        assert!(shown.contains(access), "{shown}");
        assert!(shown.contains(&format!("n{}", path.display())), "{shown}");
        // If it may not look at a process, it says so, and fails.
        for of_mount in [false, true] {
            let mut fuser = Command::new("fuser");
            if of_mount {
                fuser.arg("-m").arg(&mount.mountpoint);
            } else {
                fuser.arg(&path);
            }
            let shown = text(&fuser.output().unwrap().stdout);
            let mut pids = shown.split_whitespace();
            assert!(pids.any(|pid| pid == own), "{of_mount} {shown}");
        }
        drop(open);
    }
}

/// The trash and the probes of file managers: they cannot be made in the root, and do not
/// fill the log.
#[test]
fn file_managers_are_refused_in_the_root_without_log_lines() {
    let mount = Mount::with(Backing::Here, &["--log-level", "info"]);
    let session = mount.session("a");
    fs::write(session.on_mount.join("file"), "kept").unwrap();
    // A mount can be used before its log says so.
    wait_until("the log begins", || mount.log().contains("is mounted on"));
    let before = mount.log();

    let trashed = Command::new("gio")
        .arg("trash")
        .arg(session.on_mount.join("file"))
        .output()
        .unwrap();
    assert!(!trashed.status.success(), "{trashed:?}");
    let root = &mount.mountpoint;
    let probes = [
        "test ! -e .Trash",
        "! mkdir .Trash-1000",
        "! mkdir .Trash-1000/files",
        "test ! -e .xdg-volume-info",
        "! cat .xdg-volume-info",
        "test ! -e autorun.inf",
        "test ! -e .hidden",
        "! touch .hidden",
        "test ! -e .DS_Store",
        "! mkdir .thumbnails",
        "! touch .directory",
    ];
    for probe in probes {
        let output = shell("sh", root, probe);
        assert!(output.status.success(), "{probe}: {output:?}");
    }
    let names: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["a.session"]);
    assert_eq!(fs::read(session.on_mount.join("file")).unwrap(), b"kept");
    assert_eq!(mount.log(), before);
}
