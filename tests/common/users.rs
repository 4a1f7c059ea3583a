//! Users that are not root, and mounts that let them in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{Backing, Mount};

/// Who runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Root,
    /// 61001, and in the group 61010.
    Ann,
    /// 61002, and in the group 61010.
    Bob,
    /// 61003, and in no other group.
    Cid,
}

/// A command in a directory, run by a user.
pub fn run_as(user: User, directory: &Path, command: &str) -> Output {
    let ids: &[&str] = match user {
        User::Root => &[],
        User::Ann => &["--reuid=61001", "--regid=61001", "--groups=61010"],
        User::Bob => &["--reuid=61002", "--regid=61002", "--groups=61010"],
        User::Cid => &["--reuid=61003", "--regid=61003", "--clear-groups"],
    };
    Command::new("setpriv")
        .args(ids)
        .args(["dash", "-c", command])
        .current_dir(directory)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A mount for everybody.
pub fn shared_mount(backing: Backing) -> Mount {
    let mount = Mount::with(backing, &["--allow-other"]);
    let open = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    open(&mount.disk.beside("."), 0o755).unwrap();
    open(mount.disk.path(), 0o755).unwrap();
    open(&mount.repository, 0o1777).unwrap();
    mount
}

/// Exit status and what was printed.
pub fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    format!("{:?}: {out}{err}", output.status.code())
}
