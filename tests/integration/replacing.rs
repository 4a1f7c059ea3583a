//! DESIGN 2.11 and 2.12: operations on the name `session` alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::common::saves::{PYTHON_PAUSE, Running, Saves};
use crate::common::{Backing, Mount, Session, shell, wait_until};

const OLD: &str = "old\n";

on_each_filesystem!(
    rule_2_12_removed_and_made_anew_is_one_save,
    rule_2_12_renamed_away_and_made_anew_is_one_save,
    rule_2_11_a_checkpoint_that_is_renamed_away_can_be_renamed_back,
    invariant_1_a_checkpoint_is_not_changed_by_another_name_of_it,
    rule_2_11_links_and_exchanges_are_saves,
);

/// Runs a script of Python, and `look` at each of its pauses.
fn in_steps(session: &Session, script: &str, mut look: impl FnMut(usize)) {
    let script = format!("{PYTHON_PAUSE}{script}");
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    for number in 0..script.matches("pause()").count() - 1 {
        running.told();
        look(number);
        running.go_on();
    }
    let output = running.finish();
    assert!(output.status.success(), "{output:?}");
}

/// Both sides of the mount have this checkpoint.
fn assert_content(session: &Session, content: &str, what: &str) {
    for file in [session.file(), session.checkpoint()] {
        let found = fs::read_to_string(&file);
        assert_eq!(found.unwrap(), content, "{what}: {}", file.display());
    }
}

fn assert_absent(session: &Session, what: &str) {
    assert_eq!(fs::read(session.file()).unwrap(), b"", "{what}");
    wait_until("it is gone", || session.names().is_empty());
}

fn mode(session: &Session) -> u32 {
    let stat = fs::metadata(session.checkpoint()).unwrap();
    stat.permissions().mode() & 0o7777
}

