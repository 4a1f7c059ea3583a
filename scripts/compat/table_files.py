"""Rows: shells, and the small tools that write one file."""

from .row import Row

TWICE = "{ cat draft; sleep 0.02; cat io-logs/one; }"


def of_shell(shell):
    """What both shells have to do in the same way."""
    rows = {
        "`>`": "cat draft > session",
        "`>`, then `>>`": ("cat draft > session", "cat io-logs/one >> session"),
        "`>>`": "cat draft >> session",
        "`<>`": "exec 3<> session; read -r line <&3; echo \"$line\"; cat draft >&3",
        "`>` of nothing": "> session",
        "`{ … } >`": f"{TWICE} > session",
        "`( … ) >>`": f"({TWICE[1:-1]}) >> session",
        "`exec 3>`": "exec 3> session; cat draft >&3; sleep 0.02; echo end >&3; exec 3>&-",
        "`set -C; >` is refused": "set -C; cat draft > session",
        "`set -C; >|`": "set -C; cat draft >| session",
        "a line at a time": "i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i + 1)); done > session",
        "here document": "cat > session <<END\nnew\nEND",
        "`>` through `/dev/stdout`": "{ cat draft > /dev/stdout; } > session",
        "`>` in the background": "cat draft > session & wait",
        "`>` through a symlink": "cat draft > current",
    }
    return [Row(shell, way, steps, shell=shell) for way, steps in rows.items()]


