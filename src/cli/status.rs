//! `sessionfs status`

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::failure::{Result, one_line};
use super::{human, output};
use crate::mount::status::{self, Report, Status};

const AFTER_HELP: &str = "\
Examples:
  sessionfs status
  sessionfs status /mnt/sessions --json

Programs that only read files find the same in MOUNTPOINT/.sessionfs-status,
which no listing shows.";

/// Show what goes on in the mounts of this machine
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only the mount here [default: all]
    mountpoint: Option<PathBuf>,

    /// As an array of objects
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mounts = match &arguments.mountpoint {
        Some(mountpoint) => vec![status::of(mountpoint)?],
        None => status::all()?,
    };
    let text = if arguments.json {
        let mounts: Vec<Value> = mounts.iter().map(object).collect();
        output::json(&Value::from(mounts))
    } else {
        mounts.iter().map(lines).collect()
    };
    output::write(|out| out.write_all(text.as_bytes()))
}

pub(super) fn object(mount: &Status) -> Value {
    let (state, report) = match &mount.report {
        Report::Told(report) => ("serving", report.clone()),
        Report::Hangs => ("hanging", json!({})),
        Report::Dead => ("dead", json!({})),
        Report::Unknown(reason) => ("unknown", json!({ "reason": reason })),
    };
    let mut object = match report {
        Value::Object(report) => report,
        _ => Map::new(),
    };
    // After the report, which says nothing about these.
    object.insert(
        "mountpoint".into(),
        mount.mountpoint.to_string_lossy().into(),
    );
    object.insert("source".into(), mount.source.clone().into());
    object.insert("state".into(), state.into());
    object.into()
}

pub(super) fn lines(mount: &Status) -> String {
    // Whoever may mount has chosen the names, and whoever serves the mount the
    // rest: none of it is for the terminal.
    let source = one_line(&mount.source);
    let mountpoint = one_line(&mount.mountpoint.display().to_string());
    let mut text = format!("{source} on {mountpoint}\n");
    let report = match &mount.report {
        Report::Told(report) => report,
        Report::Hangs => return text + "  its daemon does not answer\n",
        Report::Dead => {
            return text + "  its daemon is dead (mount it again, or sessionfs umount)\n";
        }
        Report::Unknown(reason) => {
            return text + &format!("  its daemon cannot be asked: {}\n", one_line(reason));
        }
    };
    // Writing to a string does not fail.
    let _ = write_lines(&mut text, report);
    text
}

fn write_lines(text: &mut String, report: &Value) -> std::fmt::Result {
    let saves = &report["saves"];
    writeln!(
        text,
        "  daemon {} since {}; {} saved, {} abandoned, {} failed",
        number(&report["pid"]),
        time(&report["since"]),
        number(&saves["done"]),
        number(&saves["abandoned"]),
        number(&saves["failed"]),
    )?;
    let micros = |percentile: &str| {
        let micros = report["save_microseconds"][percentile].as_u64();
        // Three digits are more than enough.
        format!("{:.2} ms", micros.unwrap_or_default() as f64 / 1000.0)
    };
    if saves["done"].as_u64() > Some(0) {
        writeln!(
            text,
            "  a save takes {} (half), {} (90 %), {} (99 %), {} at most",
            micros("p50"),
            micros("p90"),
            micros("p99"),
            micros("max"),
        )?;
    }
    for saving in items(&report["saving"]) {
        let session = plain(&saving["session"]);
        match saving["pid"].as_u64() {
            Some(pid) => writeln!(text, "  {session}: being saved by {pid}")?,
            None => writeln!(text, "  {session}: being saved")?,
        }
    }
    for error in items(&report["errors"]) {
        let session = plain(&error["session"]);
        let (at, reason) = (time(&error["at"]), plain(&error["reason"]));
        writeln!(text, "  {session}: not saved at {at}: {reason}")?;
    }
    let own = u64::from(std::process::id());
    let is_other = |process: &&Value| process["pid"].as_u64() != Some(own);
    for process in items(&report["processes"]).filter(is_other) {
        for file in items(&process["files"]) {
            let (command, how) = (plain(&process["command"]), plain(&file["how"]));
            let (pid, path) = (number(&process["pid"]), plain(&file["path"]));
            writeln!(text, "  {pid} ({command}) {how} {path}")?;
        }
    }
    Ok(())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A string of the report, in one line.
fn plain(value: &Value) -> String {
    one_line(value.as_str().unwrap_or_default())
}

/// A number of the report, if it is one.
fn number(value: &Value) -> String {
    let number = value.as_u64();
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

fn time(seconds: &Value) -> String {
    seconds.as_i64().map_or_else(String::new, human::utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_somebody_else_writes_nothing_but_its_lines_to_the_terminal() {
        let report = json!({
            "mountpoint": "/etc",
            "state": "dead",
            "pid": "\u{9b}31m",
            "since": 67_768_036_191_676_799_i64,
            "saves": { "done": [1], "abandoned": "\u{9b}", "failed": 2 },
            "processes": [{ "pid": "\u{9b}", "command": "a\nb", "files": [{}] }],
        });
        let mount = Status {
            mountpoint: PathBuf::from("/m\n/n on /o"),
            source: "\u{1b}[31m".to_owned(),
            report: Report::Told(report),
        };
        assert_eq!(
            lines(&mount),
            "\\u{1b}[31m on /m\\n/n on /o\n  daemon ? since ; ? saved, ? abandoned, 2 failed\n  \
             ? (a\\nb)  \n"
        );
        let object = object(&mount);
        assert_eq!(object["mountpoint"], "/m\n/n on /o");
        assert_eq!(object["state"], "serving");
    }
}
