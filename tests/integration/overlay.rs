//! A repository on overlayfs, whose files get another birth time when they are copied up.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{Backing, Disk, SESSIONFS};

/// In a mount namespace of its own: a repository of a lower layer, with files
/// and a working directory in use while they are changed for the first time.
const COPIED_UP: &str = r#"
set -eu
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir -p lower/a.session upper work merged mnt
echo old > lower/a.session/session
echo beside > lower/a.session/file
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged
"$2" mount --log-file log merged mnt
trap 'cd /; "$2" umount --lazy "$1/mnt"' EXIT
exec 3< mnt/a.session/session 4< mnt/a.session/file
cd mnt/a.session
echo new > session
chmod 600 file
# Both are looked up anew, by their names and by that of the directory.
for i in 1 2 3; do ls -d ../a.session; ls > /dev/null; stat -c %a file; sleep 0.4; done
echo more >> file
cat session file
cat <&3
cat <&4
grep -v info: ../../log || true
"#;

#[test]
fn files_in_use_stay_usable_when_they_are_copied_up() {
    let disk = Disk::new(Backing::Here);
    let place = disk.path().join("place");
    fs::create_dir(&place).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c"])
        .args([COPIED_UP, "sh"])
        .arg(&place)
        .arg(SESSIONFS)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let seen = "../a.session\n600\n".repeat(3);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{seen}new\nbeside\nmore\nold\nbeside\nmore\n")
    );
    assert!(output.status.success());
}
