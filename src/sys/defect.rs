//! Defects on purpose, one at a time: what `SESSIONFS_DEFECT` names. The tests
//! have to find each (`scripts/proof --teeth`). In a program that anybody is given
//! there are none, and nothing is asked: that takes the feature `test-switches`, or
//! the fuzzer.

use std::os::fd::AsFd;

use super::call::Result;

/// What is done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "some are made in a test build only")]
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
pub fn has(defect: Defect) -> bool {
    #[cfg(any(feature = "test-switches", fuzzing))]
    return chosen() == Some(defect);
    #[cfg(not(any(feature = "test-switches", fuzzing)))]
    {
        let _ = defect;
        false
    }
}

/// Whether the fsync(2) of this is left out.
pub(super) fn leaves_out_sync(fd: impl AsFd) -> Result<bool> {
    #[cfg(feature = "test-switches")]
    {
        use rustix::fs::{FileType, fstat};
        Ok(match FileType::from_raw_mode(fstat(fd)?.st_mode) {
            FileType::RegularFile => has(Defect::FilesNotSynced),
            FileType::Directory => has(Defect::DirectoriesNotSynced),
            _ => false,
        })
    }
    #[cfg(not(feature = "test-switches"))]
    {
        let _ = fd;
        Ok(false)
    }
}

/// For `scripts/power-cuts`: whether everything is done as where files without a name
/// are missing (`SESSIONFS_WITHOUT_TMPFILE`).
pub(super) fn has_no_tmpfile() -> bool {
    cfg!(feature = "test-switches") && std::env::var_os("SESSIONFS_WITHOUT_TMPFILE").is_some()
}

/// # Panics
/// Where the variable names none: a test would find nothing, and be right.
#[cfg(any(feature = "test-switches", fuzzing))]
#[expect(clippy::panic, reason = "never in a program that anybody is given")]
fn chosen() -> Option<Defect> {
    static CHOSEN: std::sync::LazyLock<Option<Defect>> = std::sync::LazyLock::new(|| {
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
    *CHOSEN
}
