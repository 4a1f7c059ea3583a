//! Checks before a mount: that it can do no harm, and that it makes sense. Makes the
//! mountpoint if it is missing.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::attach;
use super::error::{Error, Kind, Result, Unmount};
use super::table::Location;
use crate::repo::SessionName;

/// How long to wait for another process that is mounting there, and how often to
/// look.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);

/// How many dead mounts on top of each other are removed at most.
const MOST_DEAD: usize = 64;

/// A repository and a mountpoint that have passed the checks, without symlinks.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) repository: PathBuf,
    pub(super) mountpoint: PathBuf,
    /// The directories that were made for this mount, the outermost first. They are
    /// removed when this value is dropped.
    created: Vec<PathBuf>,
    turn: Option<UnixListener>,
}

impl Place {
    /// Lets the next process mount there: this mount is made, or has failed.
    pub(super) fn end_turn(&mut self) {
        self.turn = None;
    }

    /// The mount has succeeded: the mountpoint stays.
    pub(super) fn keep(&mut self) {
        self.created.clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for dir in self.created.iter().rev() {
            if let Err(e) = fs::remove_dir(dir) {
                log::warn!("{} stays behind: {e}", dir.display());
            }
        }
    }
}

/// Checks absolute paths and prepares the mountpoint. A dead mount of ours on it is
/// removed, and reported through `warn`.
pub(super) fn prepare(
    repository: &Path,
    mountpoint: &Path,
    nonempty: bool,
    warn: &dyn Fn(&str),
) -> Result<Place> {
    let repository = find_repository(repository)?;
    let turn = take_turn(mountpoint);
    let (mountpoint, exists) = find_mountpoint(mountpoint, warn)?;
    check_apart(&repository, &mountpoint)?;
    if exists && !nonempty {
        check_empty(&mountpoint)?;
    }
    let mut place = Place {
        repository,
        mountpoint,
        created: Vec::new(),
        turn,
    };
    if !exists {
        create(&mut place)?;
    }
    Ok(place)
}

/// Refuses as a repository what is something else: a file, or a session.
pub fn check_repository(path: &Path) -> Result<()> {
    let refused = |reason: &str| {
        Err(Error::refused(format!(
            "cannot use the repository {}: {reason}",
            path.display()
        )))
    };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return refused("it is not a directory"),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return refused("a part of its path is not a directory");
        }
        // Other errors are reported when the repository is used.
        _ => {}
    }
    let resolved = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_session = resolved
        .file_name()
        .is_some_and(|name| SessionName::new(name).is_ok());
    if is_session {
        return refused("it is a session by its name; its repository is the directory above it");
    }
    Ok(())
}

/// The repository without symlinks. It may be missing.
fn find_repository(path: &Path) -> Result<PathBuf> {
    let cannot =
        |e: io::Error| Error::failed(format!("cannot use the repository {}: {e}", path.display()));
    let refused = |reason: &str| {
        Error::refused(format!(
            "cannot use the repository {}: {reason}",
            path.display()
        ))
    };
    check_repository(path)?;
    match fs::metadata(path) {
        // An unreadable directory is better reported now than by every access.
        Ok(_) => fs::read_dir(path)
            .and_then(|_| fs::canonicalize(path))
            .map_err(cannot),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(refused("it is a symlink whose target does not exist"));
            }
            resolve_missing(path).map_err(cannot)
        }
        Err(e) => Err(cannot(e)),
    }
}

