//! Files beside the checkpoint are read and written by the kernel itself where it can
//! (DESIGN 3 and 4), and behave the same whether it does or not (DESIGN 2.13).

use std::fs;
use std::io::{Read, Seek, Write};

use crate::common::observe::Strace;
use crate::common::side_by_side::SideBySide;
use crate::common::tools::{errno, open_rw};
use crate::common::{Backing, Mount};

on_each_filesystem!(
    rule_2_13_one_file_open_in_many_ways,
    rule_2_11_a_file_renamed_onto_the_checkpoint_stays_open,
);

/// With passthrough and without.
const WAYS: [&[&str]; 2] = [&[], &["--no-passthrough"]];

fn rule_2_13_one_file_open_in_many_ways(backing: Backing) {
    let program = "
import mmap, subprocess
def sh(command):
    done = subprocess.run(['sh', '-c', command], capture_output=True, text=True)
    return done.returncode, done.stdout
def get(name):
    with open(name, 'rb') as f: return f.read()
open('source', 'wb').write(b'a' * (1 << 20))
w = os.open('file', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
r = os.open('file', os.O_RDONLY)
a = os.open('file', os.O_WRONLY | os.O_APPEND)
d = os.open('file', os.O_RDWR | os.O_DIRECT)
t('write', lambda: os.write(w, b'one '))
t('append', lambda: os.write(a, b'two '))
t('read', lambda: os.pread(r, 100, 0))
t('sizes', lambda: [os.fstat(fd).st_size for fd in (w, r, a, d)] + [os.stat('file').st_size])
t('extend', lambda: os.ftruncate(w, 1 << 20))
memory = mmap.mmap(w, 1 << 20)
memory[8192:8197] = b'three'
t('mapped', lambda: os.pread(r, 5, 8192))
page = mmap.mmap(-1, 4096)
page.write(b'd' * 4096)
t('direct write', lambda: os.pwritev(d, [page], 4096))
t('direct read', lambda: (os.preadv(d, [page], 8192), page[:5]))
t('in the map', lambda: memory[4096:4100])
t('append', lambda: (os.write(a, b'four'), os.lseek(w, 0, os.SEEK_END)))
t('append at', lambda: os.pwritev(w, [b'five'], 0, os.RWF_APPEND))
t('sync at', lambda: os.pwritev(w, [b'six'], 0, os.RWF_DSYNC))
t('punch', lambda: c('fallocate', w, 3, n(4096), n(4096)))
t('punched', lambda: (os.pread(r, 4, 4096), memory[4096:4100]))
t('copy within', lambda: os.copy_file_range(w, w, 5, 8192, 100))
t('truncate by name', lambda: os.truncate('file', 5000))
t('shorter', lambda: (os.fstat(r).st_size, os.pread(r, 5, 4998), os.lseek(a, 0, os.SEEK_END)))
t('truncate by open', lambda: os.close(os.open('file', os.O_WRONLY | os.O_TRUNC)))
t('empty', lambda: (os.fstat(w).st_size, get('file')))
t('fsync', lambda: [os.fsync(fd) for fd in (w, r, a, d)])
t('fdatasync', lambda: os.fdatasync(a))
t('advice', lambda: [os.posix_fadvise(w, 0, 0, advice) for advice in range(6)])
s = os.open('source', os.O_RDONLY)
t('sendfile', lambda: os.sendfile(w, s, 0, 100000))
p, q = os.pipe()
os.write(q, b'p' * 5000)
t('splice in', lambda: os.splice(p, w, 5000, offset_dst=2000))
t('splice out', lambda: os.splice(r, q, 3000, offset_src=1000))
t('spliced', lambda: os.read(p, 3000) == b'a' * 1000 + b'p' * 2000)
t('sendfile out', lambda: (os.sendfile(q, r, 6000, 4000), len(os.read(p, 4000))))
t('no atime', lambda: os.pread(os.open('file', os.O_RDONLY | os.O_NOATIME), 2, 0))
t('path only', lambda: os.fstat(os.open('file', os.O_PATH)).st_size)
t('unlink', lambda: os.unlink('file'))
t('links', lambda: [os.fstat(fd).st_nlink for fd in (w, r, a, d)])
t('write', lambda: (os.pwrite(w, b'still', 0), os.pread(r, 5, 0)))
t('append', lambda: (os.write(a, b'there'), os.fstat(a).st_size))
t('truncate', lambda: (os.ftruncate(w, 3), memory[:3], os.fstat(r).st_size))
t('fsync', lambda: os.fsync(w))
t('mode', lambda: (os.fchmod(w, 0o600), oct(os.fstat(r).st_mode)))
for flags in ('direct', 'sync', 'append,dsync conv=notrunc', 'direct seek=3 conv=notrunc'):
    t(flags, lambda: sh(f'dd if=source of=dd bs=262144 oflag={flags} status=none; md5sum dd'))
t('read', lambda: sh('dd if=dd bs=65536 iflag=direct status=none | md5sum'))
for fd in (w, r, a, d): os.close(fd)
";
    for options in WAYS {
        let both = SideBySide::with(backing, options);
        let said = both.same(program);
        assert!(said.contains("read b'one two '"), "{said}");
        assert_eq!(both.same_file("dd").len(), 2 << 20);
    }
}

/// What is written later goes into the new checkpoint, as in any directory, and can be
/// read meanwhile.
fn rule_2_11_a_file_renamed_onto_the_checkpoint_stays_open(backing: Backing) {
    let program = "
def get(name):
    with open(name, 'rb') as f: return f.read()
open('session', 'wb').write(b'old')
fd = os.open('new', os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b'one ')
os.rename('new', 'session')
t('read', lambda: get('session'))
t('write', lambda: os.write(fd, b'two '))
r = os.open('session', os.O_RDONLY)
t('write', lambda: os.write(fd, b'three'))
t('read', lambda: (os.pread(r, 100, 0), get('session')))
t('fsync', lambda: os.fsync(fd))
t('close', lambda: os.close(fd))
t('read', lambda: (get('session'), os.fstat(r).st_size))
os.rename('session', 'moved')
t('write', lambda: open('moved', 'r+b').write(b'ONE'))
t('read', lambda: (os.pread(r, 3, 0), get('moved')))
";
    for options in WAYS {
        let both = SideBySide::with(backing, options);
        both.same(program);
        assert_eq!(both.same_file("moved"), b"ONE two three");
    }
}

#[test]
fn i1_a_checkpoint_is_not_written_under_another_name() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("s");
    let other = session.on_mount.join("other");
    fs::write(session.file(), "old").unwrap();
    fs::hard_link(session.checkpoint(), session.in_repository.join("other")).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"old");
    for _ in 0..2 {
        assert_eq!(errno(open_rw(&other)), libc::EBUSY);
        assert_eq!(errno(fs::File::create(&other)), libc::EBUSY);
    }
    assert_eq!(fs::read(session.checkpoint()).unwrap(), b"old");
    // It is a backup, once there is another checkpoint.
    fs::write(session.file(), "new").unwrap();
    open_rw(&other).unwrap().write_all(b"OLD").unwrap();
    assert_eq!(
        fs::read(session.in_repository.join("other")).unwrap(),
        b"OLD"
    );
    assert_eq!(fs::read(session.checkpoint()).unwrap(), b"new");
}

/// The daemon can neither read nor write here, which is noticed only without passthrough.
#[test]
fn the_kernel_reads_and_writes_by_itself() {
    for options in WAYS {
        let mut mount = Mount::with(Backing::Tmpfs, options);
        mount.may_complain = true;
        let path = mount.session("s").on_mount.join("file");
        let broken = ["-e", "inject=pread64,pwrite64:error=EIO"];
        let strace = Strace::attach_to_all(mount.pid(), broken);
        let mut file = fs::File::create_new(&path).unwrap();
        let written = file.write_all(b"content");
        drop(file);
        let mut file = fs::File::options()
            .append(true)
            .read(true)
            .open(&path)
            .unwrap();
        let appended = file.write_all(b" and more");
        file.rewind().unwrap();
        let read = file.read_to_end(&mut Vec::new());
        drop(strace);
        if options.is_empty() {
            written.unwrap();
            appended.unwrap();
            assert_eq!(read.unwrap(), 16);
            assert_eq!(fs::read(&path).unwrap(), b"content and more");
        } else {
            assert_eq!(errno(written), libc::EIO);
            assert_eq!(errno(appended), libc::EIO);
        }
    }
}
