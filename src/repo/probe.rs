//! What the filesystem of a repository can do, tried in a directory there, which is
//! removed afterwards.
//!
//! The directory has a flock while it is used. Without one it is a leftover, and can be
//! removed ([`Repository::remove_dead_probe`]).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::StatxFlags;

use super::checkpoint::FileId;
use super::error::{During, Error, Kind, Result};
use super::lock;
use super::{Repository, remove};
use crate::sys::{self, Errno, Mode, OFlags, RenameFlags, XattrFlags};

/// The beginning of the name of such a directory, which no session's name has.
const PREFIX: &str = ".sessionfs-probe-";

/// What a filesystem may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Files without a name (`O_TMPFILE`).
    UnnamedFile,
    /// Giving them a name (linkat(2)).
    LinkUnnamed,
    /// fsync(2) of a file.
    SyncFile,
    /// fsync(2) of a directory.
    SyncDirectory,
    /// rename(2) onto a file that exists.
    Rename,
    /// renameat2(2) with `RENAME_NOREPLACE`.
    NoReplace,
    /// renameat2(2) with `RENAME_EXCHANGE`.
    Exchange,
    /// flock(2) that really excludes others.
    Flock,
    /// Files that share blocks (`FICLONE`).
    Reflink,
    /// Extended attributes of the namespace `user`.
    UserXattrs,
    /// POSIX access control lists.
    Acl,
    /// File handles (name_to_handle_at(2)).
    FileHandles,
    /// The time at which a file was made.
    BirthTime,
}

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The filesystem can do it.
    Yes,
    /// It cannot; with the errno, if there was one.
    No(Option<i32>),
    /// It could not be tried; with the errno.
    Unknown(i32),
}

/// A directory left behind by a probe that did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftProbe {
    /// Its name in the repository.
    pub name: OsString,
    /// Whether it is certain that no process uses it. Without flock(2) that is unknown.
    pub is_dead: bool,
}

impl Answer {
    fn of(tried: sys::Result<bool>) -> Self {
        match tried {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No(None),
            // These say nothing about what the filesystem can do.
            Err(
                errno @ (Errno::ROFS
                | Errno::ACCESS
                | Errno::NOSPC
                | Errno::DQUOT
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM),
            ) => Self::Unknown(errno.raw_os_error()),
            Err(errno) => Self::No(Some(errno.raw_os_error())),
        }
    }
}

type Try = fn(BorrowedFd<'_>) -> sys::Result<bool>;

/// In the order in which the results are reported.
const TRIES: [(Feature, Try); 13] = [
    (Feature::UnnamedFile, |dir| {
        sys::open_tmpfile(dir).map(|_| true)
    }),
    (Feature::LinkUnnamed, |dir| {
        let file = sys::open_tmpfile(dir)?;
        sys::link_fd(file, dir, OsStr::new("linked")).map(|()| true)
    }),
    (Feature::SyncFile, |dir| {
        sys::fsync(file(dir, "synced")?).map(|()| true)
    }),
    (Feature::SyncDirectory, |dir| sys::fsync(dir).map(|()| true)),
    (Feature::Rename, |dir| {
        rename(dir, ["from", "to"], RenameFlags::empty())
    }),
    (Feature::NoReplace, |dir| {
        match rename(dir, ["this", "that"], RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Ok(true),
            other => other.map(|_| false),
        }
    }),
    (Feature::Exchange, |dir| {
        rename(dir, ["one", "other"], RenameFlags::EXCHANGE)
    }),
    (Feature::Flock, |dir| {
        let owned = file(dir, "flocked")?;
        sys::try_flock(&owned)?;
        let second = sys::openat(dir, OsStr::new("flocked"), OFlags::RDONLY, Mode::empty())?;
        match sys::try_flock(second) {
            Err(Errno::WOULDBLOCK) => Ok(true),
            other => other.map(|()| false),
        }
    }),
    (Feature::Reflink, |dir| {
        sys::clone_file(file(dir, "cloned")?, file(dir, "clone")?).map(|()| true)
    }),
    (Feature::UserXattrs, |dir| {
        let (file, name) = (file(dir, "attributes")?, c"user.sessionfs.probe");
        sys::set_xattr(&file, name, b"1", XattrFlags::empty())?;
        Ok(sys::get_xattr(&file, name)? == b"1")
    }),
    (Feature::Acl, |dir| {
        let (file, name) = (file(dir, "acl")?, c"system.posix_acl_access");
        sys::set_xattr(&file, name, &acl(), XattrFlags::empty())?;
        sys::get_xattr(&file, name).map(|_| true)
    }),
    (Feature::FileHandles, |dir| {
        sys::handle_digest(file(dir, "handle")?).map(|_| true)
    }),
    (Feature::BirthTime, |dir| {
        let stat = sys::fstat(file(dir, "born")?)?;
        Ok(stat.stx_mask & StatxFlags::BTIME.bits() != 0)
    }),
];

/// A new file with some content.
fn file(dir: BorrowedFd<'_>, name: &str) -> sys::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let file = sys::openat(dir, OsStr::new(name), flags, Mode::RUSR | Mode::WUSR)?;
    sys::write_at(&file, &[1; 4096], 0)?;
    Ok(file)
}

/// Renames one file onto another; returns whether the right one is there then.
fn rename(dir: BorrowedFd<'_>, names: [&str; 2], flags: RenameFlags) -> sys::Result<bool> {
    let renamed = file(dir, names[0])?;
    file(dir, names[1])?;
    let [from, to] = names.map(OsStr::new);
    sys::rename(dir, from, dir, to, flags)?;
    Ok(FileId::of(&sys::stat(dir, to)?) == FileId::of(&sys::fstat(&renamed)?))
}

/// An ACL that a mode cannot express, as the attribute that setfacl(1) sets
/// (linux/posix_acl_xattr.h): version 2; tag, permissions and id of each entry.
fn acl() -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let own = rustix::process::geteuid().as_raw();
    // The owner, one user, the group, the mask, others.
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, NO_ID),
        (0x02, 4, own),
        (0x04, 4, NO_ID),
        (0x10, 4, NO_ID),
        (0x20, 0, NO_ID),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

