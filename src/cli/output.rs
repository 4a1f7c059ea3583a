//! Writing to standard output.

use std::io::{self, StdoutLock, Write};
use std::os::unix::ffi::OsStrExt;

use serde_json::{Map, Value};

use super::failure::{Failure, Result};
use crate::repo::SessionName;

/// Lets `f` write. A reader that has closed its end of the pipe has seen
/// enough: that is no failure.
pub(super) fn write(f: impl FnOnce(&mut StdoutLock<'static>) -> io::Result<()>) -> Result<()> {
    let mut out = io::stdout().lock();
    match f(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::other(format!(
            "cannot write to standard output: {e}"
        ))),
        _ => Ok(()),
    }
}

/// Lines of columns, each as wide as it has to be, the last as it is.
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

/// An object that says which session it is about: `id`, and its bytes as
/// `id_bytes` if JSON has no other way to say it.
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
    use std::ffi::OsStr;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "é", "x"], ["bcd", "ef", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "a    é   x\nbcd  ef\n");
        assert_eq!(columns::<2>(&[]), "");
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
