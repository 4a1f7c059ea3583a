//! The storage without a mount. Each test names the rule of DESIGN that it checks.

mod concurrency;
mod crash;
mod faults;
mod locks;
mod probe;
mod repository;
mod rights;
mod save;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Repository, Session, SessionName};
use crate::sys::fault::Plan;
use crate::sys::{self, Call, Errno, XattrFlags};

/// A repository of its own, with one empty session.
struct Sandbox {
    dir: tempfile::TempDir,
    repository: Repository,
    session: Session,
}

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::new(dir.path().join("repository"));
        std::fs::create_dir_all(repository.path().join("s.session")).unwrap();
        let session = repository.session(&name("s")).unwrap();
        Self {
            dir,
            repository,
            session,
        }
    }

    /// With a checkpoint that was not made by the code under test.
    fn with_checkpoint(content: &[u8]) -> Self {
        let sandbox = Self::new();
        std::fs::write(sandbox.path("session"), content).unwrap();
        sandbox
    }

    /// A path in the session.
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.repository.path().join("s.session").join(name)
    }

    /// What is in the session.
    fn entries(&self) -> BTreeSet<String> {
        entries(&self.path(""))
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.path("session")).unwrap()
    }

    /// How many descriptors this process has open in the sandbox.
    fn descriptors(&self) -> usize {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| target.starts_with(self.dir.path()))
            .count()
    }
}

/// Whether everything is to be tried, and not just what takes seconds.
fn full() -> bool {
    std::env::var_os("SESSIONFS_TESTS").is_some_and(|tests| tests == "full")
}

fn entries(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn name(id: impl AsRef<OsStr>) -> SessionName {
    SessionName::from_id(id).unwrap()
}

/// An open file, for the wrappers that want a descriptor.
fn open(path: impl AsRef<Path>) -> File {
    File::open(path).unwrap()
}

fn set_xattr(path: &Path, name: &CStr, value: &[u8]) {
    sys::set_xattr(open(path), name, value, XattrFlags::empty()).unwrap();
}

fn get_xattr(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    match sys::get_xattr(open(path), name) {
        Err(Errno::NODATA) => None,
        other => Some(other.unwrap()),
    }
}

fn xattr_names(path: &Path) -> BTreeSet<CString> {
    let list = sys::list_xattrs(open(path)).unwrap();
    list.split_inclusive(|&b| b == 0)
        .map(|n| CStr::from_bytes_with_nul(n).unwrap().to_owned())
        .filter(|n| !n.as_bytes().starts_with(b"security."))
        .collect()
}

/// How a save must work, because the filesystem is made to lack something. Without
/// `O_TMPFILE` the mark is never an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ways {
    tmpfile: bool,
    xattr: bool,
}

const ALL_WAYS: [Ways; 3] = [
    Ways {
        tmpfile: true,
        xattr: true,
    },
    Ways {
        tmpfile: true,
        xattr: false,
    },
    Ways {
        tmpfile: false,
        xattr: true,
    },
];

impl Ways {
    /// Lets `plan` decide first, and then denies what these ways lack.
    fn plan(self, mut plan: impl FnMut(usize, Call) -> Option<Errno> + 'static) -> Plan {
        let mut marked = self.xattr;
        Box::new(move |n, call| {
            let lacked = call == Call::OpenTmpfile && !self.tmpfile;
            let planned = plan(n, call).or(lacked.then_some(Errno::OPNOTSUPP));
            if planned.is_some() {
                // Created under its name, it has its mark.
                marked |= call == Call::OpenTmpfile;
                return planned;
            }
            match call {
                // By the bit, if that comes first.
                Call::Chmod => {
                    marked = true;
                    None
                }
                // Else the mark is the first attribute that a save sets.
                Call::SetXattr if !marked => {
                    marked = true;
                    Some(Errno::OPNOTSUPP)
                }
                _ => None,
            }
        })
    }
}

fn mkfifo(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    let mode = sys::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(sys::CWD, path, kind, mode, 0).unwrap();
}

/// Something that is no regular file, and how it is made.
type Made = (&'static str, fn(&Path));
