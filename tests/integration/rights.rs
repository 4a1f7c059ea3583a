//! A save never gives a user more than the repository would (DESIGN 13.1): the file that
//! it replaces is checked, and all rights are taken from one file.

use std::path::PathBuf;

use crate::common::saves::{PYTHON_PAUSE, Running};
use crate::common::users::User::{self, Ann, Bob, Root};
use crate::common::users::{run_as, shared_mount};
use crate::common::{Backing, Mount, Session};

on_each_filesystem!(
    rule_13_1_a_name_given_to_another_file_gives_no_rights_to_it,
    rule_13_1_a_private_file_put_in_place_is_not_written,
    rule_13_1_a_save_goes_where_its_writer_may_write_and_nowhere_else,
    rule_13_1_a_missing_checkpoint_is_made_only_by_writers_that_may_make_one,
    rule_13_1_privileges_do_not_survive_a_change,
    rule_13_1_root_of_a_user_namespace_keeps_no_privileges,
    rule_13_1_a_former_owner_cannot_change_attributes,
    rule_13_1_root_of_a_container_changes_what_is_its_own,
);

/// Python that becomes a user, opens `session` on the mount with `flags`, and does
/// something with the descriptor before and after a pause. It prints the result of each
/// part.
const WRITER: &str = "
import errno, sys
name = globals().get('name', 'session')
told, go = open(os.environ['TOLD'], 'w'), open(os.environ['GO'])
uid = int(os.environ['USER_ID'])
if uid:
    os.setgroups([61010]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
def step(f):
    try: f(); said = '0'
    except OSError as e: said = errno.errorcode[e.errno]
    told.write(said + '\\n'); told.flush()
fd = -1
def before():
    global fd
    fd = os.open(name, flags, 0o644)
    first(fd)
def after():
    second(fd)
step(before)
go.readline()
step(after)
step(lambda: os.close(fd))
";

/// What a user does with `session` on the mount.
struct Writer<'a> {
    user: User,
    /// The flags of open(2), in python.
    flags: &'a str,
    /// Done with the descriptor `fd`, before and after the pause.
    first: &'a str,
    second: &'a str,
}

impl Default for Writer<'_> {
    fn default() -> Self {
        Self {
            user: Bob,
            flags: "os.O_WRONLY | os.O_TRUNC",
            first: "os.write(fd, b'new')",
            second: "pass",
        }
    }
}

impl Writer<'_> {
    /// Runs it, and `meanwhile` in the repository between its two parts. Returns the
    /// results of the two parts and of close(2).
    #[track_caller]
    fn run(&self, session: &Session, meanwhile: &[(User, &str)]) -> String {
        let id = match self.user {
            Root => "0",
            Ann => "61001",
            Bob => "61002",
            User::Cid => "61003",
        };
        let program = format!(
            "{PYTHON_PAUSE}\nflags = {}\ndef first(fd): {}\ndef second(fd): {}\n{WRITER}",
            self.flags, self.first, self.second
        );
        let environment = [("USER_ID", PathBuf::from(id))];
        let mut running = Running::start("python3", &session.on_mount, &program, &environment);
        let opened = running.told();
        for (user, command) in meanwhile {
            do_as(*user, session, command);
        }
        running.go_on();
        let rest = [running.told(), running.told()];
        let output = running.finish();
        assert!(output.status.success(), "{output:?}");
        format!("{opened} {} {}", rest[0], rest[1])
    }
}

/// Runs a command in the repository's directory of a session.
#[track_caller]
fn do_as(user: User, session: &Session, command: &str) {
    let output = run_as(
        user,
        &session.in_repository,
        &format!("umask 022; {command}"),
    );
    assert!(output.status.success(), "{user:?}: {command}: {output:?}");
}

/// A session in a directory of this owner and mode.
fn session_of(mount: &Mount, name: &str, owner: &str) -> Session {
    let session = mount.session(name);
    do_as(Root, &session, &format!("chown {owner} ."));
    session
}

