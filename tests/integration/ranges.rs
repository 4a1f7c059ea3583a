//! Calls on ranges of a file: fallocate, `SEEK_DATA` and `SEEK_HOLE`, copy_file_range. On
//! a file beside the checkpoint they work as in any directory (DESIGN 2.13), on the
//! checkpoint they are part of a save (DESIGN 2.2).

use std::fs;

use crate::common::side_by_side::{SideBySide, TRY};
use crate::common::tools::python;
use crate::common::{Backing, Mount};

on_each_filesystem!(
    rules_2_2_and_2_13_ranges_are_those_of_a_directory,
    rule_2_2_a_checkpoint_is_copied_from_and_to,
    rules_2_6_and_2_8_a_range_is_a_change_like_a_write,
);

/// fallocate(2) with every mode that the kernel lets through (Linux 6.18:
/// `KEEP_SIZE`, `PUNCH_HOLE`, `ZERO_RANGE`), holes, and copies.
const RANGES: &str = "
def holes(fd):
    found, at = [], 0
    while True:
        try: data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e: return found + [errno.errorcode[e.errno]]
        at = os.lseek(fd, data, os.SEEK_HOLE)
        found.append((data, at))
def digest(fd): return hashlib.md5(os.pread(fd, 1 << 22, 0)).hexdigest()
fd = os.open(NAME, os.O_RDWR | os.O_CREAT, 0o644)
t('write', lambda: os.pwrite(fd, b'x' * 100000, 0))
for mode, at, length in [(0, 0, 300000), (1, 0, 600000), (3, 8192, 40960), (16, 65536, 8192),
                         (17, 400000, 100000), (2, 0, 4096), (0, 0, 0), (0, 5, (1 << 63) - 1)]:
    t(f'fallocate {mode}', lambda: c('fallocate', fd, mode, n(at), n(length)))
    t('size', lambda: os.fstat(fd).st_size)
t('blocks', lambda: os.fstat(fd).st_blocks)
t('holes', lambda: holes(fd))
if not BTRFS: t('before the beginning', lambda: os.lseek(fd, -1, os.SEEK_HOLE))
t('beyond the end', lambda: os.lseek(fd, 1 << 40, os.SEEK_DATA))
t('digest', lambda: digest(fd))
other = os.open('other', os.O_RDWR | os.O_CREAT, 0o644)
t('copy', lambda: os.copy_file_range(fd, other, 200000, 0, 10))
t('copy to the end', lambda: os.copy_file_range(fd, other, 1 << 40, 0, 1 << 20))
t('size', lambda: os.fstat(other).st_size)
t('copy back', lambda: os.copy_file_range(other, fd, 5000, 10, 900000))
t('copy from behind the end', lambda: os.copy_file_range(other, fd, 5000, 1 << 30, 0))
t('copy onto itself', lambda: os.copy_file_range(fd, fd, 5000, 0, 1000))
t('copy within', lambda: os.copy_file_range(fd, fd, 5000, 0, 1000000))
t('digests', lambda: (digest(fd), digest(other), os.fstat(fd).st_size))
t('close', lambda: os.close(fd))
fd = os.open(NAME, os.O_RDONLY)
t('read again', lambda: (digest(fd), os.fstat(fd).st_size))
t('holes', lambda: holes(fd)[0])
t('fallocate of a reader', lambda: c('fallocate', fd, 0, n(0), n(10)))
t('copy of a reader', lambda: os.copy_file_range(fd, other, 100000, 0, 0))
";

fn rules_2_2_and_2_13_ranges_are_those_of_a_directory(backing: Backing) {
    let both = SideBySide::new(backing);
    // btrfs takes a negative offset for 0.
    let btrfs = i32::from(backing == Backing::Btrfs);
    for name in ["file", "session"] {
        let said = both.same(&format!("NAME = '{name}'\nBTRFS = {btrfs}\n{RANGES}"));
        assert!(said.contains("fallocate 3 None\nsize 300000"), "{said}");
        assert!(said.contains("copy within 5000"), "{said}");
        assert_eq!(both.same_file(name).len(), 1_005_000);
    }
    assert_eq!(both.session.names(), ["file", "other", "session"]);
}

