//! Modes, ACLs, times and types of files made beside the checkpoint (DESIGN 2.13) are
//! those of a directory of the backing filesystem.

use crate::common::Backing;
use crate::common::side_by_side::{SideBySide, TRY};

on_each_filesystem!(
    rule_2_13_the_umask_gives_way_to_a_default_acl,
    rule_2_13_times_links_and_xattrs_of_every_type,
    rules_2_7_and_2_13_privileges_go_with_a_change,
);

/// Python: the output of a shell command.
const SHELL: &str = "
import subprocess, stat, socket
def sh(command):
    done = subprocess.run(['sh', '-c', command], capture_output=True, text=True)
    return done.returncode, done.stdout
";

fn rule_2_13_the_umask_gives_way_to_a_default_acl(backing: Backing) {
    let program = "
for umask in (0o022, 0o077, 0):
    os.umask(umask)
    for kind in ('plain', 'acl', 'setgid'):
        d = f'{kind}{umask:o}'
        os.mkdir(d, 0o777)
        if kind == 'acl': t('acl', lambda: sh(f'setfacl -d -m u::rwx,u:1234:rw,g::rx,o::- {d}'))
        if kind == 'setgid': os.chown(d, 0, 777); os.chmod(d, 0o2777)
        os.mkdir(d + '/dir', 0o777)
        os.mkdir(d + '/private', 0o1750)
        os.close(os.open(d + '/file', os.O_CREAT | os.O_WRONLY, 0o666))
        os.close(os.open(d + '/exe', os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o777))
        os.mkfifo(d + '/fifo', 0o666)
        os.mknod(d + '/node', stat.S_IFREG | 0o664)
        os.mknod(d + '/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
        s = socket.socket(socket.AF_UNIX); s.bind(d + '/socket'); s.close()
        os.mkdir(d + '/dir/below')
        open(d + '/dir/file', 'w').close()
        print(sh(f'cd {d}; stat -c \"%n %A %u %g %t:%T\" *; getfacl -pn * dir/*'))
os.umask(0o22)
os.mkdir('x'); open('x/f', 'w').close()
print(sh('setfacl -m u:5:rwx x/f; chmod 640 x/f; getfacl -n x/f; stat -c %A x/f; setfacl -b x/f; '
         'setfacl -m m::r x/f; cp -a x/f x/g; getfacl -n x/g; setfacl -d -m g:7:rx x; getfacl -n x; '
         'setfacl -k x; getfacl -n x'))
";
    let both = SideBySide::new(backing);
    let said = both.same(&format!("{SHELL}{program}"));
    assert!(said.contains("user:1234:rw-"), "{said}");
}

fn rule_2_13_times_links_and_xattrs_of_every_type(backing: Backing) {
    let program = "
open('file', 'w').close(); os.mkdir('dir'); os.mkfifo('fifo'); os.symlink('nowhere', 'link')
here = dict(follow_symlinks=False)
def show(name): s = os.lstat(name); return oct(s.st_mode), s.st_uid, s.st_gid, s.st_atime_ns, s.st_mtime_ns
for name in ('file', 'dir', 'fifo', 'link'):
    for times in [(1234567890123456789, 987654321987654321), (5, 7), (-1234567890123456789, -1),
                  (-1000000000, -1999999999)]:
        t('times', lambda: (os.utime(name, ns=times, **here), show(name)))
    t('owner', lambda: (os.chown(name, 5, 6, **here), show(name)))
    if name != 'link': t('mode', lambda: (os.chmod(name, 0o6754), show(name)))
    for key in ('user.a', 'trusted.a', 'security.a', 'system.a'):
        t(f'set {name} {key}', lambda: os.setxattr(name, key, b'value', **here))
        t(f'get {name} {key}', lambda: os.getxattr(name, key, **here))
    t('list', lambda: os.listxattr(name, **here))
    t('create', lambda: os.setxattr(name, 'trusted.a', b'w', os.XATTR_CREATE, **here))
    t('replace', lambda: os.setxattr(name, 'trusted.b', b'w', os.XATTR_REPLACE, **here))
    t('large', lambda: os.setxattr(name, 'trusted.large', b'w' * 3000, **here))
    t('too large', lambda: os.setxattr(name, 'trusted.large', b'w' * 70000, **here))
    for again in range(2): t('remove', lambda: os.removexattr(name, 'trusted.a', **here))
";
    let both = SideBySide::new(backing);
    let said = both.same(&format!("{SHELL}{program}"));
    assert!(said.contains("-1234567890123456789, -1)"), "{said}");
}

/// A program without `CAP_FSETID`, whose every change removes setuid, setgid and file
/// capabilities; and one that has it.
fn rules_2_7_and_2_13_privileges_go_with_a_change(backing: Backing) {
    let program = "
import sys, mmap
if len(sys.argv) == 1:
    for name in ('file', 'session'):
        with_it = [sys.executable, '-c', PROGRAM, name]
        for command in (['setpriv', '--bounding-set=-fsetid'] + with_it, with_it):
            done = subprocess.run(command, capture_output=True, text=True)
            print(done.returncode, done.stdout, done.stderr)
    sys.exit()
name = sys.argv[1]
def fresh(mode):
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
    os.chown(name, 0, 0)
    with open(name, 'wb') as f: f.write(b'x' * 10000)
    os.setxattr(name, 'security.capability', bytes.fromhex('01000002' + '00040000' + '00' * 12))
    os.chmod(name, mode)
def capability():
    try: return len(os.getxattr(name, 'security.capability'))
    except OSError as e: return errno.errorcode[e.errno]
def through(flags, change):
    fd = os.open(name, os.O_WRONLY | flags)
    change(fd)
    os.close(fd)
page = mmap.mmap(-1, 4096)
source = os.open('source', os.O_RDWR | os.O_CREAT)
os.pwrite(source, b'q' * 100, 0)
changes = {
    'write': lambda: through(0, lambda fd: os.write(fd, b'y')),
    'append': lambda: through(os.O_APPEND, lambda fd: os.write(fd, b'y')),
    'direct': lambda: through(os.O_DIRECT, lambda fd: os.pwritev(fd, [page], 0)),
    'ftruncate': lambda: through(0, lambda fd: os.ftruncate(fd, 5)),
    'open to truncate': lambda: through(os.O_TRUNC, lambda fd: None),
    'truncate': lambda: os.truncate(name, 10),
    'allocate': lambda: through(0, lambda fd: c('fallocate', fd, 0, n(0), n(20000))),
    'punch': lambda: through(0, lambda fd: c('fallocate', fd, 3, n(0), n(4096))),
    'copy': lambda: through(0, lambda fd: os.copy_file_range(source, fd, 50, 0)),
    'owner': lambda: os.chown(name, 1, 1),
    'group': lambda: os.chown(name, -1, 3),
    'mode': lambda: os.chmod(name, 0o6777),
    'nothing': lambda: through(0, lambda fd: None),
}
for mode in (0o4755, 0o2755, 0o2644, 0o6711):
    for what, change in changes.items():
        fresh(mode)
        t(f'{mode:o} {what}', lambda: (change(), oct(os.stat(name).st_mode), capability()))
";
    let both = SideBySide::new(backing);
    let program = format!("{SHELL}{program}");
    // The program runs itself.
    let again = format!("{TRY}{program}");
    let said = both.same(&format!("PROGRAM = \"\"\"{again}\"\"\"\n{program}"));
    let line = |mode| format!("4755 open to truncate (None, '{mode}', 'ENODATA')");
    assert_eq!(said.matches(&line("0o100755")).count(), 2, "{said}");
    assert_eq!(said.matches(&line("0o104755")).count(), 2, "{said}");
}
