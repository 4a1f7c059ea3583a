//! What `--json` gives: names, units and states, by command.

/// The fields that all objects have, and those of one command's.
pub(super) fn fields(about: &str) -> Vec<(&'static str, &'static str)> {
    const SCHEMA: (&str, &str) = (
        "schema",
        "1. It is counted up when a field means something else, or is gone; a new one changes \
         nothing.",
    );
    const ID: (&str, &str) = (
        "id, id_bytes",
        "The id of a session. One that is not UTF-8 is near in the first, and exact in the \
         second, an array of its bytes, which there is for such an id only.",
    );
    let own = match about {
        "list" => &[
            ID,
            (
                "size",
                "That of the checkpoint, in bytes; null if there is none.",
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
                "If it is being saved: by which process; null if nobody can tell.",
            ),
            (
                "since",
                "If it is locked, or the lock is dead: since when, in seconds since 1970.",
            ),
        ][..],
        "status" => &[
            (
                "mountpoint, source",
                "Where it is mounted, and what it shows as its source.",
            ),
            (
                "also_mounted",
                "Where else the repository is mounted, as far as that can be seen.",
            ),
            (
                "state",
                "serving; hanging (it does not answer); dead; or unknown, with the reason in \
                 \"reason\". Only what serves has the fields that follow; they are also what the \
                 file .sessionfs-status has.",
            ),
            ("version, pid", "Those of the daemon."),
            ("repository", "Its path."),
            ("since", "When it was mounted, in seconds since 1970 (UTC)."),
            (
                "saves",
                "How many were \"done\", \"abandoned\" (a process that wrote was killed) and have \
                 \"failed\" since then.",
            ),
            (
                "save_microseconds",
                "How long saves take, in microseconds: half of them (p50), nine of ten (p90), 99 of \
                 100 (p99) and all (max) no longer than this.",
            ),
            (
                "unsaved_writers",
                "How many writers have changed something that is not saved yet.",
            ),
            (
                "saving",
                "The sessions that are being saved: \"session\", the id, and \"pid\", the process, \
                 null if nobody can tell.",
            ),
            (
                "errors",
                "The sessions whose last save was not made: \"session\", \"at\" in seconds since \
                 1970, \"errno\" as a number and \"reason\" in words.",
            ),
            (
                "all_processes",
                "Whether all that may be looked at was: no more than 4096 descriptors of a process \
                 are, and for two seconds.",
            ),
            (
                "processes",
                "Who uses the mount: \"pid\", \"command\" and \"files\", each with \"path\" and \
                 \"how\": reads, writes, or uses (as its directory or program).",
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
                 \"reason\", why it is not yes; and the \"cost\" where it is missing.",
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
