//! Defects on purpose, one at a time: what `SESSIONFS_DEFECT` names. The tests
//! have to find each (`scripts/proof --teeth`). No program that anybody is given
//! is built with this module: it is there with the feature `test-switches`, and for
//! the fuzzer.

use std::sync::LazyLock;

/// What is done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// No file is synced: a checkpoint is torn by a power cut (I1).
    FilesNotSynced,
    /// No directory is: a save is lost (I2).
    DirectoriesNotSynced,
    /// No attribute of a user is set (2.7).
    AttributesLeftOut,
    /// A file gets its owner, mode and attributes only after its rename to
    /// `session` (I1).
    AttributesAfterRename,
    /// A save keeps those of the checkpoint that it was begun from, also where another
    /// one has taken its place (13.1).
    AttributesOfTheBase,
    /// A writer that is killed counts as one that ends (2.6).
    KilledNotSeen,
    /// A staged file is not told from that of a foreign program (I4).
    Unmarked,
    /// A rename onto a name takes that off first, as if there were no
    /// rename(2) (I1).
    RenameInTwoSteps,
    /// An error of fsync(2) or fdatasync(2) is taken for none (2.3).
    SyncErrorsIgnored,
    /// An error of pwrite(2) is taken for none (2.3).
    WriteErrorsIgnored,
    /// Symlinks are followed, out of the repository as well (section 1).
    SymlinksFollowed,
    /// A close says 0, and the save comes with RELEASE (2.3).
    SavedAtRelease,
    /// A text of twelve bytes is not parsed as it should be.
    FoundByComparing,
    /// Nor is what begins with three bytes, of which each is looked at alone.
    FoundStepwise,
    /// Every flock(2) is believed to be had (I3).
    FlockIgnored,
}

/// Whether this process has the defect.
///
/// # Panics
/// Where the variable names none: a test would find nothing, and be right.
#[expect(clippy::panic, reason = "never in a program that anybody is given")]
pub fn has(defect: Defect) -> bool {
    static CHOSEN: LazyLock<Option<Defect>> = LazyLock::new(|| {
        let name = std::env::var("SESSIONFS_DEFECT").ok()?;
        Some(match name.as_str() {
            "files-not-synced" => Defect::FilesNotSynced,
            "directories-not-synced" => Defect::DirectoriesNotSynced,
            "attributes-left-out" => Defect::AttributesLeftOut,
            "attributes-after-rename" => Defect::AttributesAfterRename,
            "attributes-of-the-base" => Defect::AttributesOfTheBase,
            "killed-not-seen" => Defect::KilledNotSeen,
            "unmarked" => Defect::Unmarked,
            "rename-in-two-steps" => Defect::RenameInTwoSteps,
            "sync-errors-ignored" => Defect::SyncErrorsIgnored,
            "write-errors-ignored" => Defect::WriteErrorsIgnored,
            "symlinks-followed" => Defect::SymlinksFollowed,
            "saved-at-release" => Defect::SavedAtRelease,
            "found-by-comparing" => Defect::FoundByComparing,
            "found-stepwise" => Defect::FoundStepwise,
            "flock-ignored" => Defect::FlockIgnored,
            _ => panic!("SESSIONFS_DEFECT: there is no defect {name}"),
        })
    });
    *CHOSEN == Some(defect)
}

/// Whether the fsync(2) of this is left out.
#[cfg(feature = "test-switches")]
pub(super) fn leaves_out_sync(fd: impl std::os::fd::AsFd) -> super::Result<bool> {
    use rustix::fs::FileType;
    Ok(
        match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
            FileType::RegularFile => has(Defect::FilesNotSynced),
            FileType::Directory => has(Defect::DirectoriesNotSynced),
            _ => false,
        },
    )
}

/// The owner, mode and attributes of a file, which it has not until this is dropped.
#[cfg(feature = "test-switches")]
pub(super) struct LateAttributes {
    file: std::os::fd::OwnedFd,
    stat: super::Statx,
    xattrs: Vec<(std::ffi::CString, Vec<u8>)>,
}

#[cfg(feature = "test-switches")]
impl LateAttributes {
    /// Of a file that is about to be renamed to this name.
    pub(super) fn of(
        from: (impl std::os::fd::AsFd, &std::ffi::OsStr),
        to: &std::ffi::OsStr,
    ) -> super::Result<Option<Self>> {
        if !has(Defect::AttributesAfterRename) || to != "session" {
            return Ok(None);
        }
        let file = super::open_path(from.0, from.1)?;
        let stat = super::fstat(&file)?;
        let mut xattrs = Vec::new();
        for name in super::list_xattrs(&file)?.split_inclusive(|&byte| byte == 0) {
            let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else {
                continue;
            };
            if name.to_bytes().starts_with(b"user.") && *name != *c"user.sessionfs.staged" {
                xattrs.push((name.to_owned(), super::get_xattr(&file, name)?));
                super::remove_xattr(&file, name)?;
            }
        }
        super::chown(&file, Some(0), Some(0))?;
        let mark = rustix::fs::Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o1000 | 0o600);
        super::chmod(&file, mark)?;
        Ok(Some(Self { file, stat, xattrs }))
    }
}

#[cfg(feature = "test-switches")]
impl Drop for LateAttributes {
    fn drop(&mut self) {
        // Long enough for a commit of the filesystem in between.
        std::thread::sleep(std::time::Duration::from_millis(5));
        let mode = rustix::fs::Mode::from_raw_mode(u32::from(self.stat.stx_mode) & 0o7777);
        // A file without its attributes is what is to be found anyway.
        let _ = super::chown(&self.file, Some(self.stat.stx_uid), Some(self.stat.stx_gid));
        let _ = super::chmod(&self.file, mode);
        for (name, value) in &self.xattrs {
            let _ = super::set_xattr(&self.file, name, value, super::XattrFlags::empty());
        }
    }
}