fn rule_2_2_a_checkpoint_is_copied_from_and_to(backing: Backing) {
    let mount = Mount::new(backing);
    let (a, b) = (mount.session("a"), mount.session("b"));
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 9) as u8).collect();
    fs::write(a.file(), &content).unwrap();
    let program = "
import shutil
a, b = 'a.session/session', 'b.session/session'
# From a reader to a first checkpoint, and within a session.
r = os.open(a, os.O_RDONLY); w = os.open(b, os.O_WRONLY | os.O_CREAT, 0o644)
left = os.fstat(r).st_size
while left: left -= os.copy_file_range(r, w, left)
os.close(w)
t('copied', lambda: open(a, 'rb').read() == open(b, 'rb').read())
# Two writers that copy from each other what is not saved yet.
x, y = os.open(a, os.O_RDWR), os.open(b, os.O_RDWR)
os.pwrite(x, b'from a', 0); os.pwrite(y, b'from b', 100)
t('there', lambda: os.copy_file_range(x, y, 6, 0, 1000))
t('back', lambda: os.copy_file_range(y, x, 6, 100, 2000))
t('nothing seen', lambda: open(a, 'rb').read(6) == b'from a')
os.close(x); os.close(y)
t('saved', lambda: (open(a, 'rb').read()[2000:2006], open(b, 'rb').read()[1000:1006]))
";
    let said = python(&mount.mountpoint, &format!("{TRY}{program}"));
    assert_eq!(
        said,
        "copied True\nthere 6\nback 6\nnothing seen False\nsaved (b'from b', b'from a')"
    );
    let mut expected = content;
    expected[..6].copy_from_slice(b"from a");
    expected[2000..2006].copy_from_slice(b"from b");
    assert!(fs::read(a.checkpoint()).unwrap() == expected);
    assert_eq!(
        (a.names(), b.names()),
        (vec!["session".into()], vec!["session".into()])
    );
}

/// A change takes the slot, is saved at the close, and is not seen by others before. A
/// call that fails changes nothing, and keeps nobody out.
fn rules_2_6_and_2_8_a_range_is_a_change_like_a_write(backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("s");
    fs::write(session.file(), "x".repeat(10_000)).unwrap();
    let program = "
import signal
def zeros(): return open('session', 'rb').read().count(b'\\0')
fd, other = os.open('session', os.O_RDWR), os.open('session', os.O_RDWR)
# COLLAPSE_RANGE: the kernel's FUSE has none.
t('refused', lambda: c('fallocate', fd, 8, n(0), n(4096)))
t('refused', lambda: c('fallocate', fd, 2, n(0), n(4096)))
try: c('fallocate', fd, 0, n(0), n(1 << 60))
except OSError as e: print('too large', e.errno in (errno.EFBIG, errno.ENOSPC))
os.close(fd)
t('not in the way', lambda: os.pwrite(other, b'y', 0))
os.close(other)
fd, other = os.open('session', os.O_RDWR), os.open('session', os.O_RDWR)
t('punch', lambda: c('fallocate', fd, 3, n(100), n(50)))
t('another writer', lambda: c('fallocate', other, 3, n(100), n(50)))
t('seen by others', zeros)
t('told again', lambda: os.close(other))
os.close(fd)
t('saved', zeros)
if os.fork() == 0:
    fd = os.open('session', os.O_RDWR)
    c('fallocate', fd, 3, n(1000), n(500))
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
t('killed', zeros)
";
    let said = python(&session.on_mount, &format!("{TRY}{program}"));
    let expected = "refused ENOTSUP\nrefused ENOTSUP\ntoo large True\nnot in the way 1\n\
        punch None\nanother writer EBUSY\nseen by others 0\ntold again EBUSY\nsaved 50\nkilled 50";
    assert_eq!(said, expected);
    assert_eq!(session.names(), ["session"]);
    let mut expected = vec![b'x'; 10_000];
    expected[0] = b'y';
    expected[100..150].fill(0);
    assert!(fs::read(session.checkpoint()).unwrap() == expected);
}
