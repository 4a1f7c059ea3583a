"""Rows: databases, build tools, languages."""

from .row import Row

FILL = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "INSERT INTO t SELECT i, hex(zeroblob(30)) FROM n")
SQL = (FILL, "UPDATE t SET b = a || b WHERE a % 3 = 0", "DELETE FROM t WHERE a > 9000")

SQLITE = "rm -f {file}; sqlite3 {file} 'PRAGMA journal_mode={mode}; CREATE TABLE t(a, b)'"


def sqlite(file, mode):
    """Three transactions; after each one the database is a whole one."""
    return Row(
        "sqlite3", f"{mode}, on `{file}`",
        tuple(f"sqlite3 {file} '{statement}'" for statement in SQL)
        + (f"sqlite3 {file} 'PRAGMA integrity_check; SELECT count(*), sum(a) FROM t'",),
        prepare=SQLITE.format(file=file, mode=mode),
    )


def python(way, program, **more):
    return Row("python3", way, f"python3 - <<'END'\nimport os\n{program}\nEND", **more)


LOCKS = """import fcntl
f = open("{file}", "r+"); g = open("{file}", "r+")
fcntl.flock(f, fcntl.LOCK_EX)
try: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as e: print(e)
f.write("new"); f.close()"""

GIT = "git init -q -b main . && git add -A && git commit -q -m first"
INDEX = {".git/index": "inode numbers and times of files"}

