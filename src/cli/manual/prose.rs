//! What the manual pages say beyond the help: for each command, for the program, and
//! for the mount helper.

/// The ways to call the mount helper.
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
             repository directly go on working beside the mount: the format on disk is unchanged.",
            "Each session is a directory, NAME.session, and its file \"session\" is the \
             checkpoint. A reader keeps the version that it opened. A writer sees its own file, \
             and nobody else sees it until it is saved. When the last close(2) after a write \
             returns 0, the new checkpoint is in place and survives a power cut. When it returns \
             an error, or the writer was killed, the old checkpoint is whole. (The one exception: \
             if only the sync of the directory failed, which the log reports, the new one is in \
             place and may not survive a power cut.) fsync(2), and a rename(2) over \"session\", \
             are saves as well.",
            "One writer at a time: a second one gets EBUSY. A writer that did not truncate and \
             finds that another save came first gets ESTALE, and the newer checkpoint stands. \
             Programs that take turns with flock(2) on \"session\" lose nothing: it is a lock of \
             the session, and a program that gets it before it changes anything has the current \
             checkpoint open. sessionfs-semantics(7) has all rules and limits.",
        ],
        "mount" => &[
            "Mounts a repository. mount(8) and fstab(5) can do that as well: see \
             mount.sessionfs(8). The command returns when the mount can be used. If no repository \
             is given it mounts the default one; a missing mountpoint is made. SIGTERM, SIGINT \
             and SIGHUP finish the saves in progress and unmount, and so does \
             sessionfs-umount(1).",
            "The root of the mount shows sessions only, youngest first. mkdir(1) NAME.session \
             makes one, rm(1) -r removes one, mv(1) renames one; anything else is refused there. \
             Everything else in a session is an ordinary file or directory. Only the user who \
             mounted has access, unless others are allowed.",
            "A repository may be mounted more than once; a warning, and sessionfs-status(1), say \
             so. Writers of one mount do not wait for those of another. Of two saves the later \
             one stands, or gets ESTALE if it started from a checkpoint that the other has \
             replaced. The same holds between a mount and sessionfs-save(1).",
            "If a signal ends a mount that is in use, the mount is detached. Its writers get five \
             seconds, and saves in progress the time that they need; a second signal does not \
             wait for them. Files that are still open for writing then are not saved, and the \
             exit status is 6. A dead mount of sessionfs on the mountpoint is removed first.",
            "With --foreground the service manager is notified when the mount is ready, when it \
             ends and, if there is a watchdog, that it answers (sd_notify(3)). For units of \
             systemd see FILES.",
        ],
        "umount" => &[
            "Unmounts, and ends the daemon when the saves in progress are finished. If the mount \
             is in use it stays, and the message names the processes that use it.",
        ],
        "status" => &[
            "Shows for each mount how many saves succeeded, were abandoned (their writers were \
             killed) and failed, how long a save takes, which sessions are being saved, and which \
             processes have which files open. A session whose last save failed is listed with the \
             reason until its next successful save, even if the error came too late for the \
             program to see it.",
            "Root sees the reports of all mounts; other users those of their own mounts and of \
             mounts that they have access to. The other mounts are listed as such that cannot be \
             asked. A daemon that does not answer within five seconds is reported as hanging. \
             --watch repeats the output until a signal, or until its reader is gone.",
        ],
        "list" => &[
            "A session is a directory of the repository whose name ends in \".session\" and does \
             not start with a dot. The youngest is the one whose directory was changed last. A \
             repository that does not exist is an empty list.",
        ],
        "create" => &[
            "The id is the prefix, the time and, if there is such a session already, a number. Two \
             calls never get the same one. Characters of the prefix that are not ASCII letters or \
             digits become underscores.",
        ],
        "load" => &["It reads one whole checkpoint, whatever is saved meanwhile."],
        "save" => &[
            "A command runs with the standard input and error of sessionfs. Its standard output is \
             read until the command, and everything that it has started, have closed it. If it \
             cannot be found the exit status is 127; if it cannot be run, 126. Empty output or \
             input replaces a checkpoint that is not empty only with --allow-empty; otherwise the \
             exit status is 5.",
            "The save is made as on a mount: the new file is written beside the checkpoint, synced \
             to the disk, and renamed over it. A session.next that another program left blocks \
             the save (exit status 4) until sessionfs-break-lock(1) removes it; one that sessionfs \
             left in a crash is removed automatically.",
        ],
        "remove" => &["There is no confirmation. The exit status is that of the first failure."],
        "break-lock" => &[
            "A program that saves has a file session.next in the session's directory, and may \
             leave it there if it dies. Look for the program before you break its lock.",
        ],
        "doctor" => &[
            "Tests on the repository's own filesystem the features that saves need, and looks for \
             what crashes and other programs have left: a session.next, a second name of a \
             checkpoint, a \"session\" that is not a regular file, and the directory of a doctor \
             that was killed. Only --fix changes the repository.",
            "flock(2) proves that a lock, or such a directory, is dead. Without flock, and for \
             other programs' files, nothing is proven and nothing is removed. Whether the kernel \
             could read files by itself (passthrough) can only be seen on a mount; known obstacles \
             are listed.",
        ],
        "mount.sessionfs" => &[
            "This is the program sessionfs under the name by which mount(8) calls it for the type \
             \"sessionfs\". For the type \"fuse.sessionfs\" mount.fuse3(8) calls it. It returns \
             when the mount can be used, and serves it in the background. The log goes to syslog \
             unless log_file is given.",
            "A line of fstab(5) names the repository, the mountpoint, one of the two types and \
             options; the last two numbers are 0. With the option \"user\" ordinary users may \
             mount it, if they can read and write the repository and own the mountpoint. With \
             \"nofail\" the boot does not wait for it. With \"_netdev\" it is mounted when the \
             network is up.",
            "The mount has the type \"fuse.sessionfs\", and the repository as its source. nodev \
             and nosuid always hold.",
        ],
        _ => &[],
    }
}