fn run(session: &Session, line: &str) -> String {
    let output = shell("bash", &session.on_mount, line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn rule_2_12_removed_and_made_anew_is_one_save(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    fs::write(session.file(), OLD).unwrap();
    fs::set_permissions(session.file(), PermissionsExt::from_mode(0o640)).unwrap();
    let mut saves = Saves::of(&session);
    let script = "
os.unlink('session')
assert not os.path.exists('session') and os.listdir() == []
pause()
f = open(os.open('session', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'w')
f.write('new\\n'); f.flush()
pause()
f.close()
";
    in_steps(&session, script, |number| {
        assert_content(&session, OLD, &format!("step {number}"));
        assert_eq!(run(&session, "ls"), "session\n");
    });
    assert_content(&session, "new\n", "closed");
    assert_eq!(mode(&session), 0o600, "it is a first checkpoint");
    assert_eq!(saves.count(), 1);
    for line in [
        "install -m 604 \"$OLDPWD/x\" session",
        "cp --remove-destination \"$OLDPWD/x\" session",
        "tar xf \"$OLDPWD/x.tar\"",
        "mv \"$(mktemp -p /dev/shm)\" session",
    ] {
        let beside = mount.disk.path();
        let mut saves = Saves::of(&session);
        run(
            &session,
            &format!(
                "cd '{0}'; echo x > x; cp x session; tar cf x.tar session; rm session; \
                 cd '{1}'; {line}",
                beside.display(),
                session.on_mount.display(),
            ),
        );
        assert_eq!(saves.count(), 1, "{line}");
        assert_eq!(session.names(), ["session"], "{line}");
    }
}

fn rule_2_12_renamed_away_and_made_anew_is_one_save(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    for (number, target) in ["'saved'", "'there'", "'dir/saved'"].iter().enumerate() {
        fs::write(session.file(), OLD).unwrap();
        fs::write(session.on_mount.join("there"), "another").unwrap();
        let _ = fs::create_dir(session.on_mount.join("dir"));
        let mut saves = Saves::of(&session);
        let script = format!(
            "
os.rename('session', {target})
assert not os.path.exists('session') and open({target}).read() == 'old\\n'
pause()
with open('session', 'x') as f: f.write('new\\n')
assert os.stat({target}).st_nlink == 1
"
        );
        in_steps(&session, &script, |_| {
            assert_content(&session, OLD, &script);
        });
        assert_content(&session, "new\n", &script);
        assert_eq!(saves.count(), 1, "{number}");
        let saved = session.in_repository.join(target.trim_matches('\''));
        assert_eq!(fs::read_to_string(saved).unwrap(), OLD);
        assert!(!session.names().iter().any(|name| name.starts_with('.')));
    }
    run(&session, "mv session elsewhere; ls");
    wait_until("it is renamed", || !session.checkpoint().exists());
    assert_eq!(run(&session, "cat elsewhere session"), "new\n");
}

#[test]
fn rule_2_12_a_removal_shows_when_its_process_has_ended() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    for round in 0..50 {
        fs::write(session.file(), OLD).unwrap();
        run(&session, "rm session");
        assert_absent(&session, &format!("round {round}"));
    }
    for (script, is_gone) in [
        // By exit, by a signal, and by an exec of another program.
        ("os.unlink('session'); pause()", true),
        (
            "os.unlink('session'); pause(); os.kill(os.getpid(), 9)",
            true,
        ),
        (
            "os.unlink('session'); pause(); os.execv('/bin/true', ['true'])",
            true,
        ),
        // In a thread, while the process goes on.
        (
            "import threading\nt = threading.Thread(target=os.unlink, args=('session',))\n\
             t.start(); t.join(); pause()",
            true,
        ),
        // A process that makes a new one and is killed while it writes saves nothing.
        (
            "os.unlink('session'); pause(); f = open('session', 'w'); f.write('x'); f.flush()\n\
             os.kill(os.getpid(), 9)",
            false,
        ),
    ] {
        fs::write(session.file(), OLD).unwrap();
        let script = format!("{PYTHON_PAUSE}{script}");
        let mut running = Running::start("python3", &session.on_mount, &script, &[]);
        running.told();
        assert_content(&session, OLD, &script);
        running.go_on();
        running.finish();
        if is_gone {
            assert_absent(&session, &script);
        } else {
            assert_content(&session, OLD, &script);
        }
    }
}

/// By another process than the one that has renamed it away, while that lives, and while
/// it ends.
fn rule_2_11_a_checkpoint_that_is_renamed_away_can_be_renamed_back(backing: Backing) {
    let mount = Mount::new(backing);
    let (session, other) = (mount.session("a"), mount.session("b"));
    let away = |target: &str| {
        fs::write(session.file(), OLD).unwrap();
        let script = format!("{PYTHON_PAUSE}os.rename('session', '{target}'); pause()");
        let mut running = Running::start("python3", &session.on_mount, &script, &[]);
        running.told();
        assert_content(&session, OLD, "promised");
        running
    };
    let is_back = |what: &str| {
        assert_content(&session, OLD, what);
        assert_eq!(session.names(), ["session"], "{what}");
    };
    for back in [
        "mv bak session",
        "mv -f bak session",
        "mv -n bak session",
        "python3 -c 'import os; os.stat(\"session\"); os.rename(\"bak\", \"session\")'",
        "python3 -c 'import os; os.stat(\"bak\"); os.replace(\"bak\", \"session\")'",
    ] {
        let mut running = away("bak");
        let mut saves = Saves::of(&session);
        run(&session, back);
        is_back(back);
        running.go_on();
        running.finish();
        is_back(back);
        assert_eq!(saves.count(), 1, "{back}");
    }
    let mut running = away("../b.session/bak");
    run(&session, "mv ../b.session/bak session");
    running.go_on();
    running.finish();
    is_back("from another session");
    assert_eq!(other.names(), [""; 0]);
    for round in 0..20 {
        let mut running = away("bak");
        running.go_on();
        fs::rename(session.on_mount.join("bak"), session.file()).unwrap();
        running.finish();
        is_back(&format!("it ended meanwhile, round {round}"));
    }

    // A process that only looks at both, or renames something else, changes nothing;
    // neither does a rename that is refused.
    let running = away("bak");
    run(
        &session,
        "ls -l bak session; stat bak session; mv bak bak2; mv bak2 bak",
    );
    run(
        &session,
        "echo draft > draft; mv draft ../b.session/session; cat bak session",
    );
    assert_content(&session, OLD, "looked at");
    let script = format!(
        "{PYTHON_PAUSE}f = open('session', 'r+'); f.write('n'); f.flush(); pause(); os._exit(0)"
    );
    let mut writer = Running::start("python3", &session.on_mount, &script, &[]);
    writer.told();
    let busy = fs::rename(session.on_mount.join("bak"), session.file()).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
    assert_content(&session, OLD, "refused");
    for mut process in [writer, running] {
        process.go_on();
        process.finish();
    }
    // Its save stands, like that of any earlier writer.
    assert_content(&session, "nld\n", "saved");
    assert_eq!(session.names(), ["bak", "session"]);
}

#[test]
fn rule_2_12_a_removal_that_is_relied_on_is_done_at_once() {
    let mut mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    let gone = |what: &str| assert_eq!(session.names(), [""; 0], "{what}");
    fs::write(session.file(), OLD).unwrap();
    let sync = "os.unlink('session'); d = os.open('.', os.O_RDONLY); os.fsync(d); pause()";
    in_steps(&session, sync, |_| gone("synced"));
    fs::write(session.file(), OLD).unwrap();
    let two = "import subprocess\nos.unlink('session')\nsubprocess.run(['rm', 'session']); pause()";
    in_steps(&session, two, |_| gone("two agree"));
    let whole = mount.session("b");
    fs::write(whole.file(), OLD).unwrap();
    let script = "os.unlink('session'); os.rmdir(os.getcwd()); pause()";
    in_steps(&whole, script, |_| assert!(!whole.in_repository.exists()));

    // The end of the mount carries out deferred removals.
    fs::write(session.file(), OLD).unwrap();
    let script = format!("{PYTHON_PAUSE}os.unlink('session'); os.chdir('/'); pause()");
    let mut running = Running::start("python3", &session.on_mount, &script, &[]);
    running.told();
    mount.signal("TERM");
    assert!(mount.wait().success());
    gone("unmounted");
    running.go_on();
    running.finish();
}

#[test]
fn rule_2_12_others_go_on_meanwhile() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), OLD).unwrap();
    // A new checkpoint that is refused leaves the old one.
    let writer = fs::OpenOptions::new()
        .append(true)
        .open(session.file())
        .unwrap();
    std::io::Write::write_all(&mut &writer, b"added\n").unwrap();
    let refused = "
