//! Mount options as mount(8) and fstab(5) write them: `-o ro,lock_wait=3`.
//!
//! Each is another spelling of a long option of `sessionfs mount`
//! (`--ro --lock-wait=3`), and is turned into that, so that names, values and
//! meanings are defined in one place.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{ArgAction, Command};

use super::failure::{Failure, Result, Status};

/// Options, with or without a value, that are meant for mount(8), systemd or people,
/// or that ask for what holds anyway. mount.fuse3(8) adds `dev` and `suid` by itself;
/// they have no effect here. A mount shows `user_id` and `group_id`, and a remount
/// passes them back.
pub(super) const NOT_OURS: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "comment",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "fail",
    "group",
    "group_id",
    "loud",
    "noauto",
    "nodiratime",
    "nofail",
    "nogroup",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "silent",
    "strictatime",
    "suid",
    "uhelper",
    "user",
    "user_id",
    "users",
];

/// The long options of `mount` that are not mount options.
const NOT_FOR_A_MOUNT: &[&str] = &["help", "foreground", "background-process", "options"];

/// Turns the `-o` options among the arguments of `mount` into long options.
/// `sloppy` leaves out unknown ones (mount(8), `-s`).
pub(super) fn spell_out(
    arguments: impl IntoIterator<Item = OsString>,
    mount: &Command,
    sloppy: bool,
) -> Result<Vec<OsString>> {
    let mut spelled = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        let list = match bytes {
            b"--" => {
                spelled.push(argument);
                spelled.extend(arguments);
                break;
            }
            b"-o" | b"--options" => arguments
                .next()
                .ok_or_else(|| usage("a list of options is missing after -o".to_owned()))?,
            _ => match bytes
                .strip_prefix(b"--options=")
                .or(bytes.strip_prefix(b"-o"))
            {
                Some(list) => OsStr::from_bytes(list).to_owned(),
                None => {
                    spelled.push(argument);
                    continue;
                }
            },
        };
        for option in split(list.as_bytes()) {
            spelled.extend(spell(&option, mount, sloppy)?);
        }
    }
    Ok(spelled)
}

/// The options of a list. A backslash keeps a comma or a backslash in the
/// value (as in libfuse).
pub(super) fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut options = vec![Vec::new()];
    let mut bytes = list.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' => options.push(Vec::new()),
            b'\\' => options.last_mut().into_iter().for_each(|option| {
                option.extend(bytes.next());
            }),
            byte => options.last_mut().into_iter().for_each(|o| o.push(byte)),
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

/// One option as a long option; `None` if it is not for us.
fn spell(option: &[u8], mount: &Command, sloppy: bool) -> Result<Option<OsString>> {
    let end = option.iter().position(|&byte| byte == b'=');
    let (name, value) = option.split_at(end.unwrap_or(option.len()));
    let name = String::from_utf8_lossy(name);
    let is_comment = name.starts_with("x-") || name.starts_with("X-");
    if is_comment || NOT_OURS.contains(&&*name) {
        return Ok(None);
    }
    let long = name.replace('_', "-");
    let Some(known) = options_of(mount).find(|argument| argument.get_long() == Some(&long)) else {
        if sloppy {
            return Ok(None);
        }
        return Err(unknown(&name, mount));
    };
    let takes_value = matches!(known.get_action(), ArgAction::Set | ArgAction::Append);
    match (takes_value, value.is_empty()) {
        (true, true) => Err(usage(format!(
            "the option \"{name}\" needs a value: {name}=…"
        ))),
        (false, false) => Err(usage(format!("the option \"{name}\" takes no value"))),
        _ => {
            let mut spelled = format!("--{long}").into_bytes();
            spelled.extend(value);
            Ok(Some(OsString::from_vec(spelled)))
        }
    }
}

/// The options of `mount` that a list may have, under their long names.
pub(super) fn options_of(mount: &Command) -> impl Iterator<Item = &clap::Arg> {
    mount.get_arguments().filter(|argument| {
        let long = argument.get_long();
        long.is_some_and(|long| !NOT_FOR_A_MOUNT.contains(&long))
    })
}

fn unknown(name: &str, mount: &Command) -> Failure {
    let known = options_of(mount)
        .filter_map(|argument| Some(argument.get_long()?.replace('-', "_")))
        .chain(NOT_OURS.iter().map(|&name| name.to_owned()));
    let alike = known
        .map(|known| (strsim::jaro_winkler(name, &known), known))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let hint = alike.map_or_else(String::new, |(_, known)| {
        format!("; the nearest is \"{known}\"")
    });
    usage(format!("unknown mount option \"{name}\"{hint}"))
}

fn usage(message: String) -> Failure {
    let message = format!("{message} (see sessionfs mount --help)");
    Failure::new(Status::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Mount {
        #[command(flatten)]
        _arguments: super::super::mount::Arguments,
    }

    fn spelled(arguments: &[&str], sloppy: bool) -> std::result::Result<Vec<String>, String> {
        let arguments = arguments.iter().map(OsString::from);
        let spelled = spell_out(arguments, &Mount::command(), sloppy);
        let text = |argument: OsString| argument.into_string().unwrap();
        match spelled {
            Ok(arguments) => Ok(arguments.into_iter().map(text).collect()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn options_become_long_ones() {
        for (arguments, expected) in [
            (
                &["/r", "/m", "-o", "ro,lock_wait=3"][..],
                &["/r", "/m", "--ro", "--lock-wait=3"][..],
            ),
            (&["-oro", "--options=noexec"], &["--ro", "--noexec"]),
            (
                &["-o", r"fsname=a\,b\\c,,allow_other"],
                &[r"--fsname=a,b\c", "--allow-other"],
            ),
            (&["-o", "rw,nofail,user=me,x-systemd.after=x"], &["--rw"]),
            (&["-o", "defaults,_netdev,noauto"], &[]),
            (&["--ro", "--", "-o", "x"], &["--ro", "--", "-o", "x"]),
            (&["-o", "fsname=a=b"], &["--fsname=a=b"]),
        ] {
            assert_eq!(spelled(arguments, false).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_unknown_is_named_with_what_is_nearest() {
        let said = spelled(&["-o", "alow_other"], false).unwrap_err();
        assert!(
            said.contains("\"alow_other\"") && said.contains("\"allow_other\""),
            "{said}"
        );
        let said = spelled(&["-o", "lockwait=3"], false).unwrap_err();
        assert!(said.contains("\"lock_wait\""), "{said}");
        for none in ["foreground", "help", "background_process", "options=ro"] {
            assert!(spelled(&["-o", none], false).is_err(), "{none}");
        }
        assert_eq!(spelled(&["-o", "alow_other,ro"], true).unwrap(), ["--ro"]);
    }

    #[test]
    fn a_value_too_much_or_too_little_is_told() {
        for list in ["ro=1", "lock_wait", "fsname"] {
            let said = spelled(&["-o", list], false).unwrap_err();
            assert!(said.contains("value"), "{said}");
        }
        assert!(spelled(&["-o"], false).is_err());
    }
}
