//! Several users: on the mount, each gets what they would get in an ordinary directory
//! with the same permissions, and nothing that they could not get in the repository.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::tools::output_of;
use crate::common::users::User::{self, Ann, Bob, Cid, Root};
use crate::common::users::{run_as, shared_mount, told};
use crate::common::{Backing, Mount};

/// A mount, and an ordinary directory beside its repository.
struct Twins {
    mount: Mount,
    ordinary: PathBuf,
}

impl Twins {
    fn new(backing: Backing) -> Self {
        let mount = shared_mount(backing);
        let ordinary = mount.disk.path().join("ordinary");
        fs::create_dir(&ordinary).unwrap();
        fs::set_permissions(&ordinary, PermissionsExt::from_mode(0o1777)).unwrap();
        Self { mount, ordinary }
    }

    /// Root runs `setup` in both places, and then each user their commands, one for each
    /// line. Fails unless all end in the same way, and leave the same.
    #[track_caller]
    fn compare(&self, setup: &str, commands: &[(User, &str)]) {
        let places = [&self.mount.mountpoint, &self.ordinary];
        let fresh = "rm -rf [abc].session; umask 022; mkdir a.session; cd a.session; set -e";
        for (place, setup) in places.map(|place| (place, format!("{fresh}; {setup}"))) {
            let output = run_as(Root, place, &setup);
            assert!(output.status.success(), "{setup}: {output:?}");
        }
        for (user, lines) in commands {
            // Each line by itself, so that one that fails does not end the others.
            let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
            let script: String = lines
                .map(|line| {
                    format!(
                        "echo '# {}'; ({line}); echo \"= $?\"\n",
                        line.replace('\'', "")
                    )
                })
                .collect();
            let script = format!("exec 2>&1; umask 022; cd a.session || exit\n{script}");
            let [got, expected] = places.map(|place| told(&run_as(*user, place, &script)));
            assert_eq!(got, expected, "{setup}; {user:?}");
        }
        let repository = &self.mount.repository;
        let [on_mount, in_repository, expected] =
            [&self.mount.mountpoint, repository, &self.ordinary].map(|place| state(place));
        assert_eq!(on_mount, expected, "{setup}; {commands:?}");
        assert_eq!(in_repository, expected, "{setup}; {commands:?}");
    }
}

/// Names, types, modes, owners, contents, attributes and ACLs of all but an
/// empty `session`, which the mount shows where there is none.
fn state(place: &Path) -> String {
    let show = "list() { find *.session ! \\( -name session -empty \\) \"$@\" | sort; }; \
        list -printf '%p %y %m %U:%G %l\\n'; \
        list -type f | xargs -r tail -v -n +1; \
        list ! -type l | xargs -r getfacl -np; \
        list ! -type l | xargs -r getfattr -dm '^user'";
    output_of(place, "sh", &["-c", show])
}

/// All ways to open `session` for writing, and to look at it.
const TRIES: &str = "
    cat session
    printf x > session
    printf x >> session
    printf x 1<> session
    truncate -s 9 session
    ./open
    test -r session; echo $?; test -w session; echo $?; test -x session; echo $?
    cat session
";

/// A program that opens `session` in more ways, and prints each result.
const OPEN: &str = "cat > open <<'END'
#!/usr/bin/python3 -S
import os
for flags in os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC:
    try: os.close(os.open('session', flags))
    except OSError as e: print(flags, e)
try: os.truncate('session', 2)
except OSError as e: print('truncate', e)
END
chmod 755 open
";

#[test]
fn what_users_do_to_a_checkpoint_is_as_in_any_directory() {
    let twins = Twins::new(Backing::Ext4);
    for (mode, more) in [
        ("644", ""),
        ("640", ""),
        ("664", ""),
        ("606", ""),
        ("444", ""),
        ("6777", ""),
        ("600", "setfacl -m u:61003:rw session"),
        ("600", "setfacl -m u:61003:rw,m::r session"),
        ("666", "setfacl -m u:61002:--- session"),
        ("664", "setfacl -m g:61003:rw,g:61010:r session"),
    ] {
        // Ann's, of the group of Ann and Bob, in a directory of root's.
        let setup = format!("echo old > session; chown 61001:61010 session; chmod {mode} session");
        let setup = [OPEN, &setup, more].join("\n");
        twins.compare(&setup, &[(Cid, TRIES), (Bob, TRIES), (Ann, TRIES)]);
    }
    let owned = "echo old > session; setfattr -n trusted.hidden -v 1 session; \
        chown 61001:61010 . session; chmod 664 session";
    let replace = "
        echo by name > new
        mv -f new session
        rm -f session; echo second > session
        sed -i s/e/E/ session 2> /dev/null
        cp --remove-destination /dev/null session
    ";
    for mode in ["755", "775", "1777", "777"] {
        let setup = format!("{owned}; chmod {mode} .");
        twins.compare(&setup, &[(Cid, replace), (Bob, replace), (Ann, replace)]);
    }
    let attributes = "
        chmod 600 session
        chmod 4755 session
        chmod 2775 session
        chown 0 session
        chown 61003 session
        chgrp 61010 session
        chgrp 61003 session
        touch session
        touch -d 2001-01-01 session
        setfattr -n user.a -v 1 session
        setfattr -n trusted.a -v 1 session
        setfattr -n security.a -v 1 session
        getfattr -n user.a session
        getfattr -d -m - session
        setfacl -m u:61003:rw session
    ";
    for mode in ["644", "664"] {
        let setup = format!("{owned}; chmod {mode} session");
        twins.compare(&setup, &[(Cid, attributes), (Bob, attributes)]);
        twins.compare(&setup, &[(Bob, attributes), (Ann, attributes)]);
    }
}

