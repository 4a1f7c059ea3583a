//! What a filesystem can do, and what it costs if it cannot.

use std::os::fd::AsFd;

use serde_json::{Value, json};

use crate::cli::human;
use crate::mount::passthrough;
use crate::repo::{Answer, Feature};
use crate::sys::Errno;

/// How a feature is called in JSON and in the table, and what it costs if it
/// is missing.
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
            "session.next is there as long as a save takes",
        ),
        Feature::LinkUnnamed => (
            "link_unnamed",
            "naming them (linkat)",
            "with O_TMPFILE, but without this, no save is made",
        ),
        Feature::SyncFile => (
            "sync_file",
            "fsync of a file",
            "no save is made, or none survives a power cut",
        ),
        Feature::SyncDirectory => (
            "sync_directory",
            "fsync of a directory",
            "a save may not survive a power cut",
        ),
        Feature::Rename => ("rename", "rename", "no save is made"),
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
            "a lock left by a crash has to be broken by hand",
        ),
        Feature::Reflink => (
            "reflink",
            "reflinks (FICLONE)",
            "a save that keeps old content copies it",
        ),
        Feature::UserXattrs => (
            "user_xattrs",
            "user attributes (xattrs)",
            "a sticky bit marks session.next",
        ),
        Feature::Acl => ("acl", "POSIX ACLs", "modes alone say who may do what"),
        Feature::FileHandles => (
            "file_handles",
            "file handles",
            "the time of birth tells inodes of one number apart",
        ),
        Feature::BirthTime => (
            "birth_time",
            "time of birth",
            "file handles tell inodes of one number apart",
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
    /// Why it is not known, or why not.
    reason: Option<String>,
}

impl Row {
    fn of(feature: Feature, answer: Answer, has_unnamed: bool) -> Self {
        let mut told = told(feature);
        // Without the one nobody needs the other.
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

    /// Why nobody knows whether saves may be lost because of it.
    pub(super) fn unknown(&self) -> Option<&str> {
        let is_unknown = self.told.is_vital && self.answer == "unknown";
        self.reason.as_deref().filter(|_| is_unknown)
    }

    /// For the table: what, the answer, and the cost unless there is none.
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

/// All that is to be told, with passthrough, which has no try.
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
            "nothing speaks against it; only a mount can tell".to_owned(),
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
            cost.ends_with("copies it (Operation not supported)"),
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
