//! Filesystems of other kinds for a repository.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::mkfs::mkfs;
use super::tools::Helper;
use super::{Backing, Disk, Mount, is_mounted, run, wait_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Tmpfs,
    /// overlayfs with its upper layer on tmpfs; the repository is in a
    /// directory that is in both layers.
    OverlayOnTmpfs,
    /// The same on ext4.
    OverlayOnExt4,
    /// A subvolume.
    Btrfs,
    /// No extended attributes, no file handles, no birth times.
    Ramfs,
    /// No `O_TMPFILE`.
    Bindfs,
    /// No extended attributes either, and modes cannot be changed: the only possible mark
    /// is a mode given at the creation, which is dropped.
    BindfsWithoutMark,
    /// sshfs, with an sshd of its own.
    Sshfs,
}

/// A directory on such a filesystem, which is removed when this is dropped.
pub struct Place {
    pub path: PathBuf,
    mounts: Vec<PathBuf>,
    // Ended after the mounts, in this order.
    helpers: Vec<Helper>,
    disk: Disk,
}

impl Place {
    pub fn new(home: Home) -> Self {
        let disk = Disk::new(match home {
            Home::Tmpfs | Home::OverlayOnTmpfs => Backing::Tmpfs,
            Home::OverlayOnExt4 => Backing::Ext4,
            _ => Backing::Here,
        });
        let mut place = Self {
            path: disk.path().join("home"),
            mounts: Vec::new(),
            helpers: Vec::new(),
            disk,
        };
        fs::create_dir(&place.path).unwrap();
        match home {
            Home::Tmpfs => {}
            Home::OverlayOnTmpfs | Home::OverlayOnExt4 => place.overlay(),
            Home::Btrfs => place.btrfs(),
            Home::Ramfs => place.mount(&["-t", "ramfs", "ramfs"]),
            Home::Bindfs => place.bindfs(&[]),
            Home::BindfsWithoutMark => place.bindfs(&["--xattr-none", "--chmod-ignore"]),
            Home::Sshfs => place.sshfs(),
        }
        place
    }

    /// The directory that bindfs shows, or sshd serves.
    pub fn source(&self) -> PathBuf {
        self.disk.path().join("source")
    }

    fn beside(&self, name: &str) -> PathBuf {
        let path = self.disk.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn mount(&mut self, arguments: &[&str]) {
        let path = self.path.to_str().unwrap();
        run("mount", arguments.iter().copied().chain([path]));
        self.mounts.push(self.path.clone());
    }

    fn overlay(&mut self) {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| self.beside(name));
        // In both layers: a merged directory does not count links.
        fs::create_dir(lower.join("repository")).unwrap();
        let option = |name, path: &Path| format!("{name}dir={}", path.display());
        let options = [("lower", &lower), ("upper", &upper), ("work", &work)]
            .map(|(name, path)| option(name, path));
        self.mount(&["-t", "overlay", "-o", &options.join(","), "overlay"]);
    }

    fn btrfs(&mut self) {
        let image = self.disk.path().join("image");
        mkfs("mkfs.btrfs", &["-q"], &image, 256 << 20);
        self.mount(&["-o", "loop", image.to_str().unwrap()]);
        let subvolume = self.path.join("subvolume");
        let create = ["subvolume", "create", subvolume.to_str().unwrap()];
        run("btrfs", create);
        self.path = subvolume;
    }

    fn bindfs(&mut self, options: &[&str]) {
        let source = self.beside("source");
        let mut bindfs = Command::new("bindfs");
        bindfs.arg("-f").args(options).arg(source).arg(&self.path);
        self.serve(&mut bindfs);
    }

    /// Starts the server of a mount, and waits until it is mounted.
    fn serve(&mut self, server: &mut Command) {
        self.helpers.push(Helper::start(server));
        self.mounts.push(self.path.clone());
        wait_until("the filesystem is mounted", || is_mounted(&self.path));
    }

    fn sshfs(&mut self) {
        let source = self.beside("source");
        let keys = self.beside("keys");
        let key = |name: &str| keys.join(name).to_str().unwrap().to_owned();
        for name in ["host", "user"] {
            let arguments = ["-q", "-t", "ed25519", "-N", "", "-f"];
            run("ssh-keygen", arguments.into_iter().chain([&*key(name)]));
        }
        // The port is free now; sshd cannot be given an open socket.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let settings = [
            "ListenAddress 127.0.0.1".to_owned(),
            format!("Port {port}"),
            format!("HostKey {}", key("host")),
            format!("AuthorizedKeysFile {}", key("user.pub")),
            // Other users may change the directories above (/tmp).
            "StrictModes no".to_owned(),
            "UsePAM no".to_owned(),
            "PasswordAuthentication no".to_owned(),
            "PermitRootLogin prohibit-password".to_owned(),
            "PidFile none".to_owned(),
            "Subsystem sftp internal-sftp".to_owned(),
        ];
        fs::write(keys.join("sshd_config"), settings.join("\n") + "\n").unwrap();
        // sshd wants a directory that its service makes; this one gets its own.
        let sshd = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f";
        let log = fs::File::create(keys.join("sshd.log")).unwrap();
        let sshd = Helper::start(
            Command::new("unshare")
                .args(["--mount", "--propagation", "slave", "sh", "-c"])
                .args([&format!("{sshd} {}", key("sshd_config"))])
                .stderr(log),
        );
        wait_until("sshd listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let known = keys.join("known_hosts");
        let options = format!(
            "IdentityFile={},UserKnownHostsFile={},StrictHostKeyChecking=no",
            key("user"),
            known.display()
        );
        let mut sshfs = Command::new("sshfs");
        sshfs
            .args(["-f", "-p", &port.to_string(), "-o", &options])
            .arg(format!("root@127.0.0.1:{}", source.display()))
            .arg(&self.path)
            .stderr(Stdio::null());
        self.serve(&mut sshfs);
        // After sshfs.
        self.helpers.push(sshd);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in self.mounts.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(path).status();
        }
    }
}

/// A mounted repository in such a place. The fields are dropped in this order.
pub struct Settled {
    pub mount: Mount,
    pub place: Place,
}

impl Settled {
    pub fn new(home: Home) -> Self {
        Self::started_by(&[], home)
    }

    /// With a program that starts the daemon.
    pub fn started_by(starter: &[&str], home: Home) -> Self {
        let place = Place::new(home);
        let repository = place.path.join("repository");
        fs::create_dir_all(&repository).unwrap();
        let disk = Disk::new(Backing::Here);
        let mount = Mount::started_by(starter, disk, repository, &[]);
        Self { mount, place }
    }
}
