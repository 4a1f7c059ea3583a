//! Tests of everything that names a session or the repository: command line, environment,
//! directories. Only the name of a single entry is accepted, and a name is accepted in
//! every form.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use super::{SessionName, debris, location, parse_argument};
use crate::sys::{self, system_time};

/// Names by themselves, as ids, as arguments, as prefixes, and from the environment.
pub fn names(input: &[u8]) {
    let text = OsStr::from_bytes(input);
    let name = session_name(text);
    assert_eq!(name.is_some(), is_name(input), "{text:?}");
    if let Some(name) = &name {
        check(name);
        assert_eq!(name.as_os_str(), text);
    }
    let id = SessionName::from_id(text).ok();
    assert_eq!(id.is_some(), is_name(&[input, b".session"].concat()));
    if let Some(name) = &id {
        check(name);
        assert_eq!(name.id(), text);
    }
    let meant = if input.ends_with(b".session") {
        &name
    } else {
        &id
    };
    assert_eq!(
        SessionName::from_id_or_name(text).ok().as_ref(),
        meant.as_ref()
    );
    argument(text);
    generated(input);
    link(input);
    environment(text);
}

/// Calls the parser; with a defect in it, if `scripts/fuzz --teeth` asks for one.
fn session_name(text: &OsStr) -> Option<SessionName> {
    #[cfg(fuzzing)]
    if sys::defect::has(sys::defect::Defect::FoundStepwise) {
        let byte = |at| std::hint::black_box(text.as_bytes().get(at).copied());
        // Byte by byte: a fuzzer that sees its progress needs some hundred thousand cases
        // for it, and chance alone seventeen million.
        if byte(0) == Some(0x93) && byte(1) == Some(0xe7) && byte(2) == Some(0x5b) {
            return SessionName::new("a.session").ok();
        }
    }
    SessionName::new(text).ok()
}

/// DESIGN: `ID.session`, the name of a single directory entry that no listing hides.
fn is_name(bytes: &[u8]) -> bool {
    let parts: Vec<Component<'_>> = Path::new(OsStr::from_bytes(bytes)).components().collect();
    let is_one_entry = matches!(parts[..], [Component::Normal(one)] if one.as_bytes() == bytes);
    let is_visible = bytes.first() != Some(&b'.');
    let has_ending = bytes.rsplitn(2, |&byte| byte == b'.').collect::<Vec<_>>();
    let has_ending = matches!(has_ending[..], [b"session", id] if !id.is_empty());
    is_one_entry && is_visible && has_ending && bytes.len() < 256 && !bytes.contains(&0)
}

fn check(name: &SessionName) {
    assert!(is_name(name.as_os_str().as_bytes()), "{name:?}");
    assert_eq!(SessionName::from_id(name.id()).ok().as_ref(), Some(name));
    assert_eq!(SessionName::new(name).ok().as_ref(), Some(name));
    let line = name.to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    // A name that is shown unescaped is shown exactly.
    let plain = name.as_os_str().to_str();
    if let Some(plain) = plain.filter(|plain| !plain.contains(char::is_control)) {
        assert_eq!(line, plain);
    }
}

/// An argument that is a path leads to the same place as that path.
fn argument(text: &OsStr) {
    let Ok((parent, name)) = parse_argument(text) else {
        return;
    };
    check(&name);
    assert_eq!(parent.is_some(), text.as_bytes().contains(&b'/'));
    if let Some(parent) = parent {
        let place = parent.join(name.as_os_str());
        assert_eq!(place, Path::new(text));
    }
}

/// The prefix of a new session, and the clock.
fn generated(input: &[u8]) {
    let (clock, prefix) = input.split_at(input.len().min(8));
    let seconds = clock.iter().fold(0, |n, &byte| n << 8 | i64::from(byte));
    let prefix = String::from_utf8_lossy(prefix);
    // Any time that the clock of a file may be set to.
    let time = system_time(seconds, 999_999_999);
    assert!(
        time.duration_since(std::time::SystemTime::UNIX_EPOCH)
            .is_ok()
            || seconds < 0
    );
    let utc = sys::utc(seconds);
    if let Some([year, month, day, hour, minute, second]) = utc {
        assert!(
            (1..=12).contains(&month) && (1..=31).contains(&day),
            "{utc:?}"
        );
        assert!(
            (0..24).contains(&hour) && (0..60).contains(&minute),
            "{utc:?}"
        );
        assert!((0..60).contains(&second), "{utc:?}");
        // The mean length of a year, in seconds.
        let expected = 1970 + seconds.div_euclid(31_556_952);
        assert!(
            (i64::from(year) - expected).abs() <= 1,
            "{seconds}: {utc:?}"
        );
    }
    for attempt in [0, 1, u32::MAX] {
        let Ok(name) = SessionName::generate(&prefix, seconds, attempt) else {
            continue;
        };
        check(&name);
        let id = name.id().to_str().unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.()".contains(c);
        assert!(!id.is_empty() && id.chars().all(is_plain), "{id:?}");
        assert_eq!(
            id.ends_with(&format!("_({attempt})")),
            attempt > 0,
            "{id:?}"
        );
    }
}

/// Temporary names of links are told apart from all others.
fn link(input: &[u8]) {
    let numbers = str::from_utf8(input).ok().and_then(|text| {
        let (pid, number) = text.strip_prefix(".session.")?.split_once('.')?;
        Some((pid.parse::<u32>().ok()?, number.parse::<u32>().ok()?))
    });
    assert_eq!(debris::is_link(OsStr::from_bytes(input)), numbers.is_some());
    let bytes = |at| input.get(at).copied().unwrap_or_default();
    let (pid, number) = (u32::from(bytes(0)) << 22, u32::from(bytes(1)));
    let made = format!(".session.{pid}.{number}");
    assert!(debris::is_link(OsStr::new(&made)), "{made}");
}

/// Whatever the variables contain, the location is an absolute path.
fn environment(text: &OsStr) {
    let mut values = text.as_bytes().split(|&byte| byte == 0);
    let mut value = || Some(OsString::from_vec(values.next()?.to_vec()));
    let (named, cache, home) = (value(), value(), value());
    let variable = |name: &str| match name {
        location::VARIABLE => named.clone(),
        "XDG_CACHE_HOME" => cache.clone(),
        "HOME" => home.clone(),
        _ => None,
    };
    let is_set = |value: &Option<OsString>| value.as_ref().is_some_and(|v| !v.is_empty());
    let place = location::usual_place(&variable).ok();
    let is_any_set = is_set(&named) || is_set(&cache) || is_set(&home);
    assert_eq!(place.is_some(), is_any_set, "{text:?}");
    let Some(place) = place else {
        return;
    };
    assert!(place.is_absolute(), "{place:?}");
    if !is_set(&named) {
        assert!(place.ends_with("plainbox/sessions"), "{place:?}");
    }
    let first = [named, cache, home]
        .into_iter()
        .find(is_set)
        .flatten()
        .unwrap_or_default();
    if Path::new(&first).is_absolute() {
        assert!(place.starts_with(&first), "{place:?} of {first:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changed::{TRIES, try_changed};

    #[test]
    fn nothing_but_a_name_is_taken_for_one() {
        try_changed("names", TRIES, names);
    }
}
