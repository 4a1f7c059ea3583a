//! Directories of many entries that are read while they change, and paths of up to
//! `PATH_MAX`, and of more by descriptor (DESIGN 2.13).

use std::fs;

use crate::common::observe::status;
use crate::common::side_by_side::SideBySide;
use crate::common::tools::output_of;
use crate::common::users::{Program, User, shared_mount_by};
use crate::common::{Backing, Mount, times};

on_each_filesystem!(
    rule_2_13_entries_that_stay_are_listed_once,
    rule_2_13_long_names_and_deep_directories,
    section_1_a_session_that_is_shown_is_listed_once,
    rule_13_3_an_open_listing_takes_little_memory,
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
    // On btrfs an open directory lists the entries that were there at the open, until it
    // is rewound.
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

/// A checkpoint that is made, replaced or removed while its session is listed.
fn section_1_a_session_that_is_shown_is_listed_once(backing: Backing) {
    let program = "
def all():
    libc.rewinddir(ctypes.c_void_p(stream))
    return [tell_name for tell_name in iter(lambda: read(stream), None)]
for i in range(COUNT): make(f'a.session/{i}')
stream = libc.opendir(b'a.session')
def found(name):
    seek(stream, places[name])
    return read(stream)
print('shown', all().count(b'session'), len(set(all())) == len(all()) == COUNT + 3)
libc.rewinddir(ctypes.c_void_p(stream))
places, names = {}, []
while True:
    at, name = tell(stream), read(stream)
    if not name: break
    names.append(name); places[name] = at
    if len(names) in (COUNT // 3, COUNT // 2): save(f'saved {len(names)}')
print('saved meanwhile', names.count(b'session'), len(names))
print('places', [found(name) for name in names[1::50]] == names[1::50])
print('then', all().count(b'session'))
libc.rewinddir(ctypes.c_void_p(stream))
names = []
while name := read(stream):
    names.append(name)
    if len(names) % 100 == 0: save('again')
print('replaced meanwhile', names.count(b'session'), len(names))
os.unlink('a.session/session')
print('removed', all().count(b'session'), subprocess.run(['ls', 'a.session'], capture_output=True).stdout.count(b'session'))
save('anew')
print('anew', all().count(b'session'))
";
    let mount = Mount::new(backing);
    mount.session("a");
    let count = 1000;
    let save = "
def save(text):
    with open('a.session/session', 'w') as f: f.write(text)
";
    let start = "import ctypes, os\nlibc = ctypes.CDLL(None)\nn = ctypes.c_long\n";
    let program = format!("{start}{STREAM}{save}COUNT = {count}\n{program}");
    let said = output_of(&mount.mountpoint, "python3", &["-c", &program]);
    let expected = format!(
        "shown 1 True\nsaved meanwhile 1 {0}\nplaces True\nthen 1\n\
         replaced meanwhile 1 {0}\nremoved 0 1\nanew 1",
        count + 3
    );
    assert_eq!(said, expected);
}

/// So many names of this length, in a directory of the repository.
fn fill(dir: &std::path::Path, count: usize, len: usize, end: &str) {
    for number in 0..count {
        let name = format!("{number:0>len$}{end}");
        if end.is_empty() {
            fs::write(dir.join(name), "").unwrap();
        } else {
            fs::create_dir(dir.join(name)).unwrap();
        }
    }
}

/// Python: opens listings of a directory, reads the first entry of each, and keeps them.
const BEGUN: &str = "
import errno, os, sys
def begin(count, between=lambda: None):
    begun = []
    try:
        for _ in range(count):
            listing = os.scandir(sys.argv[1])
            next(listing)
            begun.append(listing)
            between()
        print(len(begun), 'all', flush=True)
    except OSError as e: print(len(begun), errno.errorcode[e.errno], flush=True)
    sys.stdin.readline()
";

fn rule_13_3_an_open_listing_takes_little_memory(backing: Backing) {
    let count = times(50_000);
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let dir = session.in_repository.join("dir");
    fs::create_dir(&dir).unwrap();
    fill(&dir, count, 240, "");
    // The kernel knows all of them then, and the daemon its nodes.
    let list = "import os, sys; print(len(os.listdir(sys.argv[1])))";
    let on_mount = session.on_mount.join("dir");
    let path = on_mount.to_str().unwrap();
    for _ in 0..2 {
        let listed = output_of(&session.on_mount, "python3", &["-c", list, path]);
        assert_eq!(listed, count.to_string());
    }
    let before = status(mount.pid(), "RssAnon");
    let begun = format!(
        "{BEGUN}kept = [os.open(sys.argv[1], os.O_RDONLY) for n in range(30)]\nfor fd in kept: assert len(os.listdir(fd)) == {count}\nbegin(300)"
    );
    let lister = Program::start_with(User::Root, &session.on_mount, &begun, &[path]);
    assert_eq!(lister.line, "300 all");
    let now = status(mount.pid(), "RssAnon");
    println!("330 listings of {count} names: {before} KiB became {now} KiB");
    assert!(now < before + (4 << 10), "{before} KiB became {now} KiB");
}

/// In the root, which is sorted, each listing that differs from the last one takes
/// memory, up to the user's share.
#[test]
fn rule_13_3_listings_of_the_root_have_a_share() {
    let mount = shared_mount_by(&[], Backing::Tmpfs, &[]);
    fill(&mount.repository, 20_000, 200, ".session");
    let made = crate::common::users::run_as(
        User::Bob,
        &mount.mountpoint,
        "mkdir bob0.session bob1.session",
    );
    assert!(made.status.success(), "{made:?}");
    let list = |user, program: &str| {
        Program::start_with(
            user,
            &mount.mountpoint,
            &format!("{BEGUN}{program}"),
            &["."],
        )
    };
    let before = status(mount.pid(), "RssAnon");
    let same = list(User::Bob, "begin(50)");
    assert_eq!(same.line, "50 all");
    let changed = "import itertools\nturn = itertools.count()\nbegin(50, lambda: os.utime(f'bob{next(turn) % 2}.session'))";
    let bob = list(User::Bob, changed);
    let (count, why) = bob.line.split_once(' ').unwrap();
    let count: usize = count.parse().unwrap();
    assert!((10..20).contains(&count) && why == "ENOMEM", "{}", bob.line);
    let now = status(mount.pid(), "RssAnon");
    println!("{count} listings: {before} KiB became {now} KiB");
    assert!(now < before + (96 << 10), "{before} KiB became {now} KiB");
    let ann = list(User::Ann, "begin(50)");
    assert_eq!(ann.line, "50 all");
    drop((same, bob, ann));
    assert_eq!(list(User::Bob, "begin(1)").line, "1 all");
}