/// The mountpoint without symlinks, and whether it exists.
fn find_mountpoint(path: &Path, warn: &dyn Fn(&str)) -> Result<(PathBuf, bool)> {
    let cannot = |e: io::Error| Error::failed(format!("cannot mount on {}: {e}", path.display()));
    let refused =
        |reason: &str| Error::refused(format!("cannot mount on {}: {reason}", path.display()));
    for _ in 0..MOST_DEAD {
        let location = match Location::of(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(refused("it is a symlink whose target does not exist"));
                }
                let resolved = resolve_missing(path).map_err(cannot)?;
                return Ok((resolved, false));
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(refused("a part of the path is not a directory"));
            }
            other => other.map_err(cannot)?,
        };
        let Some(entry) = location.mounted_here().filter(|entry| entry.is_ours()) else {
            return match fs::metadata(&location.path) {
                Ok(metadata) if metadata.is_dir() => Ok((location.path, true)),
                Ok(_) => Err(refused("it is not a directory")),
                // Not removed: another program's user may want to examine it.
                Err(e) if e.kind() == io::ErrorKind::NotConnected => Err(refused(
                    "a dead mount of another program is there (umount removes it)",
                )),
                Err(e) => Err(cannot(e)),
            };
        };
        let source = Path::new(&entry.source).display();
        if !attach::is_dead(&location.path) {
            return Err(refused(&format!(
                "sessionfs has mounted {source} there already (sessionfs umount ends that)"
            )));
        }
        match attach::unmount(&location.path, true) {
            Ok(()) => warn(&format!(
                "removed the dead mount of {source} on {}",
                location.path.display()
            )),
            Err(Unmount::Busy) => return Err(refused("a dead mount there cannot be removed")),
            Err(Unmount::Failed(reason)) => {
                return Err(refused(&format!(
                    "a dead mount there cannot be removed: {reason}"
                )));
            }
        }
    }
    Err(refused("too many dead mounts are on top of each other"))
}

/// Keeps other processes from mounting there until this one is done. Otherwise two
/// could find the same dead mount, and the second could detach what the first has just
/// mounted.
///
/// It is a name in the abstract namespace (unix(7)), which needs no file and vanishes
/// with the process. If it stays taken for long, the mount goes on without it, and
/// checks afterwards whether it lies on another one.
fn take_turn(mountpoint: &Path) -> Option<UnixListener> {
    let mut hasher = DefaultHasher::new();
    // The mountpoint itself is not looked at: what is mounted there may be dead.
    let parent = mountpoint.parent().unwrap_or(mountpoint);
    fs::canonicalize(parent).ok().hash(&mut hasher);
    mountpoint.file_name().hash(&mut hasher);
    let name = format!("sessionfs/mounting/{:016x}", hasher.finish());
    let address = SocketAddr::from_abstract_name(name).ok()?;
    let start = Instant::now();
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(turn) => return Some(turn),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PATIENCE => {
                thread::sleep(TICK);
            }
            Err(e) => {
                log::debug!(
                    "{}: mounting without waiting for others: {e}",
                    mountpoint.display()
                );
                return None;
            }
        }
    }
}

