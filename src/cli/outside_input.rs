//! Tests of what comes from outside: the command line, and the reports of daemons.

use std::cell::LazyCell;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches};
use serde_json::Value;

use super::failure::{Failure, one_line};
use super::{Cli, Command, helper, human, mount, option_list, status};
use crate::mount::outside_input::escaped;
use crate::mount::status::{Report, Status};

thread_local! {
    static CLI: LazyCell<clap::Command> = const { LazyCell::new(Cli::command) };
}

/// The arguments of the program, each followed by a NUL, its name first: as in
/// `/proc/PID/cmdline`.
pub fn options(input: &[u8]) {
    let arguments: Vec<OsString> = input
        .split(|&byte| byte == 0)
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect();
    CLI.with(|cli| understood(&arguments, cli));
    for argument in &arguments {
        list(argument.as_bytes());
        if let Some(text) = argument.to_str() {
            seconds(text);
        }
    }
    let values: Vec<&[u8]> = input.split(|&byte| byte == 0).collect();
    let told = values
        .iter()
        .map(|value| escaped(value))
        .collect::<Vec<_>>();
    let mut split = option_list::split(&told.join(&b','));
    assert!(split.iter().all(|option| !option.is_empty()));
    split.retain(|option| !option.is_empty());
    let expected: Vec<_> = values
        .into_iter()
        .filter(|value| !value.is_empty())
        .collect();
    assert_eq!(split, expected);
}

/// A list in the words of mount(8), which has no escapes, is taken apart at its
/// commas; with escapes, nothing is lost but backslashes.
fn list(list: &[u8]) {
    let split = option_list::split(list);
    let length: usize = split.iter().map(Vec::len).sum();
    let backslashes = list.iter().filter(|&&byte| byte == b'\\').count();
    let commas = list.iter().filter(|&&byte| byte == b',').count();
    assert!(length + backslashes + commas >= list.len(), "{split:?}");
    assert!(split.len() <= commas + 1);
    if backslashes == 0 {
        let plain: Vec<_> = list
            .split(|&b| b == b',')
            .filter(|o| !o.is_empty())
            .collect();
        assert_eq!(split, plain);
    }
}

fn understood(arguments: &[OsString], cli: &clap::Command) {
    let asked = match helper::understand(arguments.iter().cloned(), cli) {
        Ok(helper::Asked::Do(asked)) => asked,
        Ok(helper::Asked::Nothing) => return,
        Err(failure) => return told_in_a_line(&failure),
    };
    let program = asked.first().cloned().unwrap_or_default();
    if asked.get(1).is_some_and(|command| command == "mount") {
        // All lists have been replaced by long options.
        let again = helper::understand(asked.iter().cloned(), cli);
        let again = again.unwrap_or(helper::Asked::Nothing);
        assert_eq!(again, helper::Asked::Do(asked.clone()), "{program:?}");
    }
    let parsed = cli.clone().try_get_matches_from(asked).and_then(|given| {
        let cli = Cli::from_arg_matches(&given)?;
        Ok((cli, given))
    });
    match parsed {
        Ok((
            Cli {
                command: Command::Mount(arguments),
            },
            mut given,
        )) => {
            let (_, given) = given.remove_subcommand().unwrap_or_default();
            in_the_background(&arguments, &given, cli);
        }
        Ok(_) => {}
        Err(error) if !error.use_stderr() => {}
        Err(error) => told_in_a_line(&Failure::usage(&error, None)),
    }
}

/// The background process of a mount understands the request that was made.
fn in_the_background(arguments: &mount::Arguments, given: &clap::ArgMatches, cli: &clap::Command) {
    // The default repository is looked for on the disk.
    if arguments.foreground || arguments.repository().is_none() {
        return;
    }
    let Ok((request, log)) = mount::request(arguments) else {
        return;
    };
    let told = mount::background_arguments(given, &request, &log);
    let told = [OsString::from("sessionfs")].into_iter().chain(told);
    let again = cli.clone().try_get_matches_from(told);
    let again = again.and_then(|given| Cli::from_arg_matches(&given));
    let Ok(Cli {
        command: Command::Mount(again),
    }) = again
    else {
        unreachable!("{again:?}");
    };
    let again = mount::request(&again).ok();
    assert_eq!(format!("{again:?}"), format!("{:?}", Some((request, log))));
}

fn told_in_a_line(failure: &Failure) {
    let line = one_line(&failure.to_string());
    assert!(
        !line.is_empty() && !line.contains(char::is_control),
        "{line:?}"
    );
}

fn seconds(text: &str) {
    let Ok(time) = mount::seconds(text) else {
        return;
    };
    // A number, and one that a clock can be set forward by.
    assert!(time.as_secs() <= 1_000_000_000, "{text:?}: {time:?}");
    let said: f64 = text.parse().unwrap_or(f64::NAN);
    assert!(
        (time.as_secs_f64() - said).abs() <= 1e-6,
        "{text:?}: {time:?}"
    );
}

/// The report of a daemon, which may be any user's: mountpoint, source and report,
/// separated by NULs.
pub fn report(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (mountpoint, source, text) = (part(), part(), part());
    let report = match serde_json::from_slice::<Value>(text) {
        Ok(report) => Report::Told(report),
        Err(error) => Report::Unknown(error.to_string()),
    };
    let status = Status {
        also_mounted: Vec::new(),
        mountpoint: PathBuf::from(OsStr::from_bytes(mountpoint)),
        source: String::from_utf8_lossy(source).into_owned(),
        report,
    };
    let text = status::lines(&status);
    assert!(text.ends_with('\n'));
    let is_odd = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(is_odd), "{text:?}");
    // One line on the mount, and those below it are indented.
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.contains(" on "), "{text:?}");
    assert!(lines.all(|line| line.starts_with("  ")), "{text:?}");

    let object = status::object(&status);
    assert!(serde_json::from_str::<Value>(&object.to_string()).is_ok());
    // The daemon must not be able to set what is known without it.
    let known = |key: &str| object[key].as_str().unwrap_or_default();
    assert_eq!(known("mountpoint"), status.mountpoint.to_string_lossy());
    assert_eq!(known("source"), status.source);
    let is_told = matches!(status.report, Report::Told(_));
    let state = if is_told { "serving" } else { "unknown" };
    assert_eq!(known("state"), state);
    let number = object["since"].as_i64().unwrap_or_default();
    human::utc(number);
    human::size(number.unsigned_abs());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changed::try_changed;

    #[test]
    fn arguments_say_the_same_in_every_way() {
        // Each takes as long as a hundred of the others.
        try_changed("options", 2_000, options);
    }

    #[test]
    fn a_report_is_shown_line_by_line_whoever_has_written_it() {
        try_changed("report", crate::changed::TRIES, report);
    }
}