/// More of what an option of `mount` does.
pub(super) fn option(long: &str) -> Option<&'static str> {
    Some(match long {
        "ro" => "Changes get EROFS, and no permission to write the repository is needed",
        "allow-other" => {
            "All users get the access that modes, owners and ACLs give them. Ordinary users need \
             user_allow_other in /etc/fuse.conf to set this"
        }
        "allow-root" => {
            "Ordinary users need user_allow_other in /etc/fuse.conf to set this. Not together \
             with allow-other"
        }
        "default-permissions" => "It always does when other users have access",
        "auto-unmount" => {
            "Without it a daemon that was killed leaves a mountpoint that says \"Transport \
             endpoint is not connected\" until the next mount there, or an unmount"
        }
        "lock-wait" => {
            "In seconds, with fractions. After that time, or at once if it is 0, the writer gets \
             EBUSY. These get EBUSY at once in any case: a second writer of the same process, a \
             writer whose user has 128 writers waiting already, and calls for which the kernel \
             locks the session's directory (rename(2), unlink(2), making a checkpoint anew)"
        }
        "missing" => {
            "\"empty\", as the original programs read it, or \"absent\": then there is no file until \
             the first save. This is for programs that refuse to replace an existing file, or \
             that take an empty file for a broken one"
        }
        "entry-timeout" | "attr-timeout" => {
            "In seconds. Changes made in the repository itself are seen after that time at the \
             latest; a new checkpoint is always seen at the next open(2)"
        }
        "max-read" => "At least 4096",
        "no-passthrough" => {
            "By default the kernel itself reads checkpoints, and reads and writes all other \
             files, where it can (since Linux 6.9, for mounts of root)"
        }
        "threads" => "1 to 64",
        "log-level" => {
            "The levels after info are debug, which reports each save, and trace, which reports \
             each request of the kernel. Each level includes those before it"
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
                 If it is not a directory or cannot be written, a temporary directory is used \
                 instead, with a warning.",
            ),
        ]);
    }
    variables.push((
        "RUST_LOG",
        "What is logged: off, error, warn, info, debug or trace. The default is warnings, and the \
         begin and end of each mount.",
    ));
    if about == "mount" {
        variables.push((
            "NOTIFY_SOCKET, WATCHDOG_USEC",
            "Set by a service manager that wants to be notified, see sd_notify(3).",
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
        "A save that is about to be published. While it exists, other saves are refused.",
    );
    const REPORT: (&str, &str) = (
        "MOUNTPOINT/.sessionfs-status",
        "What sessionfs-status(1) shows, as JSON. No listing shows the file; root and the user \
         who mounted may read it.",
    );
    const FUSE: (&str, &str) = (
        "/etc/fuse.conf",
        "Whether ordinary users may give others access (user_allow_other).",
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
                "The same for a service of the user (systemctl --user).",
            ),
            REPORT,
            FUSE,
            ("/dev/fuse", "The FUSE device of the kernel."),
        ],
        "mount.sessionfs" => &[
            (
                "/sbin/mount.sessionfs",
                "A link to sessionfs. mount(8) looks for it in /sbin and /usr/sbin only.",
            ),
            ("/etc/fstab", "What is mounted at boot, or by name."),
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
