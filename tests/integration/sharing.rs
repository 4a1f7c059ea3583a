//! Files beside the checkpoint that several programs use at once, and open files whose
//! names come and go (DESIGN 2.13).

use std::fs;
use std::io::Write;

use crate::common::observe::Strace;
use crate::common::side_by_side::SideBySide;
use crate::common::tools::errno;
use crate::common::{Backing, Mount};

on_each_filesystem!(
    rule_2_13_programs_share_files,
    rule_2_13_an_open_file_outlives_its_name,
);

/// Python: runs functions in processes of their own.
const CHILDREN: &str = "
import sys, mmap, fcntl, socket
def child(f, *arguments):
    sys.stdout.flush()
    pid = os.fork()
    if pid: return pid
    try: f(*arguments)
    except BaseException as e: print('child:', repr(e))
    finally: sys.stdout.flush(); os._exit(0)
def wait(*pids): return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
";

fn rule_2_13_programs_share_files(backing: Backing) {
    let program = "
def append(k):
    fd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for i in range(1000): os.write(fd, b'%d %d\\n' % (k, i))
t('append', lambda: wait(*[child(append, k) for k in range(4)]))
lines = open('log').read().split('\\n')
print('lines', len(lines), len(set(lines)))

with open('memory', 'wb') as f: f.truncate(8192)
def relay(k):
    fd = os.open('memory', os.O_RDWR)
    memory = mmap.mmap(fd, 8192)
    while memory[0] != k: os.sched_yield()
    memory[100 + k] = 65 + k
    memory.flush()
    memory[0] = k + 1
t('shared memory', lambda: wait(*[child(relay, k) for k in range(3)]))
t('in the file', lambda: open('memory', 'rb').read()[100:103])

os.mkfifo('fifo')
def write():
    with open('fifo', 'wb') as f: f.write(b'x' * 200000)
writer = child(write)
t('fifo', lambda: (len(open('fifo', 'rb').read()), wait(writer)))

server = socket.socket(socket.AF_UNIX); server.bind('socket'); server.listen()
def ask():
    client = socket.socket(socket.AF_UNIX)
    client.connect('socket'); client.sendall(b'hi')
    print('answer', client.recv(10))
asking = child(ask)
peer, _ = server.accept()
t('asked', lambda: (peer.recv(10), peer.sendall(b'ho'), wait(asking)))
server.close()
t('nobody there', lambda: socket.socket(socket.AF_UNIX).connect('socket'))

first, second = open('lock', 'w+'), os.open('lock', os.O_RDWR)
NOW = fcntl.LOCK_EX | fcntl.LOCK_NB
t('flock', lambda: fcntl.flock(first, NOW))
t('another open file', lambda: fcntl.flock(second, NOW))
t('fcntl', lambda: fcntl.lockf(first, NOW, 10, 0))
def contend():
    fd = os.open('lock', os.O_RDWR)
    t('flock of another', lambda: fcntl.flock(fd, NOW))
    t('fcntl of another', lambda: fcntl.lockf(fd, NOW, 10, 0))
    t('another range', lambda: fcntl.lockf(fd, NOW, 10, 20))
t('contend', lambda: wait(child(contend)))
t('unlock', lambda: (fcntl.flock(first, fcntl.LOCK_UN), fcntl.flock(second, NOW)))
first.close()
t('contend', lambda: wait(child(contend)))
";
    let both = SideBySide::new(backing);
    let said = both.same(&format!("{CHILDREN}{program}"));
    assert!(said.contains("lines 4001 4001"), "{said}");
    assert_eq!(
        both.session
            .in_repository
            .join("memory")
            .metadata()
            .unwrap()
            .len(),
        8192
    );
    assert_eq!(both.same_file("memory")[100..103], *b"ABC");
}

fn rule_2_13_an_open_file_outlives_its_name(backing: Backing) {
    let program = "
def use(fd):
    t('write', lambda: os.pwrite(fd, b'more', 5))
    t('read', lambda: os.pread(fd, 100, 0))
    t('truncate', lambda: os.ftruncate(fd, 3))
    t('sync', lambda: (os.fsync(fd), os.fdatasync(fd)))
    t('mode', lambda: (os.fchmod(fd, 0o640), oct(os.fstat(fd).st_mode)))
    t('owner', lambda: (os.fchown(fd, 3, 4), os.fstat(fd).st_uid))
    t('times', lambda: (os.utime(fd, ns=(5, 7)), os.fstat(fd).st_mtime_ns))
    t('attribute', lambda: (os.setxattr(fd, 'user.a', b'b'), os.getxattr(fd, 'user.a'), os.listxattr(fd)))
    t('grow', lambda: os.ftruncate(fd, 8192))
    memory = mmap.mmap(fd, 8192)
    memory[5000:5003] = b'map'
    t('map', lambda: (memory.flush(), os.pread(fd, 3, 5000)))
    t('stat', lambda: (os.fstat(fd).st_nlink, os.fstat(fd).st_size))
    t('again', lambda: os.pread(os.open(f'/proc/self/fd/{fd}', os.O_RDONLY), 3, 0))
os.mkdir('dir'); os.mkdir('dir/below')
for name in ('gone', 'moved', 'replaced', 'dir/below/file'):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, b'hello')
    if name == 'gone': os.unlink(name)
    if name == 'moved': os.rename(name, 'dir/new')
    if name == 'replaced': open('other', 'w').close(); os.rename('other', name)
    if name == 'dir/below/file': os.rename('dir', 'elsewhere')
    use(fd)
    os.close(fd)
print(open('elsewhere/new').read(3), os.path.getsize('replaced'), sorted(os.listdir('elsewhere')))
";
    let both = SideBySide::new(backing);
    let said = both.same(&format!("{CHILDREN}{program}"));
    assert!(said.contains("stat (0, 8192)"), "{said}");
}

/// The fsync of a directory reaches the disk, and so does that of a file.
#[test]
fn rule_2_13_fsync_reaches_the_backing_filesystem() {
    let mut mount = Mount::new(Backing::Here);
    mount.may_complain = true;
    let directory = mount.session("s").on_mount.join("dir");
    fs::create_dir(&directory).unwrap();
    let opened = fs::File::open(&directory).unwrap();
    let mut file = fs::File::create(directory.join("file")).unwrap();
    file.write_all(b"content").unwrap();
    let sync = || [opened.sync_all(), file.sync_all(), file.sync_data()];
    for synced in sync() {
        synced.unwrap();
    }
    let strace = Strace::attach_to_all(mount.pid(), ["-e", "inject=fsync,fdatasync:error=EDQUOT"]);
    for failed in sync() {
        assert_eq!(errno(failed), libc::EDQUOT);
    }
    drop(strace);
}

/// fuser 0.18 has no FUSE_TMPFILE: programs then use a named file, as on filesystems
/// without O_TMPFILE.
#[test]
fn rule_2_13_there_are_no_unnamed_files() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("s");
    let program = "
import tempfile
t('unnamed', lambda: os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600))
with tempfile.TemporaryFile(dir='.') as f: print('python', f.write(b'x'))
t('left', lambda: os.listdir('.'))
";
    let program = format!("{}{program}", crate::common::side_by_side::TRY);
    let said = crate::common::tools::python(&session.on_mount, &program);
    assert_eq!(said, "unnamed ENOTSUP\npython 1\nleft ['session']");
}
