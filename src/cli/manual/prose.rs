//! What the manual pages say beyond the help: by command, by the name of the
//! program, or by that of the mount helper.

/// What the page of the helper says of how it is called.
pub(super) const HELPER_FORMS: [&str; 4] = [
    "mount -t fuse.sessionfs REPOSITORY MOUNTPOINT [-o OPTIONS]",
    "mount -t sessionfs REPOSITORY MOUNTPOINT [-o OPTIONS]",
    "mount.sessionfs REPOSITORY MOUNTPOINT [-fnrsvw] [-o OPTIONS]",
    "sessionfs REPOSITORY MOUNTPOINT -o OPTIONS",
];

/// The paragraphs that come first.
pub(super) fn description(about: &str) -> &'static [&'static str] {
    match about {
        "sessionfs" => &[
            "sessionfs mounts a repository of saved program sessions, and gives every ordinary \
             tool saves that are atomic, durable and honest about failure. Programs that use the \
             repository directly go on working beside the mount: the format on disk is the same.",
            "Each session is a directory, NAME.session, and its file \"session\" is the \
             checkpoint. A reader keeps the version that it opened. A writer sees its own file, \
             and nobody else sees it until it is saved. When the last close(2) after a write \
             returns 0, the new checkpoint is in place and survives a power cut. When it returns \
             an error, or the writer was killed, the old checkpoint is whole (unless only the \
             sync of the directory failed, which the log names: then the new one is in place, \
             and may not survive a power cut). fsync(2), and a rename(2) over \"session\", are \
             saves as well.",
            "One writer at a time: a second one gets EBUSY. A writer that did not truncate and \
             finds that another save came first gets ESTALE, and the newer checkpoint stands. \
             Programs that take turns with flock(2) on \"session\" lose nothing: it is a lock of \
             the session, and a program that gets it before it changes anything has the current \
             checkpoint open.",
        ],
        "mount" => &[
            "Mounts a repository. It is also done by mount(8) and by lines of fstab(5): see \
             mount.sessionfs(8). The command returns when the mount is usable; without a \
             repository it takes the default one, and it makes a mountpoint that is missing. \
             SIGTERM, SIGINT and SIGHUP finish the saves in progress and unmount; so does \
             sessionfs-umount(1).",
            "The root of the mount shows sessions only, youngest first. mkdir(1) NAME.session \
             makes one, rm(1) -r removes one, mv(1) renames one; anything else is refused there. \
             All that is in a session beside its checkpoint are ordinary files. Only the user who \
             mounted gets in, unless others are allowed to.",
            "A repository may be mounted more than once, which is said then and by \
             sessionfs-status(1): writers of one mount do not wait for those of another, and of \
             two saves the later one stands, or gets ESTALE if it began with what the other has \
             replaced. Between a mount and sessionfs-save(1) it is the same.",
            "A mount that is in use when it is to end is detached. Its writers get five seconds, \
             saves in progress the time that they need; a second signal does not wait for them. \
             What was still open for writing then is not saved, and the exit status is 6. A dead \
             mount of sessionfs that is found on the mountpoint is removed first.",
            "With --foreground a service manager is told when the mount is ready, when it ends \
             and, if it asks for that, that it answers (sd_notify(3)). There are units for \
             systemd: see FILES.",
        ],
        "umount" => &[
            "Unmounts, and ends the daemon when the saves in progress are finished. A mount that \
             is in use stays, and the processes that use it are named.",
        ],
        "status" => &[
            "Shows for each mount how many saves were made, abandoned (their writers were killed) \
             and have failed, how long a save takes, which sessions are being saved, and which \
             processes have what open. A session whose last save was not made is named with the \
             reason until its next good save, also when the error came too late for the program \
             to hear of it.",
            "Root is told of the mounts of everybody, others of their own and of those that let \
             them in; of the rest it is said that they cannot be asked. A daemon that does not \
             answer within five seconds hangs. With --watch it is shown again and again, until a \
             signal, or until nobody reads it any more.",
        ],
        "list" => &[
            "A session is a directory of the repository whose name ends in \".session\" and does \
             not start with a dot. The youngest is the one whose directory was changed last. A \
             repository that does not exist has no sessions.",
        ],
        "create" => &[
            "The id is the prefix, the time and, if there is such a session already, a number: no \
             two calls ever get the same one. What is no ASCII letter or digit in a prefix \
             becomes an underscore.",
        ],
        "load" => &["It reads one whole checkpoint, whatever is saved meanwhile."],
        "save" => &[
            "A command is run with the standard input and error of sessionfs, and its standard \
             output is read until it and all that it has started have closed it. If it cannot be \
             found the exit status is 127, if it cannot be run 126. A command that succeeds and \
             says nothing, or an empty input, does not replace a checkpoint that is not empty, but \
             with --allow-empty (exit status 5).",
            "The save is made as on a mount: beside the checkpoint at first, synced to the disk, \
             and renamed over it at the end. A session.next that another program left stands in \
             the way (exit status 4) until it is removed by sessionfs-break-lock(1); one that \
             sessionfs left in a crash is removed.",
        ],
        "remove" => &["No question is asked. The exit status is that of the first failure."],
        "break-lock" => &[
            "A program that saves holds session.next in the session's directory; one that dies \
             may leave it there. Look for the program before its lock is broken.",
        ],
        "doctor" => &[
            "Tries out on the repository's own filesystem what saves rest on, and looks for what \
             crashes and other programs have left: a session.next, a second name of a checkpoint, \
             a session that is no regular file, and the directory of a doctor that was killed. \
             Nothing of the repository is changed but with --fix.",
            "A lock, or such a directory, is proven to be dead by flock(2). Where there is none, \
             and of other programs' files, nothing is proven and nothing removed. Whether a mount \
             could let the kernel read files by itself is told by a mount only; what speaks \
             against it is told here.",
        ],
        "mount.sessionfs" => &[
            "The program sessionfs under the name by which mount(8) calls it for the type \
             \"sessionfs\"; for the type \"fuse.sessionfs\" it is called by mount.fuse3(8). It \
             returns when the mount can be used, and serves it in the background. The log goes to \
             syslog unless log_file is given.",
            "A line of fstab(5) names the repository, the mountpoint, one of the two types and \
             options; the last two numbers are 0. With the option \"user\" ordinary users may \
             mount it, if they can read and write the repository and own the mountpoint; with \
             \"nofail\" the boot does not wait for it; with \"_netdev\" it is mounted when the \
             network is there.",
            "The mount has the type \"fuse.sessionfs\", and the repository as its source. nodev \
             and nosuid always hold.",
        ],
        _ => &[],
    }
}

