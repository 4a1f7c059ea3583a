//! What a filesystem can do, and what is lost where it cannot.

use std::os::fd::AsFd;

use serde_json::{Value, json};

use crate::cli::human;
use crate::mount::passthrough;
use crate::repo::{Answer, Feature};
use crate::sys::Errno;

/// The names of a feature in JSON and in the table, and what is lost without it.
struct Told {
    key: &'static str,
    name: &'static str,
    cost: &'static str,
    /// Whether saves may be lost without it.
    is_vital: bool,
}

fn told(feature: Feature) -> Told {
    let (key, name, cost) = match feature {
        Feature::UnnamedFile => (
            "unnamed_file",
            "unnamed files (O_TMPFILE)",
            "session.next exists during the whole save",
        ),
        Feature::LinkUnnamed => (
            "link_unnamed",
            "naming them (linkat)",
            "with O_TMPFILE, but without this, saves fail",
        ),
        Feature::SyncFile => (
            "sync_file",
            "fsync of a file",
            "saves fail, or do not survive a power cut",
        ),
        Feature::SyncDirectory => (
            "sync_directory",
            "fsync of a directory",
            "a save may not survive a power cut",
        ),
        Feature::Rename => ("rename", "rename", "saves fail"),
        Feature::NoReplace => (
            "rename_noreplace",
            "RENAME_NOREPLACE",
            "mv -n on a mount may be refused",
        ),
        Feature::Exchange => (
            "rename_exchange",
            "RENAME_EXCHANGE",
            "mv --exchange on a mount is refused",
        ),
        Feature::Flock => (
            "flock",
            "flock",
            "a lock left by a crash must be broken by hand",
        ),
        Feature::Reflink => (
            "reflink",
            "reflinks (FICLONE)",
            "saves that keep old content copy it",
        ),
        Feature::UserXattrs => (
            "user_xattrs",
            "user attributes (xattrs)",
            "a sticky bit marks session.next",
        ),
        Feature::Acl => ("acl", "POSIX ACLs", "file modes alone decide permissions"),
        Feature::FileHandles => (
            "file_handles",
            "file handles",
            "reused inode numbers are told apart by birth time",
        ),
        Feature::BirthTime => (
            "birth_time",
            "time of birth",
            "reused inode numbers are told apart by file handles",
        ),
    };
    let is_vital = matches!(
        feature,
        Feature::SyncFile | Feature::SyncDirectory | Feature::Rename
    );
    Told {
        key,
        name,
        cost,
        is_vital,
    }
}

/// What is known of a feature.
pub(super) struct Row {
    told: Told,
    answer: &'static str,
    /// Why the answer is not yes.
    reason: Option<String>,
}

impl Row {
    fn of(feature: Feature, answer: Answer, has_unnamed: bool) -> Self {
        let mut told = told(feature);
        // Without unnamed files, naming them is not needed.
        told.is_vital |= feature == Feature::LinkUnnamed && has_unnamed;
        let (answer, reason) = match answer {
            Answer::Yes => ("yes", None),
            Answer::No(errno) => ("no", errno.map(reason)),
            Answer::Unknown(errno) => ("unknown", Some(reason(errno))),
        };
        Self {
            told,
            answer,
            reason,
        }
    }

    /// Whether saves may be lost because of it.
    pub(super) fn is_fatal(&self) -> bool {
        self.told.is_vital && self.answer == "no"
    }

    /// If it is not known whether saves may be lost because of it: why.
    pub(super) fn unknown(&self) -> Option<&str> {
        let is_unknown = self.told.is_vital && self.answer == "unknown";
        self.reason.as_deref().filter(|_| is_unknown)
    }

    /// For the table: the feature, the answer, and what is lost.
    pub(super) fn cells(&self) -> [String; 3] {
        let reason = self.reason.as_deref();
        let last = match (self.answer, reason) {
            ("no", Some(reason)) => format!("{} ({reason})", self.told.cost),
            ("no", None) => self.told.cost.to_owned(),
            (_, reason) => reason.unwrap_or_default().to_owned(),
        };
        [self.told.name.to_owned(), self.answer.to_owned(), last]
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "feature": self.told.key,
            "answer": self.answer,
            "reason": self.reason,
            "cost": self.told.cost,
        })
    }
}

/// All rows, including passthrough, which cannot be tried here.
pub(super) fn rows(probed: &[(Feature, Answer)], root: impl AsFd) -> Vec<Row> {
    let has_unnamed = probed.contains(&(Feature::UnnamedFile, Answer::Yes));
    let probed = probed.iter();
    let mut rows: Vec<Row> = probed
        .map(|&(feature, answer)| Row::of(feature, answer, has_unnamed))
        .collect();
    let (answer, reason) = match passthrough::obstacle(root) {
        Some(obstacle) => ("no", obstacle),
        None => (
            "unknown",
            "no obstacle found; only a mount can tell".to_owned(),
        ),
    };
    rows.push(Row {
        told: Told {
            key: "passthrough",
            name: "FUSE passthrough",
            cost: "files are read through the daemon",
            is_vital: false,
        },
        answer,
        reason: Some(reason),
    });
    rows
}

fn reason(errno: i32) -> String {
    if errno == Errno::ROFS.raw_os_error() {
        "read-only".to_owned()
    } else {
        human::reason(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_cost_and_what_is_vital_is_fatal() {
        let row = |feature, answer, has_unnamed| Row::of(feature, answer, has_unnamed);
        let [_, answer, cost] = row(Feature::Reflink, Answer::No(Some(95)), false).cells();
        assert_eq!(answer, "no");
        assert!(
            cost.ends_with("copy it (Operation not supported)"),
            "{cost}"
        );
        let [_, answer, cost] = row(Feature::Rename, Answer::Unknown(30), false).cells();
        assert_eq!([answer, cost], ["unknown", "read-only"]);
        let [_, answer, cost] = row(Feature::Acl, Answer::Yes, false).cells();
        assert_eq!([answer, cost], ["yes", ""]);

        assert!(row(Feature::SyncDirectory, Answer::No(Some(22)), false).is_fatal());
        let untried = row(Feature::SyncDirectory, Answer::Unknown(30), false);
        assert!(!untried.is_fatal());
        assert_eq!(untried.unknown(), Some("read-only"));
        assert_eq!(row(Feature::Rename, Answer::Yes, false).unknown(), None);
        assert_eq!(
            row(Feature::Flock, Answer::Unknown(13), false).unknown(),
            None
        );
        assert!(!row(Feature::Flock, Answer::No(None), false).is_fatal());
        assert!(!row(Feature::LinkUnnamed, Answer::No(Some(95)), false).is_fatal());
        assert!(row(Feature::LinkUnnamed, Answer::No(Some(1)), true).is_fatal());
    }
}
