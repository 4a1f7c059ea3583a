//! Long operations show their progress on a terminal, and only there.

use std::fs;
use std::path::Path;

use crate::common::tools::output_of;
use crate::common::{Backing, Disk, SESSIONFS};

/// What `command` writes to a terminal that is its standard output and error;
/// its input is none. `$S` is the program, `$R` its repository.
fn on_terminal(directory: &Path, variables: &str, command: &str) -> String {
    let script = format!(
        "export S='{SESSIONFS}' R=repository TERM=xterm {variables}
        script -qec '{command}' /dev/null < /dev/null"
    );
    output_of(directory, "bash", &["-ec", &script])
}

/// The same without a terminal.
fn in_pipe(directory: &Path, command: &str) -> String {
    let script = format!("export S='{SESSIONFS}' R=repository TERM=xterm; ({command}) 2>&1 | cat");
    output_of(directory, "bash", &["-o", "pipefail", "-ec", &script])
}

/// Delays each of these calls by a third of a second.
fn slow(call: &str) -> String {
    format!("strace -f -qq -o /dev/null -e trace={call} -e inject={call}:delay_enter=300000")
}

fn repository(ids: &[&str]) -> Disk {
    let disk = Disk::new(Backing::Here);
    for id in ids {
        fs::create_dir_all(disk.path().join(format!("repository/{id}.session"))).unwrap();
    }
    disk
}

/// The line is cleared before anything else is written.
fn assert_cleared(output: &str, progress: &str) {
    let shown = output.rfind(progress);
    let shown = shown.unwrap_or_else(|| panic!("{progress:?} is not in {output:?}"));
    let last = output.rfind("\x1b[K").unwrap();
    assert!(last > shown + progress.len(), "{output:?}");
}

#[test]
fn a_long_save_shows_how_far_it_is() {
    let disk = repository(&["a"]);
    let save = "(printf abc; sleep 2; printf def) | $S save -r $R a";
    let output = on_terminal(disk.path(), "", save);
    assert_cleared(&output, "saving: 6 B");
    assert_eq!(in_pipe(disk.path(), save), "");
    assert_eq!(on_terminal(disk.path(), "TERM=dumb", save), "");
    let saved = fs::read(disk.path().join("repository/a.session/session")).unwrap();
    assert_eq!(saved, b"abcdef");
}

#[test]
fn a_long_load_shows_how_far_it_is() {
    let disk = repository(&["a"]);
    let checkpoint = disk.path().join("repository/a.session/session");
    let file = fs::File::create(checkpoint).unwrap();
    file.set_len(40 << 20).unwrap();
    let load = "(sleep 2; cat fifo | wc -c > count) & $S load -r $R -o fifo a; wait";
    output_of(disk.path(), "mkfifo", &["fifo"]);
    let output = on_terminal(disk.path(), "", load);
    // The first piece has waited for the reader.
    assert_cleared(&output, "loading: 16.0 MiB of 40.0 MiB (40 %)");
    assert_eq!(output_of(disk.path(), "cat", &["count"]), "41943040");
    assert_eq!(in_pipe(disk.path(), load), "");
    // The content has the terminal to itself.
    fs::write(disk.path().join("repository/a.session/session"), "text").unwrap();
    let delayed = format!("{} $S load -r $R a", slow("statx"));
    assert_eq!(on_terminal(disk.path(), "", &delayed), "text");
}

#[test]
fn removing_many_sessions_shows_how_far_it_is() {
    let ids = ["a", "b", "c", "d"];
    let remove = format!("{} $S remove -r $R a b c none d || echo $?", slow("fsync"));
    let disk = repository(&ids);
    let output = on_terminal(disk.path(), "", &remove);
    assert!(
        output.contains("removing: 2 of 5 sessions (40 %)"),
        "{output:?}"
    );
    // Each error is on a line of its own.
    let error = "repository/none.session: no such session";
    let line = output.find(error).unwrap_or_else(|| panic!("{output:?}"));
    let before = output[..line].strip_suffix("sessionfs: ").unwrap();
    assert!(before.ends_with("\x1b[K"), "{output:?}");
    let disk = repository(&ids);
    let output = in_pipe(disk.path(), &remove);
    assert_eq!(output, format!("sessionfs: {error}\n3"));
}

/// No colour is ever used, so `NO_COLOR` has nothing to switch off.
#[test]
fn nothing_is_coloured_on_a_terminal() {
    let disk = repository(&["a"]);
    for command in [
        "$S --help",
        "$S mount --help",
        "$S --nonsense",
        "$S list -r $R --long",
        "$S list -r $R --json",
        "$S doctor $R",
        "$S load -r $R none",
        "$S status --json",
    ] {
        for variables in ["", "NO_COLOR=1", "CLICOLOR_FORCE=1 COLORTERM=truecolor"] {
            let output = on_terminal(disk.path(), variables, &format!("{command} || true"));
            assert!(!output.is_empty(), "{command}");
            // Select Graphic Rendition, of ECMA-48.
            let sequences = output.split("\x1b[").skip(1);
            for sequence in sequences {
                let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                assert_ne!(&sequence[end..=end], "m", "{command}: {output:?}");
            }
        }
    }
}

#[test]
fn a_doctor_of_many_sessions_shows_how_far_it_is() {
    let disk = repository(&["a", "b", "c", "d"]);
    let doctor = format!("{} $S doctor $R", slow("getdents64"));
    let output = on_terminal(disk.path(), "", &doctor);
    assert!(output.contains("looking: "), "{output:?}");
    assert!(output.contains(" of 4 sessions ("), "{output:?}");
    let cleared = output.rfind("\x1b[K").unwrap();
    assert!(cleared < output.find("O_TMPFILE").unwrap(), "{output:?}");
    let output = in_pipe(disk.path(), &doctor);
    assert!(!output.contains("looking"), "{output:?}");
    assert!(!output.contains('\x1b'), "{output:?}");
}