/// More of what an option of `mount` does.
pub(super) fn option(long: &str) -> Option<&'static str> {
    Some(match long {
        "ro" => "Each gets EROFS, and no permission to write the repository is needed",
        "allow-other" => {
            "Everybody gets what the modes, owners and ACLs allow him. Ordinary users need \
             user_allow_other in /etc/fuse.conf for it"
        }
        "allow-root" => {
            "Ordinary users need user_allow_other in /etc/fuse.conf for it. Not together with \
             allow-other"
        }
        "default-permissions" => "It does so always when others are let in",
        "auto-unmount" => {
            "Without it a daemon that was killed leaves a mountpoint that says \"Transport \
             endpoint is not connected\" until the next mount there, or an unmount"
        }
        "lock-wait" => {
            "At the most so many seconds, with fractions; then, and if it is 0, it gets EBUSY. So \
             does a second writer of one process at once, whoever comes while 512 of its user \
             wait already, and what the kernel holds the session's \
             directory for (rename(2), unlink(2), making a checkpoint anew)"
        }
        "missing" => {
            "\"empty\", as the programs that made the format read it, or \"absent\": then there is \
             no file until the first save, for programs that do not replace what is there or \
             take an empty file for a broken one"
        }
        "entry-timeout" | "attr-timeout" => {
            "What was changed in the repository itself is seen after so many seconds at the \
             latest; a checkpoint is always seen at the next open(2)"
        }
        "max-read" => "At least 4096",
        "no-passthrough" => {
            "Otherwise the kernel reads checkpoints, and reads and writes all other files, itself \
             where it can (since Linux 6.9, for root)"
        }
        "threads" => "1 to 64",
        "log-level" => {
            "And then debug, which tells of each save, and trace, which tells of each request of \
             the kernel. Each tells what those before it tell"
        }
        _ => return None,
    })
}

/// The environment that matters to a command.
pub(super) fn environment(about: &str) -> Vec<(&'static str, &'static str)> {
    let mut variables = Vec::new();
    if !matches!(about, "umount" | "status") {
        variables.extend([
            (
                "PLAINBOX_SESSION_REPOSITORY",
                "The repository, if none is given.",
            ),
            (
                "XDG_CACHE_HOME, HOME",
                "Without that variable it is ${XDG_CACHE_HOME:-$HOME/.cache}/plainbox/sessions. \
                 If it is no directory or cannot be written, a temporary directory is used \
                 instead, with a warning.",
            ),
        ]);
    }
    variables.push((
        "RUST_LOG",
        "What is logged: off, error, warn, info, debug or trace. By default warnings, and mounts \
         that come and go.",
    ));
    if about == "mount" {
        variables.push((
            "NOTIFY_SOCKET, WATCHDOG_USEC",
            "Set by a service manager that wants to be told, see sd_notify(3).",
        ));
    }
    variables
}