ROWS = [
    *of_shell("bash"),
    *of_shell("dash"),
    Row("bash", "`&>` of several processes", "{ cat draft & wait; ls -d nothing; } &> session"),
    Row("bash", "`> >(…)`", "cat draft > >(cat > session); wait $!"),
    Row("bash", "`umask 027`, the first checkpoint", "umask 027; cat draft > session",
        prepare="rm session"),
    Row("bash", "runs a checkpoint that is a script", "chmod u+x session; ./session",
        prepare=r"printf '#!/bin/sh\necho ran $0\n' > session"),

    Row("cp", "plain", "cp draft session"),
    Row("cp", "plain, from another filesystem", "cp $OUT/incoming session"),
    Row("cp", "plain, out", "cp session $OUT/"),
    Row("cp", "`--remove-destination`", "cp --remove-destination draft session"),
    Row("cp", "`-f`", "cp -f draft session"),
    Row("cp", "`-b`", "cp -b draft session"),
    Row("cp", "`-p`", "cp -p draft session"),
    Row("cp", "`-a`", "cp -a draft session"),
    Row("cp", "`-a` to another file", "cp -a session saved"),
    Row("cp", "`--reflink=auto`", "cp --reflink=auto draft session"),
    Row("cp", "`--reflink=auto` to another file", "cp --reflink=auto session saved"),
    Row("cp", "`--sparse=always`", "cp --sparse=always sparse session",
        prepare="truncate -s 1M sparse; cat draft >> sparse; truncate -s +1M sparse"),
    Row("cp", "`-l`", "cp -l session saved"),

    Row("mv", "from the session's directory", "mv draft session"),
    Row("mv", "from a directory of the session", "mv io-logs/draft session"),
    Row("mv", "from another session", "mv ../other.session/draft session"),
    Row("mv", "another session's checkpoint", "mv ../other.session/session session"),
    Row("mv", "from another filesystem", "mv $OUT/incoming session"),
    Row("mv", "`-b`", "mv -b draft session"),
    Row("mv", "`-n`", "mv -n draft session"),
    Row("mv", "`session` to another name", "mv session saved"),
    Row("mv", "`session` to another name and back", ("mv session saved", "mv saved session")),
    Row("mv", "`session` to another name, while it is read",
        "exec 3< session; mv session saved; sha256sum < saved; cat draft >> saved; wc -c < saved"),
    Row("mv", "`session` to another session", "mv session ../other.session/session"),
    Row("mv", "`session` to another filesystem", "mv session $OUT/"),
    Row("rm", "`session`", "rm session"),
    Row("rm", "`session`, then `>`", ("rm session", "cat draft > session")),

    Row("install", "`-m`", "install -m 600 draft session"),
    Row("install", "`-b`", "install -b draft session"),
    Row("install", "`-p`, from another filesystem", "install -p -m 644 $OUT/incoming session"),
    Row("install", "the first checkpoint", "install -m 644 draft session", prepare="rm session"),

    Row("ln", "hard link beside", "ln session saved"),
    Row("ln", "hard link, then rename", "ln session saved; cp draft next; mv next session"),
    Row("ln", "`-f` over `session`", "ln -f draft session"),
    Row("ln", "symlink beside", "ln -s session latest; cat draft > latest"),
    Row("ln", "hard link of another file", "ln draft saved; echo end >> saved"),

    Row("dd", "plain", "dd if=draft of=session bs=64K status=none"),
    Row("dd", "`conv=notrunc`", "dd if=io-logs/one of=session conv=notrunc bs=1K status=none"),
    Row("dd", "`conv=fsync`", "dd if=draft of=session bs=64K conv=fsync status=none"),
    Row("dd", "`seek`", "dd if=io-logs/one of=session bs=1K seek=3000 status=none"),
    Row("dd", "`oflag=append conv=notrunc`",
        "dd if=draft of=session oflag=append conv=notrunc bs=64K status=none"),
    Row("dd", "`oflag=sync`", "dd if=draft of=session bs=1M oflag=sync status=none",
        between=("head -c 1M draft", "head -c 2M draft")),
    Row("dd", "`oflag=direct`", "dd if=draft of=session bs=64K oflag=direct status=none"),
    Row("dd", "`iflag=direct`", "dd if=session of=saved bs=64K iflag=direct status=none"),
    Row("dd", "`oflag=direct` to another file",
        "dd if=draft of=saved bs=64K oflag=direct status=none"),
    Row("dd", "`conv=sparse`", "dd if=sparse of=session bs=64K conv=sparse status=none",
        prepare="truncate -s 1M sparse; cat draft >> sparse"),

    Row("tee", "plain", "tee session < draft > $OUT/copy"),
    Row("tee", "`-a`", "tee -a session < draft > $OUT/copy"),
    Row("tee", "two files", "cat draft | tee session saved > $OUT/copy"),
    Row("truncate", "to nothing", "truncate -s 0 session"),
    Row("truncate", "down", "truncate -s 1000 session"),
    Row("truncate", "up", "truncate -s +1M session"),
    Row("truncate", "the first checkpoint", "truncate -s 1M session", prepare="rm session"),
    Row("fallocate", "up", "fallocate -l 3M session"),
    Row("fallocate", "`--punch-hole`", "fallocate -p -o 64K -l 256K session"),
    Row("fallocate", "`--dig-holes` in another file", "fallocate -d sparse; du -k sparse",
        prepare="head -c 1M /dev/zero > sparse; cat draft >> sparse"),
    Row("flock", "held by another", "flock -n session flock -n session true; echo $?"),
    Row("sort", "`-o`", "sort -r -o session session"),
    Row("sponge", "in place", "sort -r session | sponge session"),
    Row("sponge", "`-a`", "sort -r draft | sponge -a session"),
    Row("gzip", "in place", "gzip session"),
    Row("gzip", "in place, and back", ("gzip session", "gunzip session.gz")),
    Row("gzip", "`-c >`", "gzip -c draft > session; gzip -dc < session | sha256sum"),

    Row("touch", "`-d`", "touch -d 2002-03-04T05:06:07.891234567 session; stat -c %y session"),
    Row("touch", "the first checkpoint", "touch session", prepare="rm session"),
    Row("chmod", "`session` and another file", "chmod 604 session; chmod 755 draft"),
    Row("chown", "`session` and another file", "chown 1:2 session draft"),
    Row("setfattr", "`session` and another file",
        "setfattr -n user.mark -v 1 session; setfattr -x user.origin session; "
        "setfattr -n user.mark -v 2 draft; getfattr -d session draft"),
    Row("setfacl", "kept by `>`", "setfacl -m u:daemon:rw session draft; cat draft > session; "
        "getfacl -n session draft"),
]
