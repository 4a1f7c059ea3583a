//! Runs one program in a session on the mount and in an ordinary directory of the same
//! filesystem: it must see the same in both.

use std::fs;
use std::path::PathBuf;

use super::tools::python;
use super::{Backing, Mount, Session};

/// Python: `t(name, f)` prints the result of an operation, or how it fails.
pub const TRY: &str = "
import os, errno, ctypes, hashlib
libc = ctypes.CDLL(None, use_errno=True)
def t(name, f):
    try: print(name, f())
    except OSError as e: print(name, errno.errorcode[e.errno])
def c(name, *arguments):
    if getattr(libc, name)(*arguments) < 0: raise OSError(ctypes.get_errno(), name)
def n(number): return ctypes.c_long(number)
";

/// A session on the mount, and a directory beside the repository.
pub struct SideBySide {
    pub mount: Mount,
    pub session: Session,
    pub plain: PathBuf,
}

impl SideBySide {
    pub fn new(backing: Backing) -> Self {
        Self::with(backing, &[])
    }

    pub fn with(backing: Backing, options: &[&str]) -> Self {
        let mount = Mount::with(backing, options);
        let plain = mount.disk.path().join("plain");
        fs::create_dir(&plain).unwrap();
        Self {
            session: mount.session("s"),
            plain,
            mount,
        }
    }

    /// Runs a python program in both, and returns what it prints, which must be the same.
    #[track_caller]
    pub fn same(&self, program: &str) -> String {
        let program = format!("{TRY}{program}");
        let expected = python(&self.plain, &program);
        assert_eq!(python(&self.session.on_mount, &program), expected);
        assert!(!expected.is_empty(), "it says nothing");
        expected
    }

    /// The content of a file, which must be the same in both and in the repository.
    #[track_caller]
    pub fn same_file(&self, name: &str) -> Vec<u8> {
        let expected = fs::read(self.plain.join(name)).unwrap();
        for directory in [&self.session.on_mount, &self.session.in_repository] {
            let content = fs::read(directory.join(name)).unwrap();
            assert!(content == expected, "{name} in {}", directory.display());
        }
        expected
    }
}