os.unlink('session')
try: open('session', 'x')
except OSError as e: assert e.errno == 16, e
pause()";
    in_steps(&session, refused, |_| ());
    assert_content(&session, OLD, "refused");
    drop(writer);
    assert_content(&session, "old\nadded\n", "the other writer's");
    fs::write(session.file(), OLD).unwrap();
    // A save by another process is not removed, nor is a lock in the repository.
    in_steps(&session, "os.unlink('session'); pause()", |_| {
        run(&session, "echo more >> session");
    });
    assert_content(&session, "old\nmore\n", "saved meanwhile");
    fs::write(session.in_repository.join("session.next"), "foreign").unwrap();
    let output = shell("bash", &session.on_mount, "rm session");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("busy"),
        "{output:?}"
    );
    run(&session, "rm session.next; rm session");
    assert_absent(&session, "unlocked");
}

/// Also if the mount has never seen the checkpoint, and in other sessions.
fn invariant_1_a_checkpoint_is_not_changed_by_another_name_of_it(backing: Backing) {
    let mount = Mount::new(backing);
    let (session, other) = (mount.session("a"), mount.session("b"));
    fs::write(session.checkpoint(), "whole").unwrap();
    for name in [
        session.in_repository.join("link"),
        other.in_repository.join("link"),
    ] {
        fs::hard_link(session.checkpoint(), name).unwrap();
    }
    for change in ["printf x > link", "printf x >> link", "truncate -s 1 link"] {
        for directory in [&session.on_mount, &other.on_mount] {
            let output = shell("sh", directory, change);
            assert!(!output.status.success(), "{change}: {output:?}");
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(why.contains("busy"), "{change}: {output:?}");
        }
        assert_eq!(fs::read(session.checkpoint()).unwrap(), b"whole");
    }
    assert_eq!(run(&other, "cat link"), "whole");
    // After a save the links are ordinary files.
    fs::write(session.file(), "new").unwrap();
    run(&other, "printf x >> link; truncate -s 3 link");
    assert_eq!(run(&session, "cat link session"), "whonew");
}

