//! Other ways to call `sessionfs mount`: as mount(8) calls its helpers, and as FUSE
//! programs are called (`sessionfs REPOSITORY MOUNTPOINT -o …`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Command;

use super::failure::{Failure, Result, Status};
use super::option_list;

/// The program's name, as the first argument.
const NAME: &str = "sessionfs";

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To run with these arguments, the program's name first.
    Do(Vec<OsString>),
    /// Nothing: mount(8) only checks whether it would work (`-f`).
    Nothing,
}

/// Turns the arguments into those of a command of `cli`, with mount options as long
/// options.
pub(super) fn understand(
    arguments: impl IntoIterator<Item = OsString>,
    cli: &Command,
) -> Result<Asked> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    let called_as = Path::new(&program).file_name().unwrap_or_default();
    if called_as.as_bytes().starts_with(b"mount.") {
        return as_helper(rest, cli);
    }
    if let Some((first, about)) = rest.split_first()
        && first == "help"
    {
        let about = about.iter().take(1).cloned();
        let arguments = [NAME.into()].into_iter().chain(about);
        return Ok(Asked::Do(arguments.chain(["--help".into()]).collect()));
    }
    let is_mount = rest.first().is_some_and(|first| first == "mount");
    let options = match (is_mount, names_no_command(&rest, cli)) {
        (true, _) => rest.get(1..).unwrap_or_default(),
        (false, true) => &rest,
        (false, false) => {
            let arguments = [NAME.into()].into_iter().chain(rest);
            return Ok(Asked::Do(arguments.collect()));
        }
    };
    mount(options.to_vec(), cli, false).map(Asked::Do)
}

/// Whether this is `REPOSITORY MOUNTPOINT -o …`, and not a (mistyped) command.
fn names_no_command(arguments: &[OsString], cli: &Command) -> bool {
    let Some(first) = arguments.first() else {
        return false;
    };
    let is_command = cli.get_subcommands().any(|c| first == c.get_name());
    let is_option = first.as_bytes().starts_with(b"-");
    let has_options = arguments
        .iter()
        .any(|argument| argument.as_bytes().starts_with(b"-o"));
    !is_command && !is_option && (has_options || first.as_bytes().contains(&b'/'))
}

/// The helper's arguments (mount(8), EXTERNAL HELPERS):
/// `SOURCE TARGET [-sfnv] [-N namespace] [-o options] [-t type.subtype]`.
fn as_helper(arguments: Vec<OsString>, cli: &Command) -> Result<Asked> {
    let mut options = Vec::new();
    let mut paths = Vec::new();
    let (mut sloppy, mut fake) = (false, false);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let Some(letters) = argument.as_bytes().strip_prefix(b"-") else {
            paths.push(argument);
            continue;
        };
        if argument == "--help" || argument == "--version" {
            return Ok(Asked::Do(vec![NAME.into(), "mount".into(), argument]));
        }
        for (at, letter) in letters.iter().enumerate() {
            match letter {
                b's' => sloppy = true,
                b'f' => fake = true,
                // There is no mtab to write, and nothing to print.
                b'n' | b'v' => {}
                b'r' => options.extend(["-o".into(), "ro".into()]),
                b'w' => options.extend(["-o".into(), "rw".into()]),
                b'o' | b't' => {
                    let attached = OsStr::from_bytes(&letters[at + 1..]).to_owned();
                    let value = match attached.is_empty() {
                        true => arguments.next().unwrap_or_default(),
                        false => attached,
                    };
                    if *letter == b'o' {
                        options.extend(["-o".into(), value]);
                    }
                    break;
                }
                _ => {
                    return Err(Failure::new(
                        Status::Usage,
                        format!(
                            "unknown option \"{}\" (see sessionfs mount --help)",
                            argument.display()
                        ),
                    ));
                }
            }
        }
    }
    options.push("--".into());
    options.extend(paths);
    let arguments = mount(options, cli, sloppy)?;
    Ok(if fake {
        Asked::Nothing
    } else {
        Asked::Do(arguments)
    })
}

fn mount(options: Vec<OsString>, cli: &Command, sloppy: bool) -> Result<Vec<OsString>> {
    let mut arguments = vec![NAME.into(), "mount".into()];
    if let Some(command) = cli.find_subcommand("mount") {
        arguments.extend(option_list::spell_out(options, command, sloppy)?);
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn understood(arguments: &[&str]) -> Result<Asked> {
        let arguments = arguments.iter().map(OsString::from);
        understand(arguments, &super::super::Cli::command())
    }

    fn done(arguments: &[&str]) -> Asked {
        Asked::Do(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn mount_is_said_in_three_ways() {
        let expected = done(&["sessionfs", "mount", "/r", "/m", "--ro"]);
        for arguments in [
            &["sessionfs", "mount", "/r", "/m", "-o", "ro"][..],
            &["./sessionfs", "/r", "/m", "-o", "ro"],
            &["sessionfs", "/r", "/m", "-oro"],
            &["sessionfs", "/r", "/m", "--ro"],
        ] {
            assert_eq!(understood(arguments).unwrap(), expected, "{arguments:?}");
        }
        for arguments in [
            &["/sbin/mount.sessionfs", "/r", "/m", "-o", "ro"][..],
            &["mount.sessionfs", "/r", "/m", "-sno", "ro,nonsense"],
            &[
                "mount.fuse.sessionfs",
                "-r",
                "/r",
                "/m",
                "-t",
                "fuse.sessionfs",
            ],
        ] {
            let expected = done(&["sessionfs", "mount", "--ro", "--", "/r", "/m"]);
            assert_eq!(understood(arguments).unwrap(), expected, "{arguments:?}");
        }
        let fake = &["mount.sessionfs", "/r", "/m", "-f", "-o", "rw"];
        assert_eq!(understood(fake).unwrap(), Asked::Nothing);
    }

    #[test]
    fn help_is_asked_for_as_of_other_programs() {
        for (arguments, expected) in [
            (&["sessionfs", "help"][..], &["sessionfs", "--help"][..]),
            (
                &["sessionfs", "help", "mount"],
                &["sessionfs", "mount", "--help"],
            ),
            (
                &["sessionfs", "mount", "--help"],
                &["sessionfs", "mount", "--help"],
            ),
        ] {
            assert_eq!(understood(arguments).unwrap(), done(expected));
        }
    }

    #[test]
    fn what_is_meant_as_a_command_stays_one() {
        for arguments in [
            &["sessionfs"][..],
            &["sessionfs", "list", "/x"],
            &["sessionfs", "lsit", "x"],
            &["sessionfs", "--help"],
        ] {
            assert_eq!(understood(arguments).unwrap(), done(arguments));
        }
    }

    #[test]
    fn options_that_a_helper_does_not_know_are_told() {
        let odd = &["mount.sessionfs", "/r", "/m", "-x"];
        assert!(understood(odd).unwrap_err().to_string().contains("\"-x\""));
        let odd = &["mount.sessionfs", "/r", "/m", "-f", "-o", "nonsense"];
        assert!(understood(odd).is_err());
    }
}
