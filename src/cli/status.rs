//! `sessionfs status`

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::failure::{self, Failure, Result, one_line, without_numbers};
use super::{human, output, read_report};
use crate::fs::SCHEMA;
use crate::mount::status::{Asker, Report, Status};

const AFTER_HELP: &str = "\
Examples:
  sessionfs status
  sessionfs status --watch
  sessionfs status /mnt/sessions --json

Exit status: 0 all is well; 7 a mount is dead or does not answer; 8 the last
save of a session failed or was abandoned; 1 the given mount cannot be asked.
Programs that only read files find the same in MOUNTPOINT/.sessionfs-status,
which no listing shows.";

/// Show the mounts of this machine, their saves and open files
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only the mount here [default: all]
    mountpoint: Option<PathBuf>,

    /// Print an array of objects
    #[arg(long)]
    json: bool,

    /// Repeat it after so many seconds [default: 2]
    #[arg(short, long, value_name = "SEC", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "2", value_parser = pause)]
    watch: Option<Duration>,
}

/// The time between two looks.
fn pause(text: &str) -> std::result::Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    match super::mount::seconds(text)? {
        pause if pause < LEAST => Err("less than 0.1".to_owned()),
        pause => Ok(pause),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut asker = Asker::new(read_report::command);
    let mut look = || match &arguments.mountpoint {
        Some(mountpoint) => asker.of(mountpoint),
        None => asker.all(),
    };
    let Some(pause) = arguments.watch else {
        let mounts = look()?;
        let text = shown(&mounts, arguments.json);
        output::write(|out| out.write_all(text.as_bytes()))?;
        return verdict(&mounts, arguments.mountpoint.is_some());
    };
    // Until a signal, the end of the mount, or a reader that has closed its end.
    loop {
        let text = shown(&look()?, arguments.json);
        let is_read = output::write_to_reader(|out| {
            if out.is_terminal() {
                // From the upper left corner, and nothing below it.
                out.write_all(b"\x1b[H\x1b[J")?;
            }
            out.write_all(text.as_bytes())
        })?;
        if !is_read {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
}

fn shown(mounts: &[Status], as_json: bool) -> String {
    if as_json {
        let mounts: Vec<Value> = mounts.iter().map(object).collect();
        return output::json(&Value::from(mounts));
    }
    mounts.iter().map(lines).collect()
}

/// The exit status, for monitors; the reasons have been printed already.
fn verdict(mounts: &[Status], is_asked_for: bool) -> Result<()> {
    let is_down = |mount: &Status| matches!(mount.report, Report::Hangs | Report::Dead);
    let has_lost = |mount: &Status| match &mount.report {
        Report::Told(report) => items(&report["errors"]).next().is_some(),
        _ => false,
    };
    // Mounts of other users cannot be asked; that is an error only for a given one.
    let is_silent = |mount: &Status| is_asked_for && matches!(mount.report, Report::Unknown(_));
    let status = if mounts.iter().any(is_down) {
        failure::Status::Down
    } else if mounts.iter().any(has_lost) {
        failure::Status::NotSaved
    } else if mounts.iter().any(is_silent) {
        failure::Status::Other
    } else {
        return Ok(());
    };
    Err(Failure::of_process(status as u8))
}

pub(super) fn object(mount: &Status) -> Value {
    let (state, report) = match &mount.report {
        Report::Told(report) => ("serving", report.clone()),
        Report::Hangs => ("hanging", json!({})),
        Report::Dead => ("dead", json!({})),
        Report::Unknown(reason) => ("unknown", json!({ "reason": without_numbers(reason) })),
    };
    let mut object = match report {
        Value::Object(report) => report,
        _ => Map::new(),
    };
    // After the report, so that it cannot set them.
    object.insert(
        "mountpoint".into(),
        mount.mountpoint.to_string_lossy().into(),
    );
    object.insert("source".into(), mount.source.clone().into());
    let also_mounted = mount.also_mounted.iter();
    let also_mounted: Vec<_> = also_mounted.map(|at| at.to_string_lossy()).collect();
    object.insert("also_mounted".into(), json!(also_mounted));
    object.entry("schema").or_insert(SCHEMA.into());
    object.insert("state".into(), state.into());
    object.into()
}

pub(super) fn lines(mount: &Status) -> String {
    // Other users may have chosen the names and written the report: nothing of it
    // goes to the terminal unescaped.
    let source = one_line(&mount.source);
    let mountpoint = one_line(&mount.mountpoint.display().to_string());
    let mut text = format!("{source} on {mountpoint}\n");
    for other in &mount.also_mounted {
        let other = one_line(&other.display().to_string());
        text +=
            &format!("  also mounted on {other}: writers of the two do not wait for each other\n");
    }
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
    // Writing to a string cannot fail.
    let _ = write_lines(&mut text, report);
    text
}

fn write_lines(text: &mut String, report: &Value) -> std::fmt::Result {
    let saves = &report["saves"];
    writeln!(
        text,
        "  daemon {}, version {}, since {}; {} saved, {} abandoned, {} failed",
        number(&report["pid"]),
        report["version"].as_str().map_or("?".to_owned(), one_line),
        time(&report["since"]),
        number(&saves["done"]),
        number(&saves["abandoned"]),
        number(&saves["failed"]),
    )?;
    let micros = |percentile: &str| {
        let micros = report["save_microseconds"][percentile].as_u64();
        format!("{:.2} ms", micros.unwrap_or_default() as f64 / 1000.0)
    };
    if saves["done"].as_u64() > Some(0) {
        writeln!(
            text,
            "  time of a save: median {}, 90 % within {}, 99 % within {}, at most {}",
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
    if report["all_processes"] == false {
        writeln!(
            text,
            "  and perhaps others: too many files are open to look at all of them"
        )?;
    }
    if report["unseen_writers"] == true {
        writeln!(
            text,
            "  programs have written whose processes cannot be seen from the daemon's pid \
             namespace: if such a program is killed, what it has written is saved"
        )?;
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
            also_mounted: vec![PathBuf::from("/n\u{9b}")],
            report: Report::Told(report),
        };
        assert_eq!(
            lines(&mount),
            "\\u{1b}[31m on /m\\n/n on /o\n  also mounted on /n\\u{9b}: writers of the two do not wait for each other\n  \
             daemon ?, version ?, since ; ? saved, ? abandoned, 2 failed\n  \
             ? (a\\nb)  \n"
        );
        let object = object(&mount);
        assert_eq!(object["mountpoint"], "/m\n/n on /o");
        assert_eq!(object["state"], "serving");
    }
}
