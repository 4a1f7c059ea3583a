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
