//! The report on a mount, for `sessionfs status` and for anything that can read files. It
//! is a file in the root with a name that no listing shows, so that programs that walk
//! the tree do not meet it.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, FopenFlags, INodeNo};
use serde_json::{Value, json};

use crate::fs::entry::Entry;
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::lasting::handle::Handle;
use crate::fs::lasting::node::{Identity, REPORT, REPORT_NAME, ROOT, Role};
use crate::fs::opened::{Opened, changes};
use crate::fs::request::Request;
use crate::proc::holders::{Holder, Use, search};
use crate::sys::Errno;

/// The version of the report's format. Counted up when a field changes its meaning, or is
/// removed.
pub const SCHEMA: u32 = 1;

impl Fs {
    /// The entry of the report. Only the user of the daemon may read it, as it shows
    /// which processes use the mount.
    pub(in crate::fs) fn report_entry(&self) -> Result<Entry> {
        let attr = self.report_attr()?;
        let name = OsStr::new(REPORT_NAME);
        let identity = Identity::default();
        Ok(Entry {
            generation: (self.lasting.nodes).remember(REPORT, ROOT, name, Role::Report, identity),
            attr,
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        })
    }

    /// Like a file in `/proc`, it has the size 0, as its size is unknown before it is
    /// read.
    pub(in crate::fs) fn report_attr(&self) -> Result<FileAttr> {
        Ok(FileAttr {
            ino: INodeNo(REPORT),
            size: 0,
            blocks: 0,
            kind: FileType::RegularFile,
            perm: 0o400,
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            ..self.root_attr()?
        })
    }

    /// Opens the report, which is made now.
    pub(in crate::fs) fn open_report(&self, flags: i32, request: Request) -> Result<Opened> {
        if changes(flags) {
            return Err(Errno::ACCESS.into());
        }
        request.patience.must_wait()?;
        let share = self.reserve(request.caller, 1)?;
        let mut text = in_ascii(&self.report().to_string());
        text.push('\n');
        let text = text.into_bytes();
        Ok(Opened {
            handle: self.lasting.handles.add(Handle::Report(text), share),
            flags: FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH,
            backing: None,
        })
    }

    /// The report. In names and paths, bytes that are not UTF-8 are replaced.
    fn report(&self) -> Value {
        let (saves, latencies) = (self.statistics.saves(), self.statistics.latencies());
        let (unsaved, _) = self.activity.now();
        let (holders, all_processes) = match self.device.get() {
            Some(device) => search(*device),
            None => (Vec::new(), true),
        };
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "repository": self.repository.path().to_string_lossy(),
            "since": seconds(self.since),
            "saves": {
                "done": saves.done,
                "abandoned": saves.abandoned,
                "failed": saves.failed,
            },
            "save_microseconds": {
                "p50": micros(latencies.p50),
                "p90": micros(latencies.p90),
                "p99": micros(latencies.p99),
                "max": micros(latencies.max),
            },
            "unsaved_writers": unsaved,
            "saving": self.saving(),
            "processes": holders.iter().map(process).collect::<Vec<_>>(),
            "all_processes": all_processes,
            "unseen_writers": self.has_shared_writers.load(Ordering::SeqCst),
            "errors": self.errors(),
        })
    }

    /// The sessions whose checkpoint is being changed, and the process of each writer.
    fn saving(&self) -> Vec<Value> {
        let owners = self.lasting.sessions.owners().into_iter();
        owners
            .filter_map(|(session, owner)| {
                let (_, name) = self.lasting.nodes.parent_and_name(session)?;
                let pid = (owner.process.pid != 0).then_some(owner.process.pid);
                Some(json!({ "session": id(&name), "pid": pid }))
            })
            .collect()
    }

    fn errors(&self) -> Vec<Value> {
        let errors = self.statistics.errors().into_iter();
        errors
            .map(|(session, error)| {
                let reason = std::io::Error::from_raw_os_error(error.errno).to_string();
                let reason = reason.split(" (os error").next().unwrap_or_default();
                json!({
                    "session": session.id().to_string_lossy(),
                    "at": seconds(error.at),
                    "errno": error.errno,
                    "reason": reason,
                })
            })
            .collect()
    }
}

/// The same JSON in plain ASCII, with nothing that a terminal would act on (DESIGN 13.5).
/// Other characters can occur only in strings, where they are escaped.
fn in_ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => text.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    text
}

fn process(holder: &Holder) -> Value {
    let files = holder.files.iter().map(|file| {
        let how = match file.how {
            Use::Reads => "reads",
            Use::Writes => "writes",
            Use::Other => "uses",
        };
        json!({ "path": file.path.to_string_lossy(), "how": how })
    });
    json!({
        "pid": holder.pid,
        "command": holder.command,
        "files": files.collect::<Vec<_>>(),
    })
}

/// The id of the session with this directory name.
fn id(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    name.strip_suffix(".session").unwrap_or(&name).to_owned()
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_report_in_ascii_says_the_same() {
        let value = json!({ "a\u{9b}\u{7f}\u{202e}\n": ["é", "\u{1f600}", "\\\""] });
        let text = in_ascii(&value.to_string());
        assert!(
            text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