impl Repository {
    /// Tests what the filesystem can do, in a private directory in the repository.
    /// Nothing is left behind, unless the process is killed.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the repository is missing, and [`Kind::Os`] if it
    /// cannot be opened. Where it cannot be written, all answers are
    /// [`Answer::Unknown`].
    pub fn probe(&self) -> Result<Vec<(Feature, Answer)>> {
        let during = "open the repository";
        let missing = Error::new(Kind::NotFound, during, Errno::NOENT);
        let root = self.root()?.ok_or_else(|| self.tell(missing))?;
        let answers = match Directory::new(root) {
            Ok(directory) => TRIES.map(|(feature, attempt)| {
                let answer = Answer::of(attempt(directory.fd.as_fd()));
                (feature, answer)
            }),
            Err(errno) => {
                TRIES.map(|(feature, _)| (feature, Answer::Unknown(errno.raw_os_error())))
            }
        };
        Ok(answers.to_vec())
    }

    /// The directories left behind by probes that did not finish.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn left_probes(&self) -> Result<Vec<LeftProbe>> {
        let Some(root) = self.root()? else {
            return Ok(Vec::new());
        };
        let names = sys::read_dir(&*root).during("read the repository");
        let names = names.map_err(|e| self.tell(e))?;
        let left = names.into_iter().filter_map(|name| {
            if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                return None;
            }
            let is_dead = match sys::open_dir(&*root, &name) {
                Ok(dir) => match sys::try_flock_shared(dir) {
                    Ok(()) => true,
                    Err(Errno::WOULDBLOCK) => return None,
                    Err(_) => false,
                },
                // Gone, or not made by a probe.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return None,
                Err(_) => false,
            };
            Some(LeftProbe { name, is_dead })
        });
        Ok(left.collect())
    }

    /// Removes one of the [`left_probes`](Self::left_probes), if it is dead. Returns
    /// whether it was, and is gone.
    ///
    /// # Errors
    /// [`Kind::Os`] with the errno.
    pub fn remove_dead_probe(&self, name: &OsStr) -> Result<bool> {
        let is_probe = name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let (true, Some(root)) = (is_probe, self.root()?) else {
            return Ok(false);
        };
        let remove = || {
            let dir = match sys::open_dir(&*root, name) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
                other => other?,
            };
            match lock::try_own(dir.as_fd()) {
                Err(Errno::WOULDBLOCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF) => {
                    return Ok(false);
                }
                other => other?,
            }
            let mut failed = Ok(());
            let gone = remove::remove_tree(&*root, name, &mut |_, errno| failed = Err(errno));
            failed.map(|()| gone)
        };
        remove()
            .during("remove what a probe has left")
            .map_err(|e| self.tell(e))
    }
}

/// The directory of a probe, which is removed when this is dropped.
struct Directory {
    root: Arc<OwnedFd>,
    name: OsString,
    fd: OwnedFd,
}

impl Directory {
    fn new(root: Arc<OwnedFd>) -> sys::Result<Self> {
        let mut number = 0_u32;
        loop {
            let name = format!("{PREFIX}{}-{number}", std::process::id());
            let name = OsString::from(name);
            number = number.checked_add(1).ok_or(Errno::EXIST)?;
            match sys::mkdir(&*root, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                other => other?,
            }
            match Self::claim(&root, &name) {
                Ok(Some(fd)) => return Ok(Self { root, name, fd }),
                // The process that took it for dead removes it.
                Ok(None) => {}
                Err(errno) => {
                    let _ = sys::rmdir(&*root, &name);
                    return Err(errno);
                }
            }
        }
    }

    /// A new directory with a flock; `None` if it was taken for dead before that.
    fn claim(root: &OwnedFd, name: &OsStr) -> sys::Result<Option<OwnedFd>> {
        let fd = match sys::open_dir(root, name) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        // Without flock, no process takes a directory for dead.
        if lock::try_own(fd.as_fd()) == Err(Errno::WOULDBLOCK) {
            return Ok(None);
        }
        let named = match sys::stat(root, name) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let is_it = FileId::of(&named) == FileId::of(&sys::fstat(&fd)?);
        Ok(is_it.then_some(fd))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let name = self.name.display();
        remove::remove_tree(&*self.root, &self.name, &mut |path, errno| {
            log::warn!("{name}/{} stays behind: {errno}", path.display());
        });
    }
}
