//! A document of ours as a manual page: what of Markdown our documents use.
//!
//! Headings, paragraphs, lists, tables and code become the requests of man(7). The
//! first heading is left to the caller. A row of a table becomes an item: its first
//! cell is the tag, and the titles of the columns introduce the other cells.

use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::page::{section, wrapped};

/// Writes the document, without its title, into a page.
pub(super) fn write(roff: &mut Roff, document: &str) {
    let lines: Vec<&str> = document.lines().collect();
    let mut at = 0;
    let mut columns: Vec<&str> = Vec::new();
    // A heading is a paragraph's beginning already.
    let mut is_below_heading = true;
    while let Some(line) = lines.get(at) {
        let begin = at;
        at += 1;
        if let Some(title) = line.strip_prefix("## ") {
            section(roff, &title.to_uppercase());
        } else if let Some(title) = line.strip_prefix("### ") {
            roff.control("SS", [title]);
        } else if line.starts_with("```") {
            at += lines[at..].iter().take_while(|l| **l != "```").count();
            code(roff, &lines[begin + 1..at]);
            at += 1;
        } else if line.starts_with('|') {
            let cells = cells(line);
            match lines.get(at) {
                Some(next) if next.starts_with("|---") => {
                    columns = cells;
                    at += 1;
                }
                _ => row(roff, &columns, &cells),
            }
        } else if !line.is_empty() && !line.starts_with("# ") {
            at += lines[at..].iter().take_while(|l| continues(l)).count();
            let text: Vec<&str> = lines[begin..at].iter().map(|l| l.trim()).collect();
            let text = text.join(" ");
            match item(&text) {
                Some((tag, text)) => {
                    roff.control("IP", [tag, "4"]);
                    roff.text(inlines(text));
                }
                None => {
                    if !is_below_heading {
                        roff.control("PP", []);
                    }
                    roff.text(inlines(&text));
                }
            }
        }
        if !line.is_empty() {
            is_below_heading = line.starts_with('#');
        }
    }
}

/// Whether a line goes on with the paragraph or item above it.
fn continues(line: &str) -> bool {
    let begins = line.starts_with(['#', '|', '`']) && !is_code_span(line);
    !line.is_empty() && !begins && item(line).is_none()
}

/// A line may begin with code; three backticks begin a block of it.
fn is_code_span(line: &str) -> bool {
    line.starts_with('`') && !line.starts_with("```")
}

/// The tag and the text of an item of a list.
fn item(line: &str) -> Option<(&str, &str)> {
    if let Some(text) = line.strip_prefix("- ") {
        return Some(("-", text));
    }
    let (tag, text) = line.split_once(". ")?;
    let is_number = !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| (&line[..=tag.len()], text))
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split(" | ").map(str::trim).collect()
}

fn row(roff: &mut Roff, columns: &[&str], cells: &[&str]) {
    let [tag, rest @ ..] = cells else { return };
    roff.control("TP", []);
    roff.text(inlines(tag));
    for (at, cell) in rest.iter().enumerate() {
        if at > 0 {
            roff.control("br", []);
        }
        match columns.get(at + 1) {
            Some(title) if rest.len() > 1 => roff.text(inlines(&format!("{title}: {cell}"))),
            _ => roff.text(inlines(cell)),
        };
    }
}

fn code(roff: &mut Roff, lines: &[&str]) {
    roff.control("PP", []);
    roff.control("EX", []);
    for line in lines {
        roff.text([roman(*line)]);
    }
    roff.control("EE", []);
}

/// Text in which code, and what is emphasized, is bold.
fn inlines(text: &str) -> Vec<Inline> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*']) {
        let mark = if rest[at..].starts_with("**") {
            "**"
        } else {
            &rest[at..=at]
        };
        let (before, from) = (&rest[..at], &rest[at + mark.len()..]);
        let Some((inside, after)) = from.split_once(mark) else {
            break;
        };
        parts.push((before, false));
        parts.push((inside, true));
        rest = after;
    }
    parts.push((rest, false));
    // Each part in lines of its own length: what is between them must not be lost.
    let shown = parts.into_iter().filter(|(part, _)| !part.is_empty());
    shown
        .map(|(part, is_bold)| {
            let lines = spaced(part);
            if is_bold { bold(lines) } else { roman(lines) }
        })
        .collect()
}

/// Text in lines, with the spaces at its ends.
fn spaced(part: &str) -> String {
    let [before, after] = [part.starts_with(' '), part.ends_with(' ')];
    let space = |is: bool| if is { " " } else { "" };
    match part.trim() {
        "" => " ".to_owned(),
        text => [space(before), &wrapped(text), space(after)].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(document: &str) -> String {
        let mut roff = Roff::new();
        write(&mut roff, document);
        roff.render().replace('\\', "")
    }

    #[test]
    fn each_kind_of_markdown_has_its_request() {
        let page = page(
            "# Title\n\nA paragraph of\ntwo lines with `code`.\n\n## Part\n\n1. **One.** First\n   \
             item.\n- Second\n\n| a | b | c |\n|---|---|---|\n| x | y | z |\n\n```text\n$ run\n```\n",
        );
        assert!(!page.contains("Title"), "{page}");
        for expected in [
            "A paragraph of two lines with fBcodefR.\n.SH PART\n",
            ".IP 1. 4\nfBOne.fR First item.\n",
            ".IP - 4\nSecond\n",
            ".TP\nx\nb: y\n.br\nc: z\n",
            ".EX\n$ run\n.EE\n",
        ] {
            assert!(page.contains(expected), "{expected:?}: {page}");
        }
    }

    #[test]
    fn marks_that_nothing_closes_are_text() {
        assert!(page("2 * 3 and `a\n").contains("2 * 3 and `a\n"));
    }
}