#[test]
fn a_first_checkpoint_can_be_made_by_users_who_may_make_a_file() {
    let twins = Twins::new(Backing::Tmpfs);
    let places = [&twins.mount.mountpoint, &twins.ordinary];
    // A user who may not make a file sees none in an ordinary directory, and an empty one
    // on the mount: so if it is refused, only that is compared.
    let make = "for how in \
            'echo first > session' \
            'umask 027; echo first >> session' \
            'umask 0277; echo first > session' \
            'umask 0777; echo first > session'
        do
            n=$((n + 1)); cd ../$user$n.session
            echo \"$how\"; (eval \"$how\") 2> /dev/null && stat -c '%s %a %u:%g' session
        done";
    for setup in [
        "chown 61001:61010 $d; chmod 755 $d",
        "chown 61001:61010 $d; chmod 2775 $d",
        "chown 61001:61010 $d; chmod 555 $d",
        "chown 61001:61010 $d; chmod 575 $d",
        "chmod 1777 $d",
        "setfacl -m u:61003:rwx $d",
        "setfacl -m u:61003:rwx,m::rx $d",
        "chmod 777 $d; setfacl -m u:61003:rx $d",
    ] {
        let fresh = "set -e; umask 022; rm -rf *.session; mkdir x.session";
        let all = "$(for u in Ann Bob Cid; do for n in 1 2 3 4; do echo $u$n.session; done; done)";
        let script = format!("{fresh}; for d in {all}; do mkdir $d; {setup}; done");
        for place in places {
            let output = run_as(Root, place, &script);
            assert!(output.status.success(), "{script}: {output:?}");
        }
        for user in [Ann, Bob, Cid] {
            let script = format!("umask 022; cd x.session; user={user:?}; n=0; {make}");
            let [got, expected] = places.map(|place| told(&run_as(user, place, &script)));
            assert_eq!(got, expected, "{setup}; {user:?}");
        }
    }
}

#[test]
fn what_users_do_beside_a_checkpoint_is_as_in_any_directory() {
    let twins = Twins::new(Backing::Xfs);
    // One after the other, all users in one directory.
    let make = |name: &str| {
        format!(
            "
            umask 027; echo {name} > {name}
            umask 0; mkdir {name}.d; mkdir -p {name}.d/e; mkfifo {name}.p; ln -s {name} {name}.l
            python3 -Sc 'import socket; socket.socket(socket.AF_UNIX).bind(\"{name}.s\")'
            umask 0777; echo {name} > {name}.0
            mknod {name}.n c 1 3
            install -m 2755 /dev/null {name}.g; stat -c %a {name}.g
            chgrp 61010 {name}; chmod 2755 {name}; stat -c %a:%g {name}
            ls -n --time-style=+ .
            rm -rf ann* 2>&1 | sort
            cat *.0 ann bob cid > /dev/null
        "
        )
    };
    let (ann, bob, cid) = (make("ann"), make("bob"), make("cid"));
    for setup in [
        "chmod 777 .",
        "chmod 1777 .",
        "chown 61001:61010 .; chmod 2775 .",
        "chown 61001:61010 .; chmod 750 .",
        "chown 61001:61010 .; chmod 744 .",
        "chown 61001:61010 .; chmod 711 .",
        "chown 61001:61010 .; chmod 700 .",
        "setfacl -m u:61003:rwx .",
    ] {
        let setup = format!("echo old > session; {setup}");
        twins.compare(&setup, &[(Ann, &*ann), (Bob, &*bob), (Cid, &*cid)]);
    }
    // An ACL set by a user outside the group removes the setgid bit.
    let setup = "echo old > session; mkdir d; echo > f; chmod 2770 d f; chown 61003:61010 d f; \
        chmod 2770 d f";
    let set = "setfacl -m u:61001:rwx d; setfacl -m u:61001:rwx f; stat -c %a d f";
    twins.compare(setup, &[(Bob, set), (Cid, set), (Ann, "touch d/x; cat f")]);
    let script = "printf '#!/bin/sh\\necho run\\n' > s; cp s session; chown 61001:61010 s session; \
        chmod 710 s; chmod 750 session";
    let execute = "./session\n ./s\n cat s";
    twins.compare(script, &[(Ann, execute), (Bob, execute), (Cid, execute)]);
}

#[test]
fn what_users_do_with_sessions_is_as_in_any_directory() {
    let twins = Twins::new(Backing::Tmpfs);
    let tries = "
        ls
        cat session d/file
        cd ..; ls -d *.session
        cd ..; mkdir b.session; echo b > b.session/session; stat -c '%u:%g %a' b.session
        cd ..; mv a.session c.session
        cd ..; rmdir b.session
        cd ..; rm -r b.session 2>&1 | sort
        cd ..; rm -rf a.session 2>&1 | sort
        cd ..; chmod 700 a.session
        cd ..; touch -c a.session
    ";
    for mode in ["755", "700", "711", "744", "770"] {
        let setup = format!(
            "echo old > session; mkdir d; echo x > d/file; chown 61001:61010 . session; \
             chmod {mode} ."
        );
        twins.compare(&setup, &[(Cid, tries), (Bob, tries)]);
        twins.compare(
            &setup,
            &[
                (Bob, "mkdir ../b.session; echo b > ../b.session/session"),
                (Ann, tries),
            ],
        );
    }
}
