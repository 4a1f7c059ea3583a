//! Tests of what comes from outside: the options and complaints of fusermount3, and
//! `/proc/self/fdinfo`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Output};

use super::options::{self, Access, MountOptions};
use super::{fusermount, table};

/// A value, escaped as in a list of options.
pub fn escaped(value: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    options::escape(OsStr::from_bytes(value), &mut text);
    text
}

/// The options of a mount, as the helper takes them apart; its complaints, in a
/// line; and the lines of fdinfo. The first byte chooses options, and the rest is
/// names up to a NUL.
pub fn helper(input: &[u8]) {
    let (&chosen, rest) = input.split_first().unwrap_or((&0, &[]));
    let is = |bit: u32| chosen >> bit & 1 == 1;
    let mut names = rest.split(|&byte| byte == 0);
    let mut name = || OsString::from_vec(names.next().unwrap_or_default().to_vec());
    let (repository, source, subtype) = (name(), name(), name());
    let options = MountOptions {
        read_only: is(0),
        no_exec: is(1),
        no_atime: is(2),
        access: match (is(3), is(4)) {
            (true, _) => Access::Everybody,
            (false, true) => Access::OwnerAndRoot,
            (false, false) => Access::Owner,
        },
        default_permissions: is(5),
        auto_unmount: is(6),
        source: Some(source).filter(|source| !source.is_empty()),
        subtype: Some(subtype).filter(|subtype| !subtype.is_empty()),
        max_read: is(7).then_some(u32::from(chosen) << 12),
    };
    let mut expected: Vec<Vec<u8>> = vec![b"nosuid".into(), b"nodev".into()];
    for (bit, name) in [
        (0, "ro"),
        (1, "noexec"),
        (2, "noatime"),
        (6, "auto_unmount"),
    ] {
        expected.extend(is(bit).then(|| name.into()));
    }
    let subtype = options
        .subtype
        .as_deref()
        .unwrap_or(OsStr::new("sessionfs"));
    let source = options.source.as_deref().unwrap_or(&repository);
    expected.push([b"subtype=", subtype.as_bytes()].concat());
    expected.push([b"fsname=", source.as_bytes()].concat());
    let others = is(3) || is(4);
    expected.extend(others.then(|| b"allow_other".into()));
    expected.extend((others || is(5)).then(|| b"default_permissions".into()));
    expected.extend(
        options
            .max_read
            .map(|most| format!("max_read={most}").into()),
    );
    let told = options.for_helper(Path::new(&repository));
    assert_eq!(as_the_helper(told.as_bytes()), expected);

    let output = Output {
        status: ExitStatus::from_raw(256),
        stdout: Vec::new(),
        stderr: rest.to_vec(),
    };
    let said = fusermount::said(&output);
    assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");

    let text = String::from_utf8_lossy(rest);
    let mount: Option<u64> = table::value_of(&text, "mnt_id:");
    let plain = text
        .split('\n')
        .filter(|line| line.starts_with("mnt_id:"))
        .find_map(|line| line["mnt_id:".len()..].trim().parse().ok());
    assert_eq!(mount, plain);
}

/// A list of options as fusermount3 takes it apart (do_mount in
/// util/fusermount.c, libfuse 3.17): up to a comma without a backslash before it;
/// the backslashes go.
fn as_the_helper(list: &[u8]) -> Vec<Vec<u8>> {
    let mut options = Vec::new();
    let mut at = 0;
    while at < list.len() {
        let mut option = Vec::new();
        while at < list.len() && list[at] != b',' {
            at += usize::from(list[at] == b'\\' && at + 1 < list.len());
            option.push(list[at]);
            at += 1;
        }
        at += 1;
        options.push(option);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changed::{TRIES, try_changed};

    #[test]
    fn the_helper_takes_any_name_as_it_is() {
        try_changed("helper", TRIES, helper);
    }
}
