//! Writing to standard output (DESIGN 13.5).

use std::ffi::OsStr;
use std::io::{self, StdoutLock, Write};
use std::os::unix::ffi::OsStrExt;

use serde_json::{Map, Value};

use super::failure::{Failure, Result, is_odd};
use crate::repo::SessionName;

/// Lets `f` write to standard output. If the reader of a pipe has closed its end, it
/// has read enough; that is not an error.
pub(super) fn write(f: impl FnOnce(&mut StdoutLock<'static>) -> io::Result<()>) -> Result<()> {
    write_to_reader(f).map(drop)
}

/// The same; answers `false` if the reader has closed its end.
pub(super) fn write_to_reader(
    f: impl FnOnce(&mut StdoutLock<'static>) -> io::Result<()>,
) -> Result<bool> {
    let mut out = io::stdout().lock();
    match f(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::other(format!(
            "cannot write to standard output: {e}"
        ))),
    }
}

/// Rows as lines of aligned columns.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max();
    let widths: Vec<usize> = (0..N).filter_map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A name for terminals and for programs that read lines: characters that a terminal
/// would act on are escaped. Everything else is unchanged, also what is not UTF-8.
pub(super) fn name(name: &OsStr) -> Vec<u8> {
    let mut shown = Vec::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_odd(c) {
                shown.extend(c.escape_default().to_string().into_bytes());
            } else {
                shown.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        for &byte in chunk.invalid() {
            match byte {
                // Control characters for terminals with 8-bit encodings.
                0x80..=0x9f => shown.extend(format!("\\x{byte:02x}").into_bytes()),
                _ => shown.push(byte),
            }
        }
    }
    shown
}

/// JSON for people and programs: characters that a terminal would act on are escaped
/// as well.
pub(super) fn json(value: &Value) -> String {
    let mut text = String::new();
    for c in format!("{value:#}\n").chars() {
        // They occur in strings only, and each is one UTF-16 unit.
        match c {
            '\n' => text.push(c),
            c if is_odd(c) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// An object that names a session: `id`, and `id_bytes` if the id is not UTF-8.
pub(super) fn object_of(name: &SessionName) -> Map<String, Value> {
    let mut object = Map::new();
    let id = name.id();
    object.insert("id".to_owned(), id.to_string_lossy().into());
    if id.to_str().is_none() {
        object.insert("id_bytes".to_owned(), id.as_bytes().into());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_nothing_to_a_terminal() {
        for (given, shown) in [
            (&b"nightly \xc3\xa9\\n"[..], &b"nightly \xc3\xa9\\n"[..]),
            (b"\x1b[2J\n\x7f", b"\\u{1b}[2J\\n\\u{7f}"),
            (b"\xc2\x9b", b"\\u{9b}"),
            (b"\x9b31m\xe9\xff", b"\\x9b31m\xe9\xff"),
            ("\u{202e}".as_bytes(), b"\\u{202e}"),
        ] {
            assert_eq!(name(OsStr::from_bytes(given)), shown, "{given:?}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "é", "x"], ["bcd", "ef", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "a    é   x\nbcd  ef\n");
        assert_eq!(columns::<2>(&[]), "");
    }

    #[test]
    fn json_says_the_same_without_odd_characters() {
        let value = Value::from(vec!["a\u{1b}\n\u{9b}\u{202e}é", ""]);
        let text = json(&value);
        assert!(!text.replace('\n', "").contains(is_odd), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn an_id_that_is_not_utf_8_survives_in_an_object() {
        let object = |id: &[u8]| {
            let name = SessionName::from_id(OsStr::from_bytes(id)).unwrap();
            Value::from(object_of(&name)).to_string()
        };
        assert_eq!(object("é\n".as_bytes()), r#"{"id":"é\n"}"#);
        assert_eq!(
            object(b"a\xff"),
            "{\"id\":\"a\u{fffd}\",\"id_bytes\":[97,255]}"
        );
    }
}
