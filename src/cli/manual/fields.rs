//! The fields that `--json` prints: names, units and states, by command.

/// The fields of the objects that a command prints.
pub(super) fn fields(about: &str) -> Vec<(&'static str, &'static str)> {
    const SCHEMA: (&str, &str) = (
        "schema",
        "The version of the format: 1. It is increased when a field changes its meaning or is \
         removed, and not when one is added.",
    );
    const ID: (&str, &str) = (
        "id, id_bytes",
        "The id of a session. If it is not UTF-8, \"id\" is an approximation, and \"id_bytes\" \
         has the exact bytes as an array; other ids have no \"id_bytes\".",
    );
    let own = match about {
        "list" => &[
            ID,
            (
                "size",
                "The size of the checkpoint in bytes; null if there is none.",
            ),
            (
                "saved",
                "When the checkpoint was saved, in seconds since 1970 (UTC); null if there is none.",
            ),
            (
                "state",
                "The word that --long shows: clean, empty, being saved, locked, dead lock, or no \
                 regular file.",
            ),
            (
                "pid",
                "If it is being saved: the process that saves it; null if that is not known.",
            ),
            (
                "since",
                "If it is locked, or the lock is dead: when the lock was made, in seconds since 1970.",
            ),
        ][..],
        "status" => &[
            (
                "mountpoint, source",
                "Where it is mounted, and the source that the mount shows.",
            ),
            (
                "also_mounted",
                "Other places where the repository is mounted, as far as they can be seen.",
            ),
            (
                "state",
                "serving; hanging (it does not answer); dead; or unknown, with the reason in \
                 \"reason\". Only a serving mount has the fields below; the file \
                 .sessionfs-status has the same.",
            ),
            (
                "version, pid",
                "The version and the process id of the daemon.",
            ),
            ("repository", "Its path."),
            ("since", "When it was mounted, in seconds since 1970 (UTC)."),
            (
                "saves",
                "How many saves were \"done\", were \"abandoned\" (a process that wrote was killed) \
                 and have \"failed\" since then.",
            ),
            (
                "save_microseconds",
                "How long saves take, in microseconds: the median (p50), the 90th and the 99th \
                 percentile (p90, p99) and the longest (max).",
            ),
            (
                "unsaved_writers",
                "How many writers have changes that are not saved yet.",
            ),
            (
                "saving",
                "The sessions that are being saved: \"session\" is the id, and \"pid\" the process, \
                 or null if that is not known.",
            ),
            (
                "errors",
                "The sessions whose last save failed or was abandoned: \"session\", \"at\" in \
                 seconds since 1970, \"errno\" as a number and \"reason\" in words.",
            ),
            (
                "all_processes",
                "Whether \"processes\" is complete. At most 4096 descriptors of each process are \
                 looked at, for two seconds in all.",
            ),
            (
                "unseen_writers",
                "Whether a program has written whose process the daemon cannot see, as it is in \
                 another pid namespace. If such a program is killed, what it has written is saved.",
            ),
            (
                "processes",
                "The processes that use the mount: \"pid\", \"command\" and \"files\", each with \
                 \"path\" and \"how\": reads, writes, or uses (as its directory or program).",
            ),
        ],
        "doctor" => &[
            ("repository", "Its path."),
            (
                "healthy",
                "Whether saves are safe there and nothing is left behind.",
            ),
            (
                "features",
                "What the filesystem can do: \"feature\"; \"answer\": yes, no, or unknown; \
                 \"reason\", if it is not yes; and \"cost\", what is lost without it.",
            ),
            (
                "found",
                "What is left behind: \"id\" and \"id_bytes\" of the session, if it is in one; \
                 \"path\" in the repository; \"kind\" (dead_lock, undecided_lock, foreign_lock, \
                 directory_as_lock, link, not_a_file, dead_probe, undecided_probe, or unreadable \
                 with the \"reason\"); \"dead\", whether that is proven; \"removed\"; and of locks \
                 \"since\" in seconds since 1970.",
            ),
        ],
        _ => return Vec::new(),
    };
    own.iter().copied().chain([SCHEMA]).collect()
}