/// The files that matter to a command.
pub(super) fn files(about: &str) -> &'static [(&'static str, &'static str)] {
    const CHECKPOINT: (&str, &str) = (
        "REPOSITORY/NAME.session/session",
        "The checkpoint. A session may have none yet.",
    );
    const LOCK: (&str, &str) = (
        "REPOSITORY/NAME.session/session.next",
        "A save that is about to be published; while it is there, no other is made.",
    );
    const REPORT: (&str, &str) = (
        "MOUNTPOINT/.sessionfs-status",
        "What sessionfs-status(1) shows, as JSON. No listing shows the file; root and the user \
         who mounted may read it.",
    );
    const FUSE: (&str, &str) = (
        "/etc/fuse.conf",
        "Whether ordinary users may let others in (user_allow_other).",
    );
    match about {
        "sessionfs" => &[CHECKPOINT, LOCK, REPORT],
        "mount" => &[
            (
                "/etc/sessionfs/NAME.conf",
                "REPOSITORY=, MOUNTPOINT= and OPTIONS= of the service sessionfs@NAME of systemd.",
            ),
            (
                "~/.config/sessionfs/NAME.conf",
                "The same of a service of the user (systemctl --user).",
            ),
            REPORT,
            FUSE,
            ("/dev/fuse", "The device that the kernel serves FUSE with."),
        ],
        "mount.sessionfs" => &[
            (
                "/sbin/mount.sessionfs",
                "A link to sessionfs. mount(8) looks for it in /sbin and /usr/sbin only.",
            ),
            ("/etc/fstab", "What is mounted at boot, or by its name."),
            FUSE,
        ],
        "status" => &[REPORT],
        "save" | "break-lock" | "doctor" => &[CHECKPOINT, LOCK],
        "load" => &[CHECKPOINT],
        _ => &[],
    }
}

/// Examples beyond those of the help.
pub(super) fn examples(about: &str) -> Vec<&'static str> {
    let text = match about {
        "sessionfs" => {
            "\
sessionfs mount ~/sessions /mnt/sessions
mkdir /mnt/sessions/nightly.session
echo '{\"step\": 1}' > /mnt/sessions/nightly.session/session
sessionfs umount /mnt/sessions"
        }
        "mount" => {
            "\
sessionfs mount -f /srv/sessions /mnt/sessions
sessionfs mount /srv/sessions /mnt/sessions --log-file /var/log/sessionfs
systemctl start sessionfs@nightly"
        }
        "mount.sessionfs" => {
            "\
mount -t fuse.sessionfs /srv/sessions /mnt/sessions -o ro

# /etc/fstab
/srv/sessions /mnt/sessions fuse.sessionfs noauto,user,lock_wait=5 0 0
/srv/sessions /mnt/sessions fuse.sessionfs allow_other,nofail 0 0
/srv/sessions /mnt/sessions fuse.sessionfs noauto,x-systemd.automount 0 0"
        }
        _ => "",
    };
    text.lines().collect()
}

/// Pages that are related, in the order of their sections.
pub(super) fn see_also(about: &str) -> Vec<(&'static str, &'static str)> {
    let mut pages = vec![("sessionfs", "1")];
    pages.extend(match about {
        "sessionfs" => &[
            ("sessionfs-mount", "1"),
            ("sessionfs-status", "1"),
            ("sessionfs-save", "1"),
            ("sessionfs-semantics", "7"),
            ("mount.sessionfs", "8"),
        ][..],
        "semantics" => &[
            ("sessionfs-mount", "1"),
            ("sessionfs-save", "1"),
            ("sessionfs-status", "1"),
            ("flock", "2"),
            ("fsync", "2"),
            ("open", "2"),
        ],
        "mount" | "umount" | "status" => &[
            ("fusermount3", "1"),
            ("sessionfs-mount", "1"),
            ("sessionfs-status", "1"),
            ("sessionfs-umount", "1"),
            ("fuse", "4"),
            ("sessionfs-semantics", "7"),
            ("mount.sessionfs", "8"),
        ],
        "mount.sessionfs" => &[
            ("sessionfs-mount", "1"),
            ("sessionfs-umount", "1"),
            ("fstab", "5"),
            ("systemd.mount", "5"),
            ("mount", "8"),
            ("mount.fuse3", "8"),
        ],
        "create" | "list" | "remove" => &[
            ("sessionfs-create", "1"),
            ("sessionfs-list", "1"),
            ("sessionfs-remove", "1"),
        ],
        "doctor" => &[
            ("sessionfs-break-lock", "1"),
            ("sessionfs-list", "1"),
            ("sessionfs-mount", "1"),
        ],
        _ => &[
            ("sessionfs-break-lock", "1"),
            ("sessionfs-load", "1"),
            ("sessionfs-save", "1"),
        ],
    });
    pages
}