/// Owner, mode, ACL, attributes and content of the checkpoint, in a line.
fn checkpoint(session: &Session) -> String {
    let show = "[ -e session ] || { echo none; exit; }; \
        stat -c '%u:%g %a' session; getfacl -cn session | grep ':.*:.' | grep '^[a-z]*:[0-9]'; \
        getfattr -d -m '^(user|trusted|security.cap)' session | sed -n '/SGI_ACL/d;s/\"//g;/=/p'; \
        cat session";
    let output = run_as(Root, &session.in_repository, show);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The other files in the session.
#[track_caller]
fn assert_names(session: &Session, names: &[&str]) {
    assert_eq!(session.names(), names);
}

fn rule_13_1_a_name_given_to_another_file_gives_no_rights_to_it(backing: Backing) {
    let mount = shared_mount(backing);
    for (number, flags) in [
        "os.O_WRONLY | os.O_TRUNC | os.O_CREAT",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL",
        "os.O_WRONLY | os.O_CREAT",
    ]
    .iter()
    .enumerate()
    {
        for mode in ["4755", "2755", "0777"] {
            let session = session_of(&mount, &format!("{number}-{mode}"), "61002:61002");
            do_as(Root, &session, "echo note > note");
            let writer = Writer {
                flags,
                first: &format!("os.write(fd, b'#!/bin/sh'); os.fchmod(fd, 0o{mode})"),
                ..Writer::default()
            };
            let told = writer.run(&session, &[(Bob, "mv -f note session")]);
            assert!(
                ["0 0 EACCES", "0 0 ESTALE"].contains(&&*told),
                "{flags} {mode}: {told}"
            );
            assert_eq!(checkpoint(&session), "0:0 644 note", "{flags} {mode}");
            assert_names(&session, &["session"]);
        }
    }
}

fn rule_13_1_a_private_file_put_in_place_is_not_written(backing: Backing) {
    let mount = shared_mount(backing);
    for (name, owner_puts) in [
        ("renamed", "umask 077; echo private > x; mv -f x session"),
        (
            "removed",
            "rm -f session; umask 077; echo private > session",
        ),
    ] {
        let session = session_of(&mount, name, "61001:61010");
        do_as(
            Root,
            &session,
            "chmod 777 .; echo old > session; chmod 666 session",
        );
        let told = Writer::default().run(&session, &[(Ann, owner_puts)]);
        assert_eq!(told, "0 0 EACCES", "{name}");
        assert_eq!(checkpoint(&session), "61001:61001 600 private", "{name}");
        assert_names(&session, &["session"]);
    }
}

/// The file that is there at the end decides, and all rights are those of that file.
fn rule_13_1_a_save_goes_where_its_writer_may_write_and_nowhere_else(backing: Backing) {
    let mount = shared_mount(backing);
    let all = "os.O_WRONLY | os.O_TRUNC";
    let kept = "os.O_WRONLY";
    let ann = |mode: &str| format!("echo hers > x; chmod {mode} x; mv -f x session");
    let and = |mode: &str, more: &str| ann(mode).replace("; mv", &format!("; {more}; mv"));
    let cases: [(&str, &str, &str, String, &str, &str); 9] = [
        // Her file, which he may write: the content is his, everything else is hers.
        (
            "others",
            all,
            "",
            ann("606"),
            "0 0 0",
            "61001:61001 606 new",
        ),
        (
            "nobody",
            all,
            "",
            ann("644"),
            "0 0 EACCES",
            "61001:61001 644 hers",
        ),
        // The first matching entry counts (acl(5)).
        (
            "acl",
            all,
            "",
            and("600", "setfacl -m u:61002:rw x; setfattr -n user.a -v 1 x"),
            "0 0 0",
            "61001:61001 660 user:61002:rw- user.a=1 new",
        ),
        (
            "denied",
            all,
            "",
            and("666", "setfacl -m u:61002:r x"),
            "0 0 EACCES",
            "61001:61001 666 user:61002:r-- hers",
        ),
        (
            "group",
            all,
            "",
            and("660", "chgrp 61010 x"),
            "0 0 0",
            "61001:61010 660 new",
        ),
        // The attributes that he has set belong to another file.
        (
            "mode",
            all,
            "; os.fchmod(fd, 0o666)",
            ann("666"),
            "0 0 ESTALE",
            "61001:61001 666 hers",
        ),
        (
            "attribute",
            all,
            "; os.setxattr(fd, 'user.b', b'2')",
            ann("666"),
            "0 0 ESTALE",
            "61001:61001 666 hers",
        ),
        // He has not truncated (DESIGN 2.9).
        (
            "update",
            kept,
            "",
            ann("666"),
            "0 0 ESTALE",
            "61001:61001 666 hers",
        ),
        // A file of his own with another mode, as the original would make it.
        (
            "own",
            all,
            "",
            "setpriv --reuid=61002 --regid=61002 --clear-groups \
             sh -c 'echo x > x; chmod 640 x; mv -f x session'"
                .to_owned(),
            "0 0 0",
            "61002:61002 640 new",
        ),
    ];
    for (name, flags, more, puts, said, left) in cases {
        let session = session_of(&mount, name, "61001:61010");
        let old = "chmod 777 .; echo old > session; setfattr -n user.old -v 1 session; \
            setfacl -m u:61003:rw session; chown 61002:61002 session";
        do_as(Root, &session, old);
        let writer = Writer {
            flags,
            first: &format!("os.write(fd, b'new'){more}"),
            ..Writer::default()
        };
        let by = if name == "own" { Root } else { Ann };
        let told = writer.run(&session, &[(by, &puts)]);
        assert_eq!(told, said, "{name}");
        assert_eq!(checkpoint(&session), left, "{name}");
        assert_names(&session, &["session"]);
    }
}

fn rule_13_1_a_missing_checkpoint_is_made_only_by_writers_that_may_make_one(backing: Backing) {
    let mount = shared_mount(backing);
    for (name, directory, flags, said) in [
        ("may", "777", "os.O_WRONLY | os.O_TRUNC", "0 0 0"),
        ("may-not", "755", "os.O_WRONLY | os.O_TRUNC", "0 0 ESTALE"),
        ("update", "777", "os.O_WRONLY", "0 0 ESTALE"),
    ] {
        let session = session_of(&mount, name, "61001:61010");
        // Another user's checkpoint is gone: the new one is his own.
        let old = "echo old > session; chmod 4777 session; setfattr -n trusted.a -v 1 session; \
            setfacl -m u:61003:rw session";
        do_as(Root, &session, &format!("chmod {directory} .; {old}"));
        let writer = Writer {
            flags,
            ..Writer::default()
        };
        let told = writer.run(&session, &[(Ann, "rm -f session")]);
        assert_eq!(told, said, "{name}");
        let left = if said == "0 0 0" {
            "61002:61002 600 new"
        } else {
            "none"
        };
        assert_eq!(checkpoint(&session), left, "{name}");
    }
}

fn rule_13_1_privileges_do_not_survive_a_change(backing: Backing) {
    let mount = shared_mount(backing);
    let program = "cp /bin/true x; setcap cap_net_raw+ep x; chmod 6777 x; mv -f x session";
    let setuid = "cp /bin/true x; chmod 6777 x; mv -f x session";
    for (name, user, before, meanwhile, left) in [
        // Put there meanwhile.
        (
            "replaced",
            Bob,
            "echo > session; chmod 666 session",
            program,
            "0:0 777 new",
        ),
        // There from the beginning.
        ("there", Bob, program, ":", "0:0 777 new"),
        ("setuid", Bob, setuid, ":", "0:0 777 new"),
        (
            "given",
            Bob,
            "echo > session; chmod 666 session",
            "chmod 6777 session",
            "0:0 777 new",
        ),
        // Root keeps them, except capabilities, as on any filesystem; those that it has
        // not seen it need not keep.
        ("root", Root, program, ":", "0:0 6777 new"),
        (
            "root-replaced",
            Root,
            "echo > session",
            program,
            "0:0 777 new",
        ),
    ] {
        let session = session_of(&mount, name, "0:0");
        do_as(Root, &session, before);
        let writer = Writer {
            user,
            ..Writer::default()
        };
        assert_eq!(
            writer.run(&session, &[(Root, meanwhile)]),
            "0 0 0",
            "{name}"
        );
        assert_eq!(checkpoint(&session), left, "{name}");
    }
    // A program of Bob's that becomes root's while he writes it: the attributes that he
    // has set as its owner are not set on root's file, and the save must say so.
    let session = session_of(&mount, "taken", "61002:61002");
    do_as(Bob, &session, "echo old > session");
    let writer = Writer {
        first: "os.write(fd, b'new'); os.fchmod(fd, 0o4755)",
        ..Writer::default()
    };
    let told = writer.run(&session, &[(Root, "chown 0:0 session")]);
    let (said, found) = (told.clone(), checkpoint(&session));
    assert_eq!((&*said, &*found), ("0 0 ESTALE", "0:0 644 old"), "{told}");
    // The same without attributes: he may write the content, as anywhere.
    let session = session_of(&mount, "taken-as-it-is", "61002:61002");
    do_as(Bob, &session, "echo old > session");
    let writer = Writer {
        first: "os.write(fd, b'new')",
        ..Writer::default()
    };
    let told = writer.run(&session, &[(Root, "chown 0:0 session; chmod 600 session")]);
    assert_eq!((&*told, &*checkpoint(&session)), ("0 0 0", "0:0 600 new"));
}

/// Its capabilities do not count outside the namespace.
fn rule_13_1_root_of_a_user_namespace_keeps_no_privileges(backing: Backing) {
    let mount = shared_mount(backing);
    let ordinary = mount.disk.path().join("ordinary");
    std::fs::create_dir(&ordinary).unwrap();
    for (number, (user, how)) in [
        (Bob, "unshare -Ur dash -c 'echo new > FILE'"),
        (Root, "unshare -Ur dash -c 'echo new > FILE'"),
        (Bob, "unshare -Ur dash -c 'echo new >> FILE'"),
        (Bob, "echo new > FILE"),
        (Root, "echo new > FILE"),
        (Root, "echo new >> FILE"),
    ]
    .into_iter()
    .enumerate()
    {
        let session = session_of(&mount, &number.to_string(), "61002:61002");
        let modes = ["session", "other"].map(|name| {
            let modes = [&session.on_mount, &ordinary].map(|place| {
                let make =
                    format!("echo old > {name}; chown 61002:61002 {name}; chmod 6777 {name}");
                let made = run_as(Root, place, &make);
                assert!(made.status.success(), "{made:?}");
                let changed = run_as(user, place, &how.replace("FILE", name));
                assert!(changed.status.success(), "{changed:?}");
                let shown = run_as(Root, place, &format!("stat -c %a {name}"));
                String::from_utf8(shown.stdout).unwrap()
            });
            assert_eq!(modes[0], modes[1], "{how} by {user:?}: {name}");
            modes[0].clone()
        });
        let kept = user == Root && !how.starts_with("unshare");
        assert_eq!(modes[0], if kept { "6777\n" } else { "777\n" });
    }
}

/// The kernel checks by the owner that it was told last.
fn rule_13_1_a_former_owner_cannot_change_attributes(backing: Backing) {
    let mount = shared_mount(backing);
    let cases = [
        ("session", "os.O_RDONLY", "pass"),
        ("session", "os.O_RDWR", "pass"),
        ("other", "os.O_RDONLY", "pass"),
        ("other", "os.O_RDWR", "os.write(fd, b'hi')"),
    ];
    let changes = [
        ("os.fchmod(fd, 0o4755)", "0:0"),
        ("os.fchmod(fd, 0o666)", "0:0"),
        ("os.fchown(fd, -1, 61010)", "0:0"),
        ("os.utime(fd, (5, 7))", "0:0"),
        // It is still his, and of a group that he is not in.
        ("os.fchmod(fd, 0o2755)", "61002:0"),
    ];
    for (number, (name, flags, first)) in cases.into_iter().enumerate() {
        for (second, owner) in changes {
            let id = format!(
                "{number}-{}",
                second.replace(|c: char| !c.is_alphanumeric(), "")
            );
            let session = session_of(&mount, &id, "61002:61002");
            do_as(
                Bob,
                &session,
                &format!("echo old > {name}; chmod 755 {name}"),
            );
            let writer = Writer {
                flags: &format!("{flags}; name = '{name}'"),
                first: &format!("os.fstat(fd); {first}"),
                second,
                ..Writer::default()
            };
            let told = writer.run(&session, &[(Root, &format!("chown {owner} {name}"))]);
            let show = format!("stat -c '%u:%g %a' {name}");
            let left = run_as(Root, &session.in_repository, &show);
            let left = String::from_utf8(left.stdout).unwrap();
            let said = if owner == "0:0" { "0 EPERM 0" } else { "0 0 0" };
            let of = format!("{name} {flags} {second}");
            assert_eq!(
                (&*told, left.trim()),
                (said, &*format!("{owner} 755")),
                "{of}"
            );
        }
    }
}

/// The purpose of user namespaces: root in one owns the files of its users.
fn rule_13_1_root_of_a_container_changes_what_is_its_own(backing: Backing) {
    let mount = shared_mount(backing);
    let session = session_of(&mount, "a", "61001:61001");
    let make = "echo x > session; echo x > other; chown 61003:61003 session other";
    do_as(Root, &session, &format!("{make}; chmod 755 ."));
    // Ann is root in it, and Cid is its user 1000.
    let program = "
import os, sys, ctypes
r, w = os.pipe(); r2, w2 = os.pipe()
if os.fork() == 0:
    os.setgroups([]); os.setresgid(61001, 61001, 61001); os.setresuid(61001, 61001, 61001)
    if ctypes.CDLL(None).unshare(0x10000000): os._exit(1)
    os.write(w, b'x'); os.read(r2, 1)
    os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
    said = []
    for name in ('session', 'other'):
        fd = os.open(name, os.O_RDONLY)
        for change in (lambda: os.chmod(name, 0o640), lambda: os.chown(name, 0, 1000),
                       lambda: os.fchmod(fd, 0o600), lambda: os.fchown(fd, 1000, 0),
                       lambda: os.utime(name, (5, 7))):
            try: change(); said.append('0')
            except OSError as e: said.append(str(e.errno))
        os.close(fd)
    print(' '.join(said), flush=True)
    os._exit(0)
os.close(w)
if not os.read(r, 1): sys.exit('no user namespace')
child = int(open('/proc/self/task/%d/children' % os.getpid()).read().split()[0])
for kind in 'ug':
    with open(f'/proc/{child}/{kind}id_map', 'w') as f: f.write('0 61001 1\\n1000 61003 1\\n')
os.write(w2, b'x')
os.wait()
";
    let output = crate::common::tools::python(&session.on_mount, program);
    assert_eq!(output, ["0"; 10].join(" "));
    for name in ["session", "other"] {
        let left = run_as(
            Root,
            &session.in_repository,
            &format!("stat -c '%u:%g %a %Y' {name}"),
        );
        assert_eq!(
            String::from_utf8_lossy(&left.stdout),
            "61003:61001 600 7\n",
            "{name}"
        );
    }
}
