//! What the manual pages are made of: sections and paragraphs in the requests of man(7).

use clap_mangen::roff::{Roff, roman};

/// How long a line of text is in the source of a page.
const WIDTH: usize = 78;

pub(super) fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

pub(super) fn paragraphs(roff: &mut Roff, texts: impl Iterator<Item = impl AsRef<str>>) {
    for (at, text) in texts.enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(wrapped(text.as_ref()))]);
    }
}

/// Text in lines of limited length, so that the source of a page is readable.
pub(super) fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let separator = match width {
            0 => "",
            width if width + word.len() < WIDTH => " ",
            _ => "\n",
        };
        width = if separator == " " { width + 1 } else { 0 } + word.len();
        lines.extend([separator, word]);
    }
    lines
}
