//! The manual pages and the completions: what their readers (man, mandoc and
//! the shells) say to them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{SESSIONFS, run};

/// What `sessionfs generate` writes.
struct Generated {
    directory: tempfile::TempDir,
}

impl Generated {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        run(
            SESSIONFS,
            [OsStr::new("generate"), directory.path().as_os_str()],
        );
        Self { directory }
    }

    fn completion(&self, name: &str) -> PathBuf {
        self.directory.path().join("completions").join(name)
    }

    fn pages(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path().join("man")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Runs a program on a file; all that it says.
fn said(program: &str, arguments: &[&str], file: &Path) -> String {
    let arguments = arguments.iter().map(OsStr::new);
    let output = run(program, arguments.chain([file.as_os_str()]));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_pages_are_read_without_a_warning() {
    let generated = Generated::new();
    let pages = generated.pages();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        run(
            "mandoc",
            ["-T", "lint", "-W", "warning"]
                .map(OsStr::new)
                .into_iter()
                .chain([page.as_os_str()]),
        );
        let warnings = said("man", &["--warnings", "-E", "UTF-8", "-l", "-Z"], &page);
        assert_eq!(warnings, "", "{page:?}");
    }
}

#[test]
fn the_name_of_each_page_is_found_by_whatis() {
    for page in Generated::new().pages() {
        let output = run("lexgrog", [&page]);
        let name = page.file_stem().unwrap().to_str().unwrap();
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(found.contains(&format!("\"{name} - ")), "{found}");
    }
}

#[test]
fn the_shells_take_their_completions() {
    let generated = Generated::new();
    for (shell, name) in [
        ("bash", "sessionfs.bash"),
        ("zsh", "_sessionfs"),
        ("fish", "sessionfs.fish"),
    ] {
        let file = generated.completion(name);
        assert_eq!(said(shell, &["-n"], &file), "", "{shell}");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("lock-wait"), "{shell}");
        assert!(!text.contains("background"), "{shell}: what is hidden");
        assert!(!text.contains("generate"), "{shell}: what is hidden");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let generated = Generated::new();
    let file = generated.completion("sessionfs.bash");
    let complete = |words: &str, at: u32| {
        let script = format!(
            ". {}; COMP_WORDS=({words}); COMP_CWORD={at}; \
             _sessionfs sessionfs \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{at}-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let output = run("bash", ["-c", &script]);
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("sessionfs um", 1), "umount\n");
    assert_eq!(complete("sessionfs mount --lock", 2), "--lock-wait\n");
}

#[test]
fn two_builds_on_the_same_date_are_the_same() {
    let of = |epoch: &str| {
        let directory = tempfile::tempdir().unwrap();
        let status = Command::new(SESSIONFS)
            .env("SOURCE_DATE_EPOCH", epoch)
            .arg("generate")
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(status.success());
        fs::read_to_string(directory.path().join("man/sessionfs.1")).unwrap()
    };
    let page = of("1769817600");
    assert!(page.replace('\\', "").contains("2026-01-31"), "{page}");
    assert_eq!(page, of("1769817600"));
}

/// All of the program's source, its strings in one line.
fn source(directory: &Path) -> String {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let text = paths.map(|path| match path.is_dir() {
        true => source(&path),
        false => fs::read_to_string(path).unwrap(),
    });
    let text: String = text.collect();
    let lines: Vec<&str> = text.split("\\\n").collect();
    let (first, rest) = lines.split_first().unwrap();
    let rest = rest.iter().map(|line| line.trim_start());
    std::iter::once(*first).chain(rest).collect()
}

#[test]
fn the_messages_that_the_readme_explains_are_those_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = source(&root.join("src"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, section) = readme.split_once("What sessionfs says").unwrap();
    let (section, _) = section.split_once("What programs say").unwrap();
    let cells = section.lines().filter_map(|line| line.split(" | ").next());
    let messages: Vec<&str> = cells
        .filter(|cell| cell.starts_with("| `"))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|message| !message.starts_with("fusermount3: "))
        .collect();
    assert!(messages.len() > 20, "{messages:?}");
    for part in messages.iter().flat_map(|message| message.split('…')) {
        assert!(source.contains(part.trim()), "no message has {part:?}");
    }
}
