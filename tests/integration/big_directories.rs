//! Large, deep and long: directories of many entries that are read while they
//! change, paths up to `PATH_MAX`, and beyond by descriptor (DESIGN 2.13).

use crate::common::side_by_side::SideBySide;
use crate::common::{Backing, times};

on_each_filesystem!(
    rule_2_13_entries_that_stay_are_listed_once,
    rule_2_13_long_names_and_deep_directories,
);

/// readdir(3), telldir(3) and seekdir(3), which python does not have.
const STREAM: &str = "
import subprocess
libc.opendir.restype = libc.fdopendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
class Entry(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_ulong), ('off', ctypes.c_long), ('len', ctypes.c_ushort),
                ('type', ctypes.c_ubyte), ('name', ctypes.c_char * 256)]
def read(stream):
    entry = libc.readdir(ctypes.c_void_p(stream))
    return entry and Entry.from_address(entry).name
def tell(stream): return libc.telldir(ctypes.c_void_p(stream))
def seek(stream, at): libc.seekdir(ctypes.c_void_p(stream), n(at))
def make(name): os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
";

fn rule_2_13_entries_that_stay_are_listed_once(backing: Backing) {
    let program = "
os.mkdir('d')
early = os.open('d', os.O_RDONLY)
for i in range(COUNT): make(f'd/{i}')
if BTRFS: os.listdir(early)
else: t('open before they came', lambda: len(os.listdir(early)))
t('again', lambda: len(os.listdir(early)))
stream = libc.opendir(b'd')
places, names = {}, []
while True:
    at, name = tell(stream), read(stream)
    if not name: break
    names.append(name); places[name] = at
    # Every other one goes when it has been read, and another comes.
    if name.isdigit() and int(name) % 2:
        os.unlink(b'd/' + name)
        make(b'd/new' + name)
stay = [b'%d' % i for i in range(0, COUNT, 2)]
print('once', all(names.count(name) == 1 for name in stay[:50] + stay[-50:]), len(names) == len(set(names)))
print('all', set(stay) <= set(names))
def found(name):
    seek(stream, places[name])
    return read(stream)
back = stay[::-max(1, COUNT // 100)]
print('places', [found(name) for name in back] == back)
libc.rewinddir(ctypes.c_void_p(stream))
rest = []
while name := read(stream): rest.append(name)
t('rewound', lambda: sorted(rest) == sorted(os.fsencode(name) for name in os.listdir('d') + ['.', '..']))
t('rm', lambda: subprocess.run(['rm', '-r', 'd']).returncode)
t('gone', lambda: os.path.exists('d'))
";
    let both = SideBySide::new(backing);
    // Enough for several rounds of getdents(2).
    let count = times(50_000);
    // btrfs lists for a directory that is open what was there when it was opened,
    // until it is rewound.
    let is_btrfs = backing == Backing::Btrfs;
    let variables = format!("COUNT = {count}\nBTRFS = {}\n", i32::from(is_btrfs));
    let said = both.same(&format!("{STREAM}{variables}{program}"));
    let early = if is_btrfs {
        String::new()
    } else {
        format!("open before they came {count}\n")
    };
    let expected = format!(
        "{early}again {count}\nonce True True\nall True\nplaces True\n\
         rewound True\nrm 0\ngone False"
    );
    assert_eq!(said, expected);
    assert_eq!(both.session.names(), Vec::<String>::new());
}

fn rule_2_13_long_names_and_deep_directories(backing: Backing) {
    let program = "
t('255 bytes', lambda: (os.mkdir('d' * 255), make('d' * 255 + '/' + 'f' * 255)))
t('256 bytes', lambda: os.mkdir('d' * 256))
t('listed', lambda: sorted(map(len, os.listdir('d' * 255))))
path = '/'.join(['a' * 100] * 40)
t('4,039 bytes', lambda: os.makedirs(path))
last = path + '/' + 'f' * 55
t('4,095 bytes', lambda: (len(last), make(last), os.path.getsize(last)))
t('4,096 bytes', lambda: make(last + 'f'))
top = at = os.open('.', os.O_RDONLY)
for depth in range(DEPTH):
    os.mkdir('deep' * 20, dir_fd=at)
    at = os.open('deep' * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
def put():
    fd = os.open('file', os.O_CREAT | os.O_RDWR, dir_fd=at)
    return os.write(fd, b'content'), os.pread(fd, 9, 0), os.fsync(fd)
t('below', put)
t('list', lambda: os.listdir(os.open('.', os.O_RDONLY, dir_fd=at)))
t('stat', lambda: os.stat('file', dir_fd=at).st_size)
t('rename', lambda: os.rename('file', 'deeper', src_dir_fd=at, dst_dir_fd=at))
t('move', lambda: os.rename('deeper', 'up', src_dir_fd=at, dst_dir_fd=top))
t('moved', lambda: open('up').read())
t('sync', lambda: os.fsync(at))
t('rm', lambda: subprocess.run(['rm', '-r', 'deep' * 20]).returncode)
t('left', lambda: sorted(len(name) for name in os.listdir('.') if len(name) > 20))
";
    let both = SideBySide::new(backing);
    // 130 times 81 bytes: more than twice PATH_MAX.
    let said = both.same(&format!("{STREAM}DEPTH = 130\n{program}"));
    assert!(said.contains("below (7, b'content', None)"), "{said}");
}