ROWS = [
    sqlite("state.db", "delete"),
    sqlite("state.db", "truncate"),
    sqlite("state.db", "wal"),
    sqlite("session", "delete"),
    sqlite("session", "wal"),
    Row("sqlite3", "delete, on `session`, one connection",
        "sqlite3 session '" + "; ".join(SQL) + "'",
        prepare=SQLITE.format(file="session", mode="delete"),
        between=tuple(f"sqlite3 session '{'; '.join(SQL[:count])}'; cat session"
                      for count in (1, 2))),

    Row("sqlite3", "`.backup` to `session`", "sqlite3 state.db '.backup session'",
        prepare=f"{SQLITE.format(file='state.db', mode='delete')}; sqlite3 state.db '{SQL[0]}'; "
        "rm session"),
    Row("git", "`init`, `commit`", f"{GIT} && git status --short && git fsck && git log --stat",
        varies=INDEX),
    Row("git", "`config --file`", "git config --file session part.key new; cat session",
        prepare=r"printf '[part]\n\tkey = old\n' > session"),
    Row("git", "`checkout` of `session`", "git checkout -q -- session && git status --short",
        prepare=f"{GIT}; cat draft > session", varies=INDEX),
    Row("git", "`stash`, `stash pop`",
        ("git stash -q", "git stash pop -q && git status --short"),
        prepare=f"{GIT}; cat draft > session", varies=INDEX),
    Row("make", "`session: draft`", "touch draft; make -s session; make -q session",
        prepare=r"printf 'session: draft\n\tcp draft session\n' > Makefile"),
    Row("make", "`.DELETE_ON_ERROR`", "touch draft; make -s session",
        prepare=r"printf '.DELETE_ON_ERROR:\nsession: draft\n\tcp draft session; false\n' "
        "> Makefile", between=("cat draft",)),

    python("`json.dump`", "import json\n"
           "with open('session', 'w') as f: json.dump(list(range(400000)), f)"),
    python("`pickle.dump`", "import pickle\n"
           "with open('session', 'wb') as f: pickle.dump(list(range(800000)), f)"),
    python("`shelve`, beside", "import shelve\n"
           "with shelve.open('state') as s: s.update((str(i), i) for i in range(300))\n"
           "with shelve.open('state') as s: print(s['7'], len(s))",
           varies={"state.db": "bytes of memory that nobody had cleared"}),
    python("`tempfile`, `os.replace`", "import tempfile\n"
           "with tempfile.NamedTemporaryFile(dir='.', delete=False) as f:\n"
           "    f.write(open('draft', 'rb').read()); f.flush(); os.fsync(f.fileno())\n"
           "os.replace(f.name, 'session')"),
    python("`os.replace` of a file that stays open", "import subprocess\n"
           "with open('next', 'wb') as f:\n"
           "    f.write(open('draft', 'rb').read()); f.flush(); os.fsync(f.fileno())\n"
           "    os.replace('next', 'session')\n"
           "    subprocess.run(['cmp', 'draft', 'session'])"),
    python("`pathlib`", "import pathlib\n"
           "pathlib.Path('session').write_bytes(pathlib.Path('draft').read_bytes())"),
    python("`fileinput`, in place", "import fileinput\n"
           "with fileinput.input('session', inplace=True) as f:\n"
           "    for line in f: print(line.replace('old', 'new'), end='')"),
    python("`shutil.copyfile` (`sendfile`)", "import shutil\nshutil.copyfile('draft', 'session')"),
    python("`shutil.move`", "import shutil\nshutil.move('draft', 'session')"),
    python("`os.copy_file_range`, in and out",
           "def copy(a, b):\n"
           "    with open(a, 'rb') as i, open(b, 'wb') as o:\n"
           "        while os.copy_file_range(i.fileno(), o.fileno(), 1 << 20): pass\n"
           "copy('draft', 'session')\ncopy('session', 'saved')"),
    python("`os.splice`", "r, w = os.pipe()\n"
           "with open('draft', 'rb') as i, open('session', 'wb') as o:\n"
           "    while n := os.splice(i.fileno(), w, 65536): os.splice(r, o.fileno(), n)"),
    python("shared `mmap`", "import mmap\n"
           "with open('session', 'r+b') as f:\n"
           "    with mmap.mmap(f.fileno(), 0) as m: m[:] = m[:].replace(b'old', b'new')"),
    python("`O_RDWR`, `pwrite` backwards, read back",
           "d = open('draft', 'rb').read()\n"
           "f = os.open('session', os.O_RDWR | os.O_TRUNC)\n"
           "for at in reversed(range(0, len(d), 1 << 16)): os.pwrite(f, d[at:at + (1 << 16)], at)\n"
           "print(os.pread(f, len(d), 0) == d, os.fstat(f).st_size); os.close(f)"),
    python("`ftruncate` down and up", "f = os.open('session', os.O_RDWR)\n"
           "os.ftruncate(f, 5000); os.ftruncate(f, 1 << 20); os.pwrite(f, b'x', 9000)\n"
           "os.close(f)"),
    python("three save points by `fsync`",
           "d = open('draft', 'rb').read()\nf = os.open('session', os.O_WRONLY | os.O_TRUNC)\n"
           "for at in range(0, len(d), 1 << 20):\n"
           "    os.write(f, d[at:at + (1 << 20)]); os.fsync(f)\n"
           "os.close(f)",
           between=("head -c 1M draft", "head -c 2M draft")),
    python("reopened through `/proc/self/fd`",
           "f = os.open('session', os.O_RDWR | os.O_TRUNC); os.write(f, b'one\\n')\n"
           "g = os.open(f'/proc/self/fd/{f}', os.O_WRONLY | os.O_APPEND); os.write(g, b'two\\n')\n"
           "print(os.pread(f, 99, 0)); os.close(f); os.close(g)"),
    python("`posix_fallocate`", "f = os.open('session', os.O_WRONLY)\n"
           "os.posix_fallocate(f, 0, 3 << 20); os.close(f)"),
    python("`flock` of another file", LOCKS.format(file="draft")),
    Row("python3", "`O_TMPFILE`, else a temporary name",
        "python3 $PROGRAMS/tmpfile.py draft session"),
    Row("python3", "`RENAME_EXCHANGE`", "python3 $PROGRAMS/exchange.py draft session"),
    Row("python3", "the original's algorithm", "python3 $PROGRAMS/original.py save < draft"),
    Row("python3", "the original's algorithm, locked",
        "python3 $PROGRAMS/original.py save < draft; echo $?; "
        "python3 $PROGRAMS/original.py break-lock; python3 $PROGRAMS/original.py save < draft",
        prepare="echo half > session.next"),
    Row("node", "`writeFile`", "node -e \"const fs = require('fs'); fs.writeFile('session', "
        "fs.readFileSync('draft'), e => { if (e) throw e; })\""),
    Row("node", "`copyFile`", "node -e \"const fs = require('fs'); "
        "fs.copyFile('draft', 'session', e => { if (e) throw e; })\""),
    Row("node", "`appendFile`", "node -e \"const fs = require('fs'); "
        "fs.appendFile('session', fs.readFileSync('draft'), e => { if (e) throw e; })\""),
    Row("node", "`createWriteStream`", "node -e \"const fs = require('fs'); "
        "fs.createReadStream('draft').pipe(fs.createWriteStream('session'))\""),
    Row("node", "`writeFile`, `rename`", "node -e \"const fs = require('fs'); "
        "fs.writeFileSync('next', fs.readFileSync('draft')); fs.renameSync('next', 'session')\""),
    Row("gcc", "a C program, stdio, line buffered", "$PROGRAMS/lines session 20000"),
    Row("gcc", "`-o`",
        "gcc -o session -x c - <<< 'int main(void) { return 7; }'; ./session; echo $?"),
]
