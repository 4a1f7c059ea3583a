//! The manual pages and the completions, as their readers (man, mandoc and the
//! shells) take them; and that documents are true of the code and of each other.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Backing, Mount, SESSIONFS, run, shell};

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

/// What a shell offers for a line that ends there, by its own machinery.
fn offered(shell: &str, generated: &Generated, line: &str) -> Vec<String> {
    let completions = generated.directory.path().join("completions");
    let (arguments, script): (&[&str], &str) = match shell {
        "bash" => (&["--norc", "-c"], IN_BASH),
        "zsh" => (&["-f", "-c"], IN_ZSH),
        _ => (&["--no-config", "-c"], IN_FISH),
    };
    let mut path = Path::new(SESSIONFS)
        .parent()
        .unwrap()
        .as_os_str()
        .to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // A shell reads the configuration of its user otherwise.
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["60", shell])
        .args(arguments)
        .arg(script)
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path())
        .env("XDG_DATA_HOME", home.path())
        .env("TERM", "dumb")
        .env("PATH", path)
        .env("COMPLETIONS", &completions)
        .env("LINE", line)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{shell}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines().filter_map(first).collect()
}

/// As readline calls a function of completion.
const IN_BASH: &str = r#"
. "$COMPLETIONS/sessionfs.bash"
read -ra COMP_WORDS <<< "$LINE"
[[ $LINE != *" " ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$LINE COMP_POINT=${#LINE}
complete -p sessionfs | grep -q -- '-F _sessionfs ' || exit
_sessionfs sessionfs "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

const IN_FISH: &str = r#"
source $COMPLETIONS/sessionfs.fish
complete --do-complete $LINE
"#;

/// An interactive shell on a terminal of its own; what its Tab finds goes through
/// `compadd`.
const IN_ZSH: &str = r#"
zmodload zsh/zpty || exit
zpty shell zsh -f -i || exit
until_line() {
    local line
    while zpty -r shell line; do
        line=${line//$'\r'/}
        print -r -- ${line%$'\n'}
        [[ $line != *$1* ]] || return 0
    done
    return 1
}
zpty -w shell 'PS1= RPS1=; unsetopt prompt_sp zle_bracketed_paste; fpath=($COMPLETIONS $fpath)
autoload -Uz compinit && compinit -u -D
compadd() {
    local -a found
    builtin compadd -O found "$@"
    offers+=($found)
    builtin compadd "$@"
}
end_of_it() { print -l "" BEGIN-OFFERS ${(u)offers} END-OFFERS; exit }
comppostfuncs=(end_of_it)
bindkey "^I" complete-word
print READY-''NOW'
until_line READY-NOW > /dev/null || exit
zpty -w -n shell "$LINE"$'\t'
until_line END-OFFERS | sed '1,/BEGIN-OFFERS/d; /END-OFFERS/d'
"#;

#[test]
fn the_shells_complete_commands_and_options() {
    let generated = Generated::new();
    for shell in ["bash", "zsh", "fish"] {
        let offered = |line| offered(shell, &generated, line);
        assert_eq!(offered("sessionfs um"), ["umount"], "{shell}");
        assert_eq!(
            offered("sessionfs mount --lock"),
            ["--lock-wait"],
            "{shell}"
        );
        assert_eq!(offered("sessionfs doctor --f"), ["--fix"], "{shell}");
        let all = offered("sessionfs ");
        for command in ["mount", "status", "break-lock", "doctor"] {
            assert!(
                all.iter().any(|o| o == command),
                "{shell}: {command}: {all:?}"
            );
        }
        assert!(!all.iter().any(|o| o == "generate"), "{shell}: {all:?}");
    }
}

/// Ids, mountpoints, mount options and levels.
#[test]
fn the_shells_complete_ids_and_mountpoints() {
    let mount = Mount::new(Backing::Here);
    let (one, two) = (mount.session("nightly-1"), mount.session("weekly"));
    fs::write(one.file(), "saved").unwrap();
    fs::write(two.file(), "saved").unwrap();
    let generated = Generated::new();
    let (repository, at) = (
        mount.repository.display(),
        mount.mountpoint.display().to_string(),
    );
    let begin = &at[..at.len() - 2];
    for shell in ["bash", "zsh", "fish"] {
        let offered = |line: &str| offered(shell, &generated, line);
        for command in ["load", "save", "remove", "break-lock"] {
            let line = format!("sessionfs {command} -r {repository} night");
            assert_eq!(offered(&line), ["nightly-1"], "{shell}: {line}");
            let all = offered(&format!("sessionfs {command} -r {repository} "));
            for id in ["nightly-1", "weekly"] {
                assert!(all.iter().any(|o| o == id), "{shell}: {all:?}");
            }
        }
        for command in ["umount", "status"] {
            let line = format!("sessionfs {command} {begin}");
            assert_eq!(offered(&line), [&*at], "{shell}: {line}");
        }
        let first = |line: &str| {
            let all = offered(line);
            assert_eq!(all.len(), 1, "{shell}: {line}: {all:?}");
            all[0].trim_start_matches("ro,").to_owned()
        };
        assert_eq!(
            first("sessionfs mount -o ro,lock_w"),
            "lock_wait=",
            "{shell}"
        );
        assert_eq!(
            first("sessionfs mount -o allow_o"),
            "allow_other",
            "{shell}"
        );
        assert_eq!(first("sessionfs mount --log-level tr"), "trace", "{shell}");
    }
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
fn the_messages_that_are_explained_are_those_of_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = source(&root.join("src"));
    let document = fs::read_to_string(root.join("src/operation.md")).unwrap();
    let (_, section) = document.split_once("What sessionfs says").unwrap();
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

/// The names of all fields of all objects.
fn keys(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(keys).collect(),
        Value::Object(fields) => {
            let inner = fields.values().flat_map(keys);
            fields.keys().cloned().chain(inner).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// Of sessions and a mount in which there is all that there may be.
#[test]
fn every_field_of_json_is_in_the_manual() {
    let mut mount = Mount::new(Backing::Here);
    mount.may_complain = true;
    for (id, left) in [
        ("a", "session.next"),
        ("b", "session"),
        ("c", ".session.1.0"),
    ] {
        fs::write(mount.session(id).in_repository.join(left), "left").unwrap();
    }
    mount.session(OsStr::from_bytes(b"d\xff"));
    let session = mount.session("e");
    let kill = "exec 3> session; echo half >&3; kill -9 $$";
    shell("bash", &session.on_mount, kill);
    let mut writer = fs::File::create(session.file()).unwrap();
    writer.write_all(b"not yet").unwrap();
    let generated = Generated::new();
    let (repository, mountpoint) = (mount.repository.to_str(), mount.mountpoint.to_str());
    for (command, arguments, some) in [
        (
            "list",
            ["-r", repository.unwrap()],
            ["since", "pid", "id_bytes"],
        ),
        (
            "doctor",
            ["-r", repository.unwrap()],
            ["kind", "since", "healthy"],
        ),
        (
            "status",
            ["--json", mountpoint.unwrap()],
            ["errno", "how", "p99"],
        ),
    ] {
        let mut program = Command::new(SESSIONFS);
        let program = program.arg(command).args(arguments);
        if command != "status" {
            program.arg("--json");
        }
        let output = program.output().unwrap();
        let told = keys(&serde_json::from_slice(&output.stdout).unwrap());
        let page = generated.directory.path();
        let page = page.join(format!("man/sessionfs-{command}.1"));
        let page = fs::read_to_string(page).unwrap();
        let page = page
            .replace("\\fB", "")
            .replace("\\fR", "")
            .replace('\\', "");
        let (_, section) = page.split_once("SH JSON\n").unwrap();
        let (section, _) = section.split_once("\n.SH").unwrap();
        let words = section.split(|c: char| !c.is_alphanumeric() && c != '_');
        let words: BTreeSet<_> = words.map(str::to_owned).collect();
        for field in some
            .map(str::to_owned)
            .iter()
            .chain(["schema".to_owned()].iter())
        {
            assert!(told.contains(field), "{command}: {field}: {told:?}");
        }
        let missing: Vec<_> = told.difference(&words).collect();
        assert!(missing.is_empty(), "{command}: {missing:?}");
    }
}

/// One meaning of each exit status, in whatever is read.
#[test]
fn the_exit_statuses_of_the_documents_are_those_of_the_manual() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("src/operation.md")).unwrap();
    let (_, table) = document
        .split_once("| status | meaning |\n|---|---|\n")
        .unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let generated = Generated::new();
    let page = generated.directory.path().join("man/sessionfs.1");
    let page = fs::read_to_string(page).unwrap().replace('\\', "");
    let (_, section) = page.split_once("SH \"EXIT STATUS\"\n").unwrap();
    let (section, _) = section.split_once("\n.SH").unwrap();
    let section = section.replace(['\n', '.', '`'], " ").to_lowercase();
    let words = |text: &str| {
        let text = text.replace(['.', '`'], " ").to_lowercase();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let section = words(&section);
    for (status, row) in table.lines().enumerate() {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells[0], status.to_string());
        let meaning = words(cells[1]);
        assert!(section.contains(&meaning), "{meaning}: {section}");
    }
    assert_eq!(table.lines().count(), section.matches("tp fb").count());
}

/// A file of the project.
fn text_of(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands between backquotes in a document, outside its blocks of code.
fn code_spans(document: &str) -> Vec<&str> {
    let parts = document.split("```").step_by(2);
    parts
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .collect()
}

/// The targets of the links of a document.
fn links(document: &str) -> Vec<&str> {
    let targets = document.split("](").skip(1);
    targets.filter_map(|rest| rest.split(')').next()).collect()
}

const DOCUMENTS_OF_THE_LIBRARY: [&str; 4] = [
    "src/design.md",
    "src/semantics.md",
    "src/operation.md",
    "src/homes.md",
];

#[test]
fn readme_is_short_and_its_links_lead_somewhere() {
    let readme = text_of("README.md");
    let lines = readme.lines().count();
    assert!(lines <= 220, "README.md has {lines} lines");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in ["README.md", "tests/compatibility.md", "tests/robustness.md"] {
        let text = text_of(document);
        let here = root.join(document);
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => here.clone(),
                file => here.with_file_name(file),
            };
            assert!(file.exists(), "{document}: {link}");
            let text = fs::read_to_string(&file).unwrap_or_default();
            assert!(
                anchor.is_empty() || anchors(&text).contains(anchor),
                "{document}: {link}"
            );
        }
    }
    // Each document can be reached.
    for document in DOCUMENTS_OF_THE_LIBRARY {
        assert!(links(&readme).contains(&document), "{document}");
    }
}

/// The anchors that headings have, on the web and in rustdoc.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// They are read as files and in rustdoc, where a path beside them leads nowhere.
#[test]
fn documents_of_the_library_link_only_into_themselves_or_to_the_web() {
    for document in DOCUMENTS_OF_THE_LIBRARY {
        let text = text_of(document);
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let anchor = link.strip_prefix('#');
            let anchors = anchors(&text);
            assert!(
                anchor.is_some_and(|a| anchors.contains(a)),
                "{document}: {link}"
            );
        }
    }
}

#[test]
fn every_path_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let others = ["README.md", "tests/compatibility.md", "tests/robustness.md"];
    for document in DOCUMENTS_OF_THE_LIBRARY.into_iter().chain(others) {
        let text = text_of(document);
        let ours = ["src/", "tests/", "scripts/", ".ci/"];
        let spans = code_spans(&text).into_iter();
        let words = spans.flat_map(|span| span.split_whitespace().take(1));
        for path in words.filter(|word| ours.iter().any(|top| word.starts_with(top))) {
            let is_pattern = path.contains(['*', '{']);
            assert!(
                is_pattern || root.join(path).exists() || root.join(format!("{path}.rs")).exists(),
                "{document}: {path}"
            );
        }
    }
}

/// The rows of the table of rules: the rules of a row, and its files.
fn rows_of_rules(design: &str) -> Vec<(Vec<&str>, Vec<&str>)> {
    let (_, table) = design
        .split_once("| rule | subject | implemented in |")
        .unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        (cells[0].split(", ").collect(), code_spans(cells[2]))
    })
    .collect()
}