/// Resolves a path that does not exist: the part that exists without symlinks, and the
/// rest unchanged.
fn resolve_missing(path: &Path) -> io::Result<PathBuf> {
    for ancestor in path.ancestors().skip(1) {
        let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
        match fs::canonicalize(ancestor) {
            Ok(existing) => return Ok(join(existing, rest)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(path.to_owned())
}

/// Joins them; `..` in the rest removes the component before it.
fn join(mut path: PathBuf, rest: &Path) -> PathBuf {
    for component in rest.components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// Refuses a mount inside its repository, which would show itself, and a repository
/// inside its mountpoint, which the mount would hide.
fn check_apart(repository: &Path, mountpoint: &Path) -> Result<()> {
    let problem = match (
        lies_in(mountpoint, repository),
        lies_in(repository, mountpoint),
    ) {
        (true, true) => "it is the repository itself",
        (true, false) => "it lies inside the repository",
        (false, true) => "the repository lies inside it",
        (false, false) => return Ok(()),
    };
    Err(Error::refused(format!(
        "cannot mount {} on {}: {problem}; choose a directory elsewhere",
        repository.display(),
        mountpoint.display()
    )))
}

/// Whether a path is the other one or below it, by name or as another name of the same
/// directory (a bind mount).
fn lies_in(inner: &Path, outer: &Path) -> bool {
    if inner.starts_with(outer) {
        return true;
    }
    let id = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let outer = id(outer);
    outer.is_some() && inner.ancestors().any(|ancestor| id(ancestor) == outer)
}

fn check_empty(mountpoint: &Path) -> Result<()> {
    let cannot = |reason: String| format!("cannot mount on {}: {reason}", mountpoint.display());
    match fs::read_dir(mountpoint).map(|mut entries| entries.next()) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Error::refused(cannot(
            "it is not empty (--nonempty hides what is in it)".into(),
        ))),
        Err(e) => Err(Error::failed(cannot(e.to_string()))),
    }
}

fn create(place: &mut Place) -> Result<()> {
    let missing: Vec<PathBuf> = place
        .mountpoint
        .ancestors()
        .take_while(|path| !path.exists())
        .map(Path::to_owned)
        .collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(&dir) {
            Ok(()) => place.created.push(dir),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(e) => {
                return Err(Error::new(
                    Kind::Failed,
                    format!("cannot make the mountpoint {}: {e}", dir.display()),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn check(repository: &Path, mountpoint: &Path) -> Result<Place> {
        prepare(repository, mountpoint, false, &|warning| {
            panic!("{warning}")
        })
    }

    fn refusal(repository: &Path, mountpoint: &Path) -> String {
        let error = check(repository, mountpoint).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        error.to_string()
    }

    /// A resolved temporary directory with `repo` and `mnt` in it.
    fn dirs() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir(base.join("repo")).unwrap();
        fs::create_dir(base.join("mnt")).unwrap();
        (dir, base)
    }

    #[test]
    fn a_mount_and_its_repository_must_lie_apart() {
        let (_dir, base) = dirs();
        let (repo, mnt) = (base.join("repo"), base.join("mnt"));
        assert!(check(&repo, &mnt).is_ok());
        assert!(check(&repo, &base.join("repo2")).is_ok());
        assert!(refusal(&repo, &repo).contains("the repository itself"));
        assert!(refusal(&repo, &repo.join("new/er")).contains("inside the repository"));
        assert!(!repo.join("new").exists());
        assert!(refusal(&mnt.join("new/er"), &mnt).contains("lies inside it"));
        assert!(refusal(&base.join("new/er"), &base.join("new")).contains("lies inside it"));
        assert!(refusal(&base.join("new"), &base.join("x/../new")).contains("itself"));
        symlink(&repo, base.join("link")).unwrap();
        let through = base.join("link");
        assert!(refusal(&through, &repo).contains("the repository itself"));
        assert!(refusal(&repo, &through.join("sub")).contains("inside the repository"));
        assert!(refusal(&through.join("sub"), &repo).contains("lies inside it"));
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let (_dir, base) = dirs();
        let (repo, mnt) = (base.join("repo"), base.join("mnt"));
        let file = base.join("file");
        fs::write(&file, "").unwrap();
        symlink("nowhere", base.join("dangling")).unwrap();
        for bad in [&file, &file.join("sub"), &base.join("dangling")] {
            refusal(bad, &mnt);
            refusal(&repo, bad);
        }
        assert!(!base.join("nowhere").exists());
    }

    #[test]
    fn a_mountpoint_with_something_in_it_needs_an_option() {
        let (_dir, base) = dirs();
        let (repo, mnt) = (base.join("repo"), base.join("mnt"));
        fs::write(mnt.join("file"), "").unwrap();
        assert!(refusal(&repo, &mnt).contains("--nonempty"));
        assert!(prepare(&repo, &mnt, true, &|_| {}).is_ok());
    }

    #[test]
    fn a_missing_mountpoint_stays_only_if_the_mount_succeeds() {
        let (_dir, base) = dirs();
        let (repo, mnt) = (base.join("repo"), base.join("a/b/c"));
        let place = check(&repo, &mnt).unwrap();
        assert!(mnt.is_dir());
        drop(place);
        assert!(!base.join("a").exists());
        check(&repo, &mnt).unwrap().keep();
        assert!(mnt.is_dir());
        let place = check(&repo, &base.join("mnt")).unwrap();
        drop(place);
        assert!(base.join("mnt").exists(), "not made by us");
    }

    #[test]
    fn symlinks_are_resolved_and_a_repository_may_be_missing() {
        let (_dir, base) = dirs();
        symlink(base.join("mnt"), base.join("link")).unwrap();
        let place = check(&base.join("none/at all"), &base.join("link")).unwrap();
        assert_eq!(place.mountpoint, base.join("mnt"));
        assert_eq!(place.repository, base.join("none/at all"));
        assert!(!base.join("none").exists());
    }
}
