//! Defects on purpose, one at a time, chosen by `SESSIONFS_DEFECT`: the tests must find
//! each of them (`scripts/proof --teeth`). A released program has none of them, and does
//! not look at the variable: that takes the feature `test-switches`, or the fuzzer.

use std::os::fd::AsFd;

use super::call::Result;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "some are made in a test build only")]
pub enum Defect {
    /// No file is synced: a checkpoint is torn by a power cut (I1).
    FilesNotSynced,
    /// No directory is synced: a save is lost (I2).
    DirectoriesNotSynced,
    /// No attribute of a user is set (2.7).
    AttributesLeftOut,
    /// A file gets its owner, mode and attributes only after its rename to
    /// `session` (I1).
    AttributesAfterRename,
    /// A save keeps the attributes of the checkpoint it was begun from, even if another
    /// one has replaced that (13.1).
    AttributesOfTheBase,
    /// A killed writer counts as one that has ended by itself (2.6).
    KilledNotSeen,
    /// A staged file is not told from that of a foreign program (I4).
    Unmarked,
    /// A rename onto an existing name removes that first (I1).
    RenameInTwoSteps,
    /// Errors of fsync(2) and fdatasync(2) are ignored (2.3).
    SyncErrorsIgnored,
    /// Errors of pwrite(2) are ignored (2.3).
    WriteErrorsIgnored,
    /// Symlinks are followed, even out of the repository (section 1).
    SymlinksFollowed,
    /// A close returns 0, and the save is made at RELEASE (2.3).
    SavedAtRelease,
    /// A certain text of twelve bytes is not parsed correctly.
    FoundByComparing,
    /// Nor is a text that begins with three certain bytes, which are compared one by one.
    FoundStepwise,
    /// Every flock(2) counts as granted (I3).
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

/// Whether the fsync(2) of this file is left out.
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

/// For `scripts/power-cuts`: whether to behave as on a filesystem without unnamed files
/// (`SESSIONFS_WITHOUT_TMPFILE`).
pub(super) fn has_no_tmpfile() -> bool {
    cfg!(feature = "test-switches") && std::env::var_os("SESSIONFS_WITHOUT_TMPFILE").is_some()
}

/// # Panics
/// If the variable names no defect: a test would find none, and would seem to be right.
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