fn rule_2_11_links_and_exchanges_are_saves(backing: Backing) {
    let mount = Mount::new(backing);
    let (session, other) = (mount.session("a"), mount.session("b"));
    fs::write(session.on_mount.join("draft"), "draft\n").unwrap();
    run(&session, "ln draft session");
    assert_content(&session, "draft\n", "link");
    assert_eq!(
        run(&session, "stat -c %h-%i draft session | uniq | wc -l"),
        "1\n"
    );
    // Under its other name a checkpoint is not written in place.
    let written = fs::OpenOptions::new()
        .append(true)
        .open(session.on_mount.join("draft"));
    assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EBUSY));
    assert_eq!(run(&session, "cat draft"), "draft\n");
    let refused = shell(
        "bash",
        &session.on_mount,
        "ln -T /dev/null session; ln draft session",
    );
    assert!(!refused.status.success());
    run(
        &session,
        "echo saved > session; echo changed >> draft; cat draft",
    );
    assert_content(&session, "saved\n", "a save makes a new file");
    assert_eq!(run(&session, "cat draft"), "draft\nchanged\n");

    let exchange = |from: &std::path::Path, to: &std::path::Path| {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).unwrap();
    };
    let draft = session.on_mount.join("draft");
    for (from, to) in [(&draft, &session.file()), (&session.file(), &draft)] {
        let before = (fs::read(&draft).unwrap(), fs::read(session.file()).unwrap());
        exchange(from, to);
        let after = (fs::read(session.file()).unwrap(), fs::read(&draft).unwrap());
        assert_eq!(after, before);
        assert_eq!(fs::read(session.checkpoint()).unwrap(), after.0);
        assert_eq!(session.names(), ["draft", "session"]);
    }
    fs::write(other.file(), "other\n").unwrap();
    exchange(&session.file(), &other.file());
    assert_content(&session, "other\n", "two sessions");
    assert_content(&other, "saved\n", "two sessions");
    assert_eq!(other.names(), ["session"]);
    // While another process writes, each of them is refused.
    let script = format!("{PYTHON_PAUSE}f = open('session', 'w'); pause(); os._exit(0)");
    let mut writer = Running::start("python3", &other.on_mount, &script, &[]);
    writer.told();
    let busy = fs::rename(&draft, other.file()).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
    writer.go_on();
    writer.finish();
    run(&session, "mknod third p; rm session; mv -n draft session");
    assert_content(&session, "draft\nchanged\n", "mv -n");
}

