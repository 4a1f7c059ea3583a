//! A save never gives a user more than the repository would (DESIGN 13.1): the file that
//! it replaces is checked, and all rights are taken from one file.

use std::path::PathBuf;

use crate::common::observe::{Strace, is_in_call, threads};
use crate::common::saves::{PYTHON_PAUSE, Running};
use crate::common::users::User::{self, Ann, Bob, Root};
use crate::common::users::{run_as, shared_mount};
use crate::common::{Backing, Mount, Session, wait_until};

on_each_filesystem!(
    rule_13_1_a_name_given_to_another_file_gives_no_rights_to_it,
    rule_13_1_a_private_file_put_in_place_is_not_written,
    rule_13_1_a_save_goes_where_its_writer_may_write_and_nowhere_else,
    rule_13_1_a_missing_checkpoint_is_made_only_by_writers_that_may_make_one,
    rule_13_1_privileges_do_not_survive_a_change,
    rule_13_1_root_of_a_user_namespace_keeps_no_privileges,
    rule_13_1_a_former_owner_cannot_change_attributes,
    rule_13_1_root_of_a_container_changes_what_is_its_own,
    rule_13_1_who_owned_a_file_changes_no_acl_of_it,
    rule_13_1_who_owned_a_program_gives_it_no_name,
    rule_13_1_capabilities_over_others_count,
    rule_13_1_in_a_sticky_session_names_of_others_stay,
    rule_13_1_in_a_sticky_session_everybody_may_make_the_first_checkpoint,
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
    // Beside the checkpoint, where the kernel asks for it.
    let session = session_of(&mount, "beside", "0:0");
    do_as(Root, &session, &program.replace("session", "other"));
    let output = run_as(Bob, &session.on_mount, "echo new >> other");
    assert!(output.status.success(), "{output:?}");
    let show = run_as(
        Root,
        &session.in_repository,
        "stat -c %a other; getcap other",
    );
    assert_eq!(String::from_utf8_lossy(&show.stdout), "777\n");
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

/// Runs python as Ann, who is root of a user namespace in which Cid is the user 1000.
/// Answers what each `step` in it says.
fn in_a_container(session: &Session, changes: &str) -> String {
    let program = "
import os, sys, ctypes
r, w = os.pipe(); r2, w2 = os.pipe()
if os.fork() == 0:
    os.setgroups([]); os.setresgid(61001, 61001, 61001); os.setresuid(61001, 61001, 61001)
    if ctypes.CDLL(None).unshare(0x10000000): os._exit(1)
    os.write(w, b'x'); os.read(r2, 1)
    os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
    said = []
    def step(f):
        try: f(); said.append('0')
        except OSError as e: said.append(str(e.errno))
    exec(CHANGES)
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
    let program = format!("CHANGES = '''{changes}'''\n{program}");
    crate::common::tools::python(&session.on_mount, &program)
}

/// What user namespaces are for: root of one owns what its users own.
fn rule_13_1_root_of_a_container_changes_what_is_its_own(backing: Backing) {
    let mount = shared_mount(backing);
    let session = session_of(&mount, "a", "61001:61001");
    let make = "echo x > session; echo x > other; chown 61003:61003 session other";
    do_as(Root, &session, &format!("{make}; chmod 755 ."));
    // Ann is its root, and Cid the user 1000 in it.
    let changes = "
for name in ('session', 'other'):
    fd = os.open(name, os.O_RDONLY)
    for change in (lambda: os.chmod(name, 0o640), lambda: os.chown(name, 0, 1000),
                   lambda: os.fchmod(fd, 0o600), lambda: os.fchown(fd, 1000, 0),
                   lambda: os.utime(name, (5, 7))):
        step(change)
    os.close(fd)
";
    let output = in_a_container(&session, changes);
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

/// Python for an ACL that gives a user of ours all that there is.
const ACL_OF_BOB: &str = "__import__('struct').pack('<IHHIHHIHHIHHIHHI', 2, \
    1, 7, 2**32 - 1, 2, 7, 61002, 4, 0, 2**32 - 1, 16, 7, 2**32 - 1, 32, 0, 2**32 - 1)";

/// The kernel goes by the owner that it was told of last, here as well.
fn rule_13_1_who_owned_a_file_changes_no_acl_of_it(backing: Backing) {
    let mount = shared_mount(backing);
    let set = |name: &str| format!("os.setxattr(fd, 'system.posix_acl_{name}', {ACL_OF_BOB})");
    let remove = |name: &str| format!("os.removexattr(fd, 'system.posix_acl_{name}')");
    let of_a_file = [set("access"), remove("access")];
    let of_a_directory = [set("default"), remove("default")];
    let cases = [
        ("session", "os.O_RDONLY", "pass", 2),
        ("session", "os.O_RDWR", "pass", 2),
        ("session", "os.O_RDWR", "os.write(fd, b'hi')", 2),
        ("other", "os.O_RDONLY", "pass", 2),
        ("other", "os.O_RDWR", "os.write(fd, b'hi')", 2),
        ("directory", "os.O_RDONLY | os.O_DIRECTORY", "pass", 4),
        (".", "os.O_RDONLY | os.O_DIRECTORY", "pass", 4),
    ];
    for (number, (name, flags, first, changes)) in cases.into_iter().enumerate() {
        let all = of_a_file.iter().chain(&of_a_directory);
        for (change, second) in all.take(changes).enumerate() {
            for is_given in [true, false] {
                let id = format!("{number}-{change}-{is_given}");
                let session = session_of(&mount, &id, "61002:61002");
                let make = "mkdir directory; echo old > session; echo old > other; \
                    setfacl -m u:61003:r . directory session other; \
                    setfacl -d -m u:61003:r . directory";
                do_as(Bob, &session, make);
                let acl = || {
                    let show = format!("getfacl -pn {name} | grep -v '^#'");
                    let output = run_as(Root, &session.in_repository, &show);
                    String::from_utf8(output.stdout).unwrap()
                };
                let before = acl();
                let writer = Writer {
                    flags: &format!("{flags}; name = '{name}'"),
                    first: &format!("os.fstat(fd); {first}"),
                    second,
                    ..Writer::default()
                };
                let give = format!("chown 0:0 {name}");
                let meanwhile = [(Root, &*give)];
                let told = writer.run(&session, if is_given { &meanwhile } else { &[] });
                let of = format!("{name} {flags} {first} {second}");
                if is_given {
                    // What a writer writes is its own until it is saved.
                    let stages = name == "session" && first != "pass";
                    let said = if stages { "0 0 ESTALE" } else { "0 EPERM 0" };
                    assert_eq!(told, said, "{of}");
                    assert_eq!(acl(), before, "{of}");
                } else {
                    assert_eq!(told, "0 0 0", "{of}");
                    assert_ne!(acl(), before, "{of}");
                }
            }
        }
    }
}

/// As `fs.protected_hardlinks` says: what the kernel asks of the mount for that is
/// what it was told of last.
fn rule_13_1_who_owned_a_program_gives_it_no_name(backing: Backing) {
    let mount = shared_mount(backing);
    for (number, (name, to)) in [("other", "mine"), ("session", "mine"), ("other", "session")]
        .into_iter()
        .enumerate()
    {
        for is_given in [true, false] {
            let session = session_of(&mount, &format!("{number}-{is_given}"), "61002:61002");
            let make = format!("cp /bin/true {name}; chmod 4755 {name}");
            do_as(Bob, &session, &make);
            let link = format!("os.link(f'/proc/self/fd/{{fd}}', '{to}', src_dir_fd=fd)");
            let writer = Writer {
                flags: &format!("os.O_PATH; name = '{name}'"),
                first: "os.fstat(fd)",
                second: &link,
                ..Writer::default()
            };
            let give = format!("chown 0:0 {name}; chmod 4755 {name}");
            let meanwhile = [(Root, &*give)];
            let told = writer.run(&session, if is_given { &meanwhile } else { &[] });
            if is_given {
                assert_eq!(told, "0 EPERM 0", "{name} {to}");
                assert_names(&session, &[name]);
            } else {
                assert_eq!(told, "0 0 0", "{name} {to}");
                let mut names = [name, to];
                names.sort_unstable();
                assert_names(&session, &names);
            }
        }
    }
}

/// Those of a whole system, and those of a user namespace over its users.
fn rule_13_1_capabilities_over_others_count(backing: Backing) {
    let mount = shared_mount(backing);
    let make = "umask 022; echo 1 > session; echo 2 > other; echo 3 > session.next; mkdir d; \
        setfacl -d -m u:61003:r d";
    // All is another user's, in a directory with the sticky bit.
    let session = session_of(&mount, "fowner", "61001:61001");
    do_as(Ann, &session, make);
    do_as(Ann, &session, "chmod 1777 .");
    let changes = "import os
os.setxattr('session', 'system.posix_acl_access', ACL)
os.setxattr('d', 'system.posix_acl_default', ACL)
os.removexattr('d', 'system.posix_acl_default')
os.link('other', 'linked'); os.rename('linked', 'another'); os.unlink('another')
os.unlink('session.next'); os.rename('session', 'bak'); os.unlink('bak'); os.rename('other', 'session')
os.rmdir('d')"
        .replace("ACL", ACL_OF_BOB);
    let program = format!(
        "setpriv --reuid=61002 --regid=61002 --clear-groups --inh-caps=+fowner,+fsetid \
         --ambient-caps=+fowner,+fsetid python3 -c \"{changes}\""
    );
    do_on_mount(&session, &program);
    assert_names(&session, &["session"]);

    // In a directory of Cid's, for root of the namespace that Cid is in.
    let session = session_of(&mount, "container", "61003:61003");
    do_as(User::Cid, &session, make);
    let changes = "
step(lambda: os.setxattr('session', 'user.a', b'1'))
step(lambda: os.setxattr('other', 'user.a', b'1'))
step(lambda: os.removexattr('other', 'user.a'))
step(lambda: os.removexattr('d', 'system.posix_acl_default'))
step(lambda: os.link('other', 'linked'))
step(lambda: os.rename('linked', 'another'))
step(lambda: os.unlink('another'))
step(lambda: os.unlink('session.next'))
step(lambda: os.rename('session', 'bak'))
step(lambda: os.unlink('bak'))
step(lambda: os.rename('other', 'session'))
step(lambda: os.unlink('session'))
step(lambda: os.rmdir('d'))
";
    assert_eq!(in_a_container(&session, changes), ["0"; 13].join(" "));
    wait_until("all is removed", || session.names().is_empty());
}

/// Does something on the mount as root.
#[track_caller]
fn do_on_mount(session: &Session, command: &str) {
    let output = run_as(Root, &session.on_mount, command);
    assert!(output.status.success(), "{command}: {output:?}");
}

/// The kernel looks at whose a file is, and asks for a change of the name then: it
/// may be the name of another user's file by the time that is made.
fn rule_13_1_in_a_sticky_session_names_of_others_stay(backing: Backing) {
    const CALLS: &str = "renameat,renameat2,unlinkat";
    let mount = shared_mount(backing);
    let hers = "umask 077; echo hers > y; mv -n y NAME; rm -f y";
    let session = "echo his > session";
    for (id, before, change, name, said) in [
        ("away", session, "os.rename('session', 'x')", "x", "EPERM"),
        (
            "to",
            "echo f > f",
            "os.rename('f', 'session')",
            "session",
            "EPERM",
        ),
        ("removed", session, "os.unlink('session')", "session", "0"),
        (
            "broken",
            "echo lock > session.next",
            "os.unlink('session.next')",
            "session.next",
            "EPERM",
        ),
        (
            "first",
            ":",
            "f = os.open('session', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)\n    \
             os.write(f, b'x'); os.fsync(f)",
            "session",
            "EACCES",
        ),
    ] {
        let session = session_of(&mount, id, "0:0");
        do_as(Root, &session, "chmod 1777 .");
        do_as(Bob, &session, before);
        // Held up for long: until it is detached.
        let options = [
            "-e".to_owned(),
            format!("trace={CALLS}"),
            "-e".to_owned(),
            format!("inject={CALLS}:delay_enter=20000000"),
        ];
        let strace = Strace::attach_to_all(mount.pid(), options);
        let program = format!(
            "python3 -c \"import os, errno\ntry:\n    {change}\n    print('0')\n\
             except OSError as e: print(errno.errorcode[e.errno])\""
        );
        let told = std::thread::scope(|scope| {
            let bob = scope.spawn(|| run_as(Bob, &session.on_mount, &program));
            wait_until("the daemon is about to change the name", || {
                let calls = [libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_unlinkat];
                let is_in_one = |tid: &u32| calls.iter().any(|&call| is_in_call(*tid, call));
                threads(mount.pid(), None).iter().any(is_in_one)
            });
            do_as(Root, &session, &format!("rm -f {name}"));
            do_as(Ann, &session, &hers.replace("NAME", name));
            drop(strace);
            bob.join().unwrap()
        });
        let told = String::from_utf8(told.stdout).unwrap();
        assert_eq!(told.trim(), said, "{id}");
        // A look finds a removal done that is due.
        let _ = std::fs::metadata(session.file());
        let show = format!("stat -c %u {name}; cat {name}");
        let left = run_as(Root, &session.in_repository, &show);
        assert_eq!(
            String::from_utf8_lossy(&left.stdout),
            "61001\nhers\n",
            "{id}"
        );
        let links = session.names();
        assert!(!links.iter().any(|name| name.starts_with('.')), "{links:?}");
    }
}

/// An empty file is shown where there is none, which is nobody's.
fn rule_13_1_in_a_sticky_session_everybody_may_make_the_first_checkpoint(backing: Backing) {
    let mount = shared_mount(backing);
    let changes = [
        ("write", "echo his > session"),
        ("rename", "echo his > t; mv t session"),
        ("link", "echo his > t; ln t session; rm t"),
        ("remove", "rm session; echo his > session"),
        ("install", "echo his > t; install -m 644 t session; rm t"),
    ];
    for (id, change) in changes {
        for (mode, owner, may) in [
            ("1777", "0:0", true),
            ("1777", "61001:61001", true),
            ("1777", "61002:61002", true),
            ("1770", "61001:61010", true),
            ("1755", "0:0", false),
        ] {
            let session = session_of(&mount, &format!("{id}-{mode}-{owner}"), owner);
            do_as(Root, &session, &format!("chmod {mode} ."));
            let output = run_as(Bob, &session.on_mount, &format!("umask 022; {change}"));
            assert_eq!(
                output.status.success(),
                may,
                "{id} {mode} {owner}: {output:?}"
            );
            let left = if may { "61002:61002 644 his" } else { "none" };
            assert_eq!(checkpoint(&session), left, "{id} {mode} {owner}");
            // Nobody is shown it as another one's that may not make it.
            let show = run_as(User::Cid, &session.on_mount, "stat -c %u session");
            let shown = String::from_utf8_lossy(&show.stdout).trim().to_owned();
            let expected = match (may, mode) {
                (true, "1770") => "",
                (true, _) => "61002",
                _ => "0",
            };
            assert_eq!(shown, expected, "{id} {mode} {owner}");
        }
    }
}
