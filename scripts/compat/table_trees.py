"""Rows: whole sessions in and out, and tools that look."""

from .row import Row

THIRD = "../third.session/session"
IN = "$OUT/saved.session"
# The time is that of the starting state, so that archives do not differ.
SAVED = f"cp -a . {IN}; cat {IN}/draft > {IN}/session; touch -d 2020-02-02 {IN}/session"

# With extended attributes, and without what differs between two packings:
# times, process ids, the order of entries.
PACK = (f"{SAVED}; tar --xattrs --pax-option=delete=atime,delete=ctime,"
        f"exthdr.name=%d/PaxHeaders/%f --sort=name -cf $OUT/saved.tar -C {IN} .")

# A file that was not written out has no blocks yet.
SYNC = "sync $(find . -type f)"

ROWS = [
    Row("cp", "`-r` of a session", "cp -r . ../third.session", watch=THIRD),
    Row("cp", "`-a` of a session", "cp -a . ../third.session", watch=THIRD),
    Row("cp", "`-a` of a session, over it", f"cp -a {IN}/. .", prepare=SAVED),
    Row("cp", "`-a` of a session, out", "cp -a . $OUT/copy"),
    Row("mv", "a session to another name", "mv ../other.session ../third.session", watch=THIRD),
    Row("mv", "a session, out", "mv ../other.session $OUT/", watch="../other.session/session"),
    Row("mv", "a session, in", f"mv {IN} ../third.session", prepare=SAVED, watch=THIRD),
    Row("rm", "`-r` of a session", "rm -r ../other.session", watch="../other.session/session"),

    Row("rsync", "plain", "rsync ../other.session/draft session"),
    Row("rsync", "`--inplace`", "rsync --inplace draft session"),
    Row("rsync", "`--append`", "rsync --append draft session",
        prepare="head -c 500000 draft > session"),
    Row("rsync", "`-a --delete` of a session", f"rsync -a --delete {IN}/ ./",
        prepare=f"{SAVED}; rm {IN}/io-logs/one; echo more > {IN}/more"),
    Row("rsync", "`-a --delete --inplace` of a session", f"rsync -a --delete --inplace {IN}/ ./",
        prepare=f"{SAVED}; rm {IN}/io-logs/one"),
    Row("rsync", "`-a --backup`", f"rsync -a --backup {IN}/ ./", prepare=SAVED),
    Row("rsync", "`-aHAX`, a new session", f"rsync -aHAX {IN}/ ../third.session/",
        prepare=SAVED, watch=THIRD),
    Row("rsync", "`-a --delete` of all sessions", "rsync -a --delete $OUT/all/ ../",
        prepare="mkdir $OUT/all; cp -a ../main.session $OUT/all/; "
        "cat draft > $OUT/all/main.session/session"),
    Row("rsync", "`-aHAX`, out", "rsync -aHAX ../main.session $OUT/"),

    Row("tar", "`c` of a session",
        "tar cf $OUT/saved.tar --sort=name . && sha256sum < $OUT/saved.tar"),
    Row("tar", "`x` of a session, over it", "tar xf $OUT/saved.tar",
        prepare=PACK),
    Row("tar", "`x --overwrite`", "tar xf $OUT/saved.tar --overwrite",
        prepare=PACK),
    Row("tar", "`x --xattrs` of a new session",
        "mkdir ../third.session && tar xf $OUT/saved.tar -C ../third.session --xattrs",
        prepare=PACK, watch=THIRD),
    Row("cpio", "`-o` of a session",
        "find . | sort | cpio -o -H newc --reproducible --quiet | sha256sum"),
    Row("cpio", "`-i` of a session, over it", "cpio -idmu --quiet < $OUT/saved.cpio",
        prepare=f"{SAVED}; cd {IN}; "
        "find . | sort | cpio -o -H newc --reproducible --quiet > $OUT/saved.cpio"),
    Row("cpio", "`-p` of a new session",
        "find . | cpio -pdm --quiet ../third.session", watch=THIRD),
    Row("zip", "a session, out", "zip -qrX $OUT/saved.zip . && sha256sum < $OUT/saved.zip"),
    # What zip has made is no result: two of its files may differ where what comes
    # out of them does not.
    Row("unzip", "`-o` of a session, over it", "unzip -qo $OUT/saved.zip && rm $OUT/saved.zip",
        prepare=f"{SAVED}; cd {IN}; zip -qryX $OUT/saved.zip ."),
    # Without -o it asks: `session` is shown where there is none.
    Row("unzip", "`-o` of a new session", "unzip -qo $OUT/saved.zip -d ../third.session && rm $OUT/saved.zip",
        prepare=f"{SAVED}; cd {IN}; zip -qryX $OUT/saved.zip .", watch=THIRD),

    Row("find", "`-printf`, `-newer`, `-size`, `-links`, `-samefile`",
        "find .. -mindepth 1 -printf '%y %m %u %s %n %l %T@ %P\\n' | sort; "
        "find . -newer draft -o -size +1M | sort; find . -links 2; find . -samefile saved",
        prepare="ln draft saved"),
    Row("du", "`-a`", "du -ak . | sort -k 2; du -ab . | sort -k 2", prepare=SYNC),
    Row("df", "size", "df -B1 --output=size . session; stat -f -c '%s %S %l %b' session"),
    Row("stat", "everything but inode numbers",
        "stat -c '%n %F %a %u %g %s %b %B %h %t %T %y' . * */*",
        prepare=SYNC),
    Row("ls", "`-laiR`, inode numbers by first sight",
        "ls -laiR | awk '$1 ~ /^[0-9]+$/ { if (!n[$1]) n[$1] = ++count; $1 = n[$1] } { print }'",
        prepare=f"ln draft saved; mkfifo fifo; mknod null c 1 3; {SYNC}"),
    Row("diff", "`-r`", "diff -r . ../other.session | sha256sum; diff -rq . ../other.session"),
    Row("grep", "`-r`", "grep -rc 0000 . | sort; grep -rl new . | sort"),
    Row("file", "all files", "file * io-logs/*"),
    Row("sha256sum", "all files", "sha256sum session draft io-logs/* 2>&1; sha256sum < session"),
]
