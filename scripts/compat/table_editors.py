"""Rows: editors, on a terminal and in batch mode, and tools that edit."""

from .row import Row


# Nobody's configuration; and backups even in a temporary directory, where vim
# and emacs make none by default.
VIM = "vim -Nu NONE -i NONE -n -es -c 'set backupskip='"
EMACS = "emacs -Q --batch --eval '(setq backup-enable-predicate (lambda (_) t))'"
REPLACE = "--eval '(progn (replace-string \"old\" \"new\") (save-buffer))'"

CHANGES = "diff -u session draft > changes; true"


def vim(backupcopy, command="", prepare="", file="session"):
    """Changes every line and saves."""
    return Row(
        "vim", f"`backupcopy={backupcopy}`{command}",
        f"{VIM} -c 'set backupcopy={backupcopy}' -c '%s/^old/new/' -c wq {file}",
        prepare=prepare,
    )


ROWS = [
    Row("sed", "`-i`", "sed -i s/old/new/ session"),
    Row("sed", "`-i.bak`", "sed -i.bak s/old/new/ session"),
    Row("sed", "`-i --follow-symlinks`", "sed -i --follow-symlinks s/old/new/ current"),
    Row("sed", "`w`", "sed -n 'w session' draft"),
    Row("perl", "`-i`", "perl -i -pe s/old/new/ session"),
    Row("perl", "`-i.bak`", "perl -i.bak -pe s/old/new/ session"),
    Row("awk", "temporary file and `mv`",
        "awk '{ print $2, $1 }' session > next && mv next session"),
    Row("awk", "`print >`", "awk '{ print $2 > \"session\" }' draft"),
    Row("gawk", "`-i inplace`", "gawk -i inplace '{ print $2 }' session"),
    Row("ed", "`w`", r"printf ',s/old/new/\nw\nq\n' | ed -s session"),
    Row("ed", "`W`", r"printf '1,10W session\nq\n' | ed -s draft"),
    Row("ex", "`wq`", "ex -sc '%s/old/new/|wq' session"),
    vim("yes"),
    vim("no"),
    vim("auto"),
    vim("auto,breaksymlink", file="current"),
    vim("auto,breakhardlink", prepare="ln session saved"),
    Row("vim", "`set backup`",
        f"{VIM} -c 'set backup' -c '%s/^old/new/' -c wq session"),
    Row("vim", "on a terminal, with a swap file", "vim -Nu NONE -i NONE session",
        keys=((b"old 00000000", b":%s/^old/new/\r"), (b"32768", b":wq\r"))),
    Row("nano", "on a terminal", "nano --ignorercfiles session",
        keys=((b"^X", b"added \x0f"), (b"File Name to Write", b"\r"), (b"Wrote", b"\x18"))),
    Row("nano", "`--backup`", "nano --ignorercfiles --backup session",
        keys=((b"^X", b"added \x0f"), (b"File Name to Write", b"\r"), (b"Wrote", b"\x18"))),
    Row("emacs", "a backup by renaming",
        f"{EMACS} session {REPLACE}"),
    Row("emacs", "`backup-by-copying`",
        f"{EMACS} --eval '(setq backup-by-copying t)' session {REPLACE}"),
    Row("emacs", "`write-region`",
        "emacs -Q --batch draft --eval '(write-region nil nil \"session\")'"),
    Row("patch", "plain", "patch -s session changes", prepare=CHANGES),
    Row("patch", "`-b`", "patch -s -b session changes", prepare=CHANGES),
    Row("less", "on a terminal", "less -X session", keys=((b"old 00000000", b"G"), (b"END", b"q"))),
    Row("less", "to a pipe", "cat draft | less -O session | sha256sum"),
]