/// A former checkpoint is an ordinary file under its other name.
#[test]
fn rule_2_13_a_checkpoint_that_was_moved_is_an_ordinary_file() {
    let mount = Mount::new(Backing::Tmpfs);
    let (session, other) = (mount.session("a"), mount.session("b"));
    fs::write(session.file(), OLD).unwrap();
    let script = "
os.rename('session', '../b.session/moved')
os.rmdir(os.getcwd())
os.chdir('../b.session')
with open('moved', 'a') as f: f.write('more\\n')
os.truncate('moved', 6)
assert open('moved').read() == 'old\\nmo'
pause()";
    in_steps(&session, script, |_| {
        assert_eq!(
            fs::read(other.in_repository.join("moved")).unwrap(),
            b"old\nmo"
        );
        assert_eq!(other.names(), ["moved"]);
    });
}

/// Programs compare the file they have open with the one that the path leads to.
#[test]
fn a_path_and_what_was_opened_by_it_have_one_inode_number() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    let script = "
def path(): return os.stat('session').st_ino
for first in True, False:
    seen = path()
    f = os.open('session', os.O_RDWR)
    assert os.fstat(f).st_ino == path() == seen
    g = os.open('session', os.O_RDWR)
    os.write(f, b'1'); os.fsync(f)
    assert os.fstat(f).st_ino == path() == seen
    os.write(f, b'2'); os.fsync(f)
    assert os.fstat(f).st_ino == path() == seen
    other = int(os.popen('stat -c %i session').read())
    assert other != seen, 'others see that it is another'
    os.close(g)
    os.close(f)
    assert path() == other, (path(), other)
assert {e.inode() for e in os.scandir() if e.name == 'session'} == {path()}
pause()
";
    in_steps(&session, script, |_| {
        let shown = fs::metadata(session.file()).unwrap().ino();
        assert_eq!(shown, session.inode(), "that of the repository");
    });
}

/// A writer is told apart from other files with its inode number, in `/proc`, too.
#[test]
fn files_with_the_same_number_elsewhere_do_not_delay_a_save() {
    let (first, second) = (Mount::new(Backing::Tmpfs), Mount::new(Backing::Tmpfs));
    let sessions = [first.session("a"), second.session("a")];
    for session in &sessions {
        fs::write(session.checkpoint(), OLD).unwrap();
    }
    let inodes = sessions.each_ref().map(|session| session.inode());
    assert_eq!(inodes[0], inodes[1], "two new filesystems are alike");
    let open = |session: &Session| {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(session.file())
            .unwrap();
        assert_eq!(file.metadata().unwrap().ino(), session.inode());
        file
    };
    let files = sessions.each_ref().map(open);
    let [one, two] = files;
    let direct = fs::OpenOptions::new()
        .write(true)
        .open(sessions[0].checkpoint())
        .unwrap();
    std::io::Write::write_all(&mut &one, b"OLD").unwrap();
    drop(one);
    assert_eq!(fs::read(sessions[0].checkpoint()).unwrap(), b"OLD\n");
    drop((two, direct));
}

#[test]
fn an_open_that_only_truncates_is_a_save() {
    let mount = Mount::new(Backing::Tmpfs);
    let session = mount.session("a");
    fs::write(session.file(), OLD).unwrap();
    run(
        &session,
        "python3 -c 'import os; os.close(os.open(\"session\", os.O_TRUNC))'",
    );
    assert_content(&session, "", "truncated");
    // A running program is not truncated; if it is a checkpoint, it is replaced.
    run(
        &session,
        "cp /usr/bin/sleep program; cp program session; chmod 755 session",
    );
    for (name, is_refused) in [("program", true), ("session", false)] {
        let mut child = Command::new(session.on_mount.join(name))
            .arg("1000")
            .spawn()
            .unwrap();
        let script = format!("import os; os.close(os.open('{name}', os.O_TRUNC))");
        let output = Command::new("python3")
            .args(["-c", &script])
            .current_dir(&session.on_mount)
            .output()
            .unwrap();
        assert_eq!(!output.status.success(), is_refused, "{output:?}");
        assert!(child.try_wait().unwrap().is_none(), "it goes on");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(
        fs::metadata(session.in_repository.join("program"))
            .unwrap()
            .len()
            > 0
    );
    assert_content(&session, "", "replaced");
}