/// The rules that the design has, as they are cited: "2.3", "I4", "5".
fn rules_of(design: &str) -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    let mut section = "";
    for line in design.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading.split('.').next().unwrap();
            rules.insert(section.to_owned());
        } else if let Some((number, _)) = line.split_once(". ")
            && number.parse::<u32>().is_ok()
        {
            rules.insert(format!("{section}.{number}"));
        } else if let Some(invariant) = line.strip_prefix("- **I") {
            rules.insert(format!("I{}", &invariant[..1]));
        }
    }
    rules
}

#[test]
fn the_design_names_files_that_exist_for_each_of_its_rules() {
    let design = text_of("src/design.md");
    let rows = rows_of_rules(&design);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (rules, files) in &rows {
        assert!(!files.is_empty(), "{rules:?}");
        for file in files {
            assert!(source.join(file).is_file(), "{rules:?}: no src/{file}");
        }
    }
    let named: BTreeSet<&str> = rows.iter().flat_map(|(rules, _)| rules.clone()).collect();
    let is_rule =
        |rule: &&String| rule.starts_with("2.") || rule.starts_with("13.") || rule.starts_with('I');
    let all = rules_of(&design);
    let missing: Vec<_> = all
        .iter()
        .filter(is_rule)
        .filter(|r| !named.contains(&***r))
        .collect();
    assert!(
        all.len() > 30 && missing.is_empty(),
        "{missing:?} of {all:?}"
    );
}

/// "DESIGN 2.3" in a comment is a rule that the design has.
#[test]
fn what_is_cited_of_the_design_is_there() {
    let rules = rules_of(&text_of("src/design.md"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for directory in ["src", "tests/integration", "tests/common", "scripts"] {
        let source = source(&root.join(directory));
        for rest in source.split("DESIGN ").skip(1) {
            let cited: String = rest
                .chars()
                .take_while(|c| c.is_ascii_digit() || ".I".contains(*c))
                .collect();
            let cited = cited.trim_end_matches('.');
            let around: String = rest.chars().take(40).collect();
            assert!(
                cited.is_empty() || cited.contains("..") || rules.contains(cited),
                "{directory}: DESIGN {around}"
            );
        }
    }
}
