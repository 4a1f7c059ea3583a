//! A model of a disk that knows what is durable, and enumerates what a power
//! cut may leave of the rest.
//!
//! It gets every change through the seam in `sys`. It assumes as little of a filesystem
//! as the rules of DESIGN need:
//!
//! - fsync(2) of a file makes durable what has been changed of it until then:
//!   content, size, attributes. Not its name.
//! - fsync(2) of a directory makes durable the changes of its entries until
//!   then. Not what they name, nor the name of the directory itself.
//! - Of entries changed and not synced any subset may survive. What is made
//!   under a name (open(2), mkdir(2)) comes with its first attributes. A rename
//!   within one directory survives as a whole, or not (rename(2)); one from one
//!   directory to another in either of its halves.
//! - Of attributes changed and not synced any subset may survive.
//! - Of content changed and not synced each block of 4 KiB may survive or not,
//!   in any of its versions since the last sync; and so may the size, also the
//!   one without the other: then the bytes are zeroes, or (with ext4's
//!   `data=writeback`) what was on the disk before.
//!
//! ext4, xfs and btrfs write metadata in the order of the calls: in one journal
//! (jbd2), one log (the LSN of xfs) or one transaction after the other, so they
//! leave fewer images than these.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::choice::{Random, every_choice, mixtures, subsets};
use crate::sys::record::Change;
use crate::sys::{self, AtFlags};

/// An inode of the model; the kernel reuses its own numbers.
pub type Id = usize;

pub type Content = Rc<[u8]>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attributes {
    pub mode: u32,
    pub owner: (u32, u32),
    pub xattrs: BTreeMap<CString, Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Field {
    Mode(u32),
    Owner((u32, u32)),
    Xattr(CString, Option<Vec<u8>>),
}

#[derive(Clone, Debug)]
struct Inode {
    is_dir: bool,
    first: (Attributes, Content),
    now: (Attributes, Content),
}

/// Entries of one directory that change together, with what they name then.
#[derive(Clone, Debug)]
struct Half {
    dir: Id,
    entries: Vec<Entry>,
}

type Entry = (OsString, Option<Id>);

#[derive(Clone, Debug)]
enum Event {
    /// One half; or two halves, of the target and of the source of a rename between two
    /// directories.
    Entries(Vec<Half>),
    Attributes(Id, Vec<Field>),
    Content(Id, Content),
    Synced(Id),
    /// An operation has returned 0.
    Acknowledged,
}

/// What is found after a power cut.
#[derive(Clone, Debug)]
pub struct Image {
    /// By path: the file, its attributes, and its content, which a directory does not
    /// have.
    pub tree: BTreeMap<PathBuf, (Id, Attributes, Option<Content>)>,
}

/// All changes so far, and what was durable before.
#[derive(Debug)]
pub struct Disk {
    top: Id,
    inodes: Vec<Inode>,
    ids: HashMap<(u64, u64), Id>,
    before: BTreeMap<(Id, OsString), Id>,
    entries: BTreeMap<(Id, OsString), Id>,
    events: Vec<Event>,
}

impl Disk {
    /// A disk on which everything in the directory `top` is durable.
    pub fn new(top: &Path) -> Self {
        let mut disk = Self {
            top: 0,
            inodes: Vec::new(),
            ids: HashMap::new(),
            before: BTreeMap::new(),
            entries: BTreeMap::new(),
            events: Vec::new(),
        };
        let fd = std::fs::File::open(top).unwrap();
        disk.top = disk.add(fd.as_fd());
        disk.scan(top, disk.top);
        disk.before = disk.entries.clone();
        disk
    }

    fn scan(&mut self, path: &Path, dir: Id) {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let fd = std::fs::File::open(entry.path()).unwrap();
            let id = self.id_of(fd.as_fd());
            let id = id.unwrap_or_else(|| self.add(fd.as_fd()));
            self.entries.insert((dir, entry.file_name()), id);
            if self.inodes[id].is_dir {
                self.scan(&entry.path(), id);
            }
        }
    }

    fn add(&mut self, fd: BorrowedFd<'_>) -> Id {
        let now = state(fd);
        self.inodes.push(Inode {
            is_dir: number(fd).1,
            first: now.clone(),
            now,
        });
        let id = self.inodes.len() - 1;
        self.ids.insert(number(fd).0, id);
        id
    }

    fn id_of(&self, fd: BorrowedFd<'_>) -> Option<Id> {
        self.ids.get(&number(fd).0).copied()
    }

    /// How many changes there have been.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// How many operations had returned 0 after this many changes.
    pub fn acknowledged(&self, changes: usize) -> usize {
        let is_one = |event: &&Event| matches!(event, Event::Acknowledged);
        self.events[..changes].iter().filter(is_one).count()
    }

    /// Whether the sync of this number was one of a file.
    pub fn is_sync_of_a_file(&self, number: usize) -> bool {
        let mut syncs = self.events.iter().filter_map(|event| match event {
            Event::Synced(id) => Some(!self.inodes[*id].is_dir),
            _ => None,
        });
        syncs.nth(number).unwrap()
    }

    /// Notes that an operation has returned 0.
    pub fn acknowledge(&mut self) {
        self.events.push(Event::Acknowledged);
    }

    /// Notes a change.
    pub fn note(&mut self, change: Change<'_>) {
        match change {
            Change::Unnamed(fd) => {
                self.add(fd);
            }
            Change::Created(dir, name) => {
                let (fd, dir) = (open(dir, name), self.id_of(dir));
                let known = dir.and_then(|dir| self.entries.get(&(dir, name.to_owned())));
                if known.is_some() && known == self.id_of(fd.as_fd()).as_ref() {
                    return;
                }
                let id = self.add(fd.as_fd());
                // A path from the current directory.
                let (dir, name) = dir.map_or_else(
                    || self.parent_of(Path::new(name)),
                    |dir| (dir, name.to_owned()),
                );
                self.change_entries(vec![(dir, vec![(name, Some(id))])]);
            }
            Change::Linked(dir, name) => {
                let id = self.id_of(open(dir, name).as_fd()).unwrap();
                let dir = self.id_of(dir).unwrap();
                self.change_entries(vec![(dir, vec![(name.to_owned(), Some(id))])]);
            }
            Change::Removed(dir, name) => {
                let dir = self.id_of(dir).unwrap();
                self.change_entries(vec![(dir, vec![(name.to_owned(), None)])]);
            }
            Change::Renamed { from, to, exchange } => {
                let [from, to] = [from, to].map(|(dir, name)| {
                    let dir = self.id_of(dir).unwrap();
                    (dir, name.to_owned())
                });
                let moved = self.entries[&from];
                let other = exchange.then(|| self.entries[&to]);
                let (new, old) = ((to.1, Some(moved)), (from.1, other));
                if from.0 == to.0 {
                    self.change_entries(vec![(to.0, vec![new, old])]);
                } else {
                    self.change_entries(vec![(to.0, vec![new]), (from.0, vec![old])]);
                }
            }
            Change::Inode(fd) => {
                let id = self.id_of(fd).unwrap();
                let (attributes, content) = state(fd);
                let now = &mut self.inodes[id].now;
                let fields = difference(&now.0, &attributes);
                if !fields.is_empty() {
                    self.events.push(Event::Attributes(id, fields));
                }
                if now.1 != content {
                    self.events.push(Event::Content(id, content.clone()));
                }
                *now = (attributes, content);
            }
            Change::Synced(fd) => {
                // Not one above the top.
                if let Some(id) = self.id_of(fd) {
                    self.events.push(Event::Synced(id));
                }
            }
        }
    }

    fn parent_of(&self, path: &Path) -> (Id, OsString) {
        let parent = std::fs::File::open(path.parent().unwrap()).unwrap();
        let dir = self.id_of(parent.as_fd()).unwrap();
        (dir, path.file_name().unwrap().to_owned())
    }

    fn change_entries(&mut self, halves: Vec<(Id, Vec<Entry>)>) {
        let half = |(dir, entries)| Half { dir, entries };
        let halves: Vec<_> = halves.into_iter().map(half).collect();
        for half in &halves {
            apply(&mut self.entries, half);
        }
        self.events.push(Event::Entries(halves));
    }

    /// Shows each image that a power cut may leave after this many changes. Of very many,
    /// shows about `most`, chosen by `random`, with some for each set of entries that may
    /// survive. Returns whether those were all.
    pub fn crash(
        &self,
        changes: usize,
        most: usize,
        random: &mut Random,
        mut show: impl FnMut(Image),
    ) -> bool {
        let events = &self.events[..changes];
        let mut synced = HashMap::new();
        for (at, event) in events.iter().enumerate() {
            if let Event::Synced(id) = event {
                synced.insert(*id, at);
            }
        }
        let is_durable = |id: Id, at: usize| synced.get(&id).is_some_and(|&sync| at < sync);
        let mut pending = Vec::new();
        for (at, event) in events.iter().enumerate() {
            if let Event::Entries(halves) = event {
                let lost = (0..halves.len()).filter(|&half| !is_durable(halves[half].dir, at));
                pending.extend(lost.map(|half| (at, half)));
            }
        }
        let (subsets, mut complete) = subsets(pending.len(), most, random);
        let most = if complete {
            (most / subsets.len()).max(1)
        } else {
            1
        };
        for subset in subsets {
            let is_kept = |at: usize, half: usize| {
                let found = pending.iter().position(|&it| it == (at, half));
                found.is_none_or(|bit| subset & 1_u64 << bit != 0)
            };
            let entries = self.entries_of(events, &is_kept);
            let names = self.names(&entries);
            let ids: BTreeSet<Id> = names.iter().map(|(_, id)| *id).collect();
            let choices: Vec<_> = ids
                .iter()
                .map(|&id| {
                    let durable = |at| is_durable(id, at);
                    let attributes = self.attributes_of(id, events, &durable);
                    let contents = self.contents_of(id, events, &durable);
                    let both = attributes.into_iter().flat_map(|attributes| {
                        let with = move |content: &Content| (attributes.clone(), content.clone());
                        contents.iter().map(with).collect::<Vec<_>>()
                    });
                    (id, both.collect::<Vec<_>>())
                })
                .collect();
            complete &= every_choice(&choices, most, random, |chosen| {
                let of = |id: Id| chosen[ids.iter().position(|&i| i == id).unwrap()];
                let tree = names.iter().map(|(path, id)| {
                    let (attributes, content) = of(*id).clone();
                    let content = (!self.inodes[*id].is_dir).then_some(content);
                    (path.clone(), (*id, attributes, content))
                });
                show(Image {
                    tree: tree.collect(),
                });
            });
        }
        complete
    }

    /// The entries, if those halves survive.
    fn entries_of(
        &self,
        events: &[Event],
        is_kept: &dyn Fn(usize, usize) -> bool,
    ) -> BTreeMap<(Id, OsString), Id> {
        let mut entries = self.before.clone();
        for (at, event) in events.iter().enumerate() {
            let Event::Entries(halves) = event else {
                continue;
            };
            let kept = halves.iter().enumerate();
            for (_, half) in kept.filter(|(half, _)| is_kept(at, *half)) {
                apply(&mut entries, half);
            }
        }
        entries
    }

    /// Everything that has a name, with its path from the top.
    fn names(&self, entries: &BTreeMap<(Id, OsString), Id>) -> Vec<(PathBuf, Id)> {
        let mut names: Vec<(PathBuf, Id)> = Vec::new();
        let mut dirs = vec![(PathBuf::new(), self.top)];
        while let Some((path, dir)) = dirs.pop() {
            for ((_, name), &id) in
                entries.range((dir, OsString::new())..(dir + 1, OsString::new()))
            {
                let path = path.join(name);
                if self.inodes[id].is_dir {
                    dirs.push((path.clone(), id));
                }
                names.push((path, id));
            }
        }
        names.sort();
        names
    }

    /// The attributes that a file may have.
    fn attributes_of(
        &self,
        id: Id,
        events: &[Event],
        is_durable: &dyn Fn(usize) -> bool,
    ) -> BTreeSet<Attributes> {
        let mut durable = self.inodes[id].first.0.clone();
        let mut pending = Vec::new();
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Attributes(of, fields) if *of == id && is_durable(at) => {
                    set(&mut durable, fields);
                }
                Event::Attributes(of, fields) if *of == id => pending.push(fields),
                _ => {}
            }
        }
        let with = |subset: u32| {
            let mut attributes = durable.clone();
            let chosen = pending.iter().enumerate();
            for (_, fields) in chosen.filter(|(bit, _)| subset & 1 << bit != 0) {
                set(&mut attributes, fields);
            }
            attributes
        };
        (0..1_u32 << pending.len()).map(with).collect()
    }

    fn contents_of(
        &self,
        id: Id,
        events: &[Event],
        is_durable: &dyn Fn(usize) -> bool,
    ) -> Vec<Content> {
        let mut versions = vec![self.inodes[id].first.1.clone()];
        for (at, event) in events.iter().enumerate() {
            if let Event::Content(of, content) = event
                && *of == id
            {
                if is_durable(at) {
                    versions.clear();
                }
                versions.push(content.clone());
            }
        }
        mixtures(&versions)
    }
}

fn apply(entries: &mut BTreeMap<(Id, OsString), Id>, half: &Half) {
    for (name, id) in &half.entries {
        let entry = (half.dir, name.clone());
        match id {
            Some(id) => entries.insert(entry, *id),
            None => entries.remove(&entry),
        };
    }
}

fn set(attributes: &mut Attributes, fields: &[Field]) {
    for field in fields.iter().cloned() {
        match field {
            Field::Mode(mode) => attributes.mode = mode,
            Field::Owner(owner) => attributes.owner = owner,
            Field::Xattr(name, Some(value)) => {
                attributes.xattrs.insert(name, value);
            }
            Field::Xattr(name, None) => {
                attributes.xattrs.remove(&name);
            }
        }
    }
}

fn difference(from: &Attributes, to: &Attributes) -> Vec<Field> {
    let mode = (from.mode != to.mode).then_some(Field::Mode(to.mode));
    let owner = (from.owner != to.owner).then_some(Field::Owner(to.owner));
    let names: BTreeSet<_> = from.xattrs.keys().chain(to.xattrs.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| from.xattrs.get(*name) != to.xattrs.get(*name));
    let xattrs = changed.map(|name| Field::Xattr(name.clone(), to.xattrs.get(name).cloned()));
    mode.into_iter().chain(owner).chain(xattrs).collect()
}

// Not through the wrappers of `sys`: the plan of a test must not see the calls of the
// model.

fn open(dir: BorrowedFd<'_>, name: &OsStr) -> std::os::fd::OwnedFd {
    let flags = sys::OFlags::RDONLY | sys::OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, sys::Mode::empty()).unwrap()
}

/// The kernel's number of an inode, and whether it is a directory.
fn number(fd: BorrowedFd<'_>) -> ((u64, u64), bool) {
    let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH).unwrap();
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    assert!(kind.is_dir() || kind.is_file(), "the model has no other");
    ((stat.st_dev, stat.st_ino), kind.is_dir())
}

fn state(fd: BorrowedFd<'_>) -> (Attributes, Content) {
    let path = sys::proc_path(fd);
    let file = std::fs::File::open(path.to_str().unwrap()).unwrap();
    let stat = file.metadata().unwrap();
    let mut content = Vec::new();
    if stat.is_file() {
        content.resize(usize::try_from(stat.len()).unwrap(), 0);
        file.read_exact_at(&mut content, 0).unwrap();
    }
    let attributes = Attributes {
        mode: stat.mode() & 0o7777,
        owner: (stat.uid(), stat.gid()),
        xattrs: xattrs(&path),
    };
    (attributes, content.into())
}

fn xattrs(path: &CStr) -> BTreeMap<CString, Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let n = rustix::fs::listxattr(path, &mut buffer[..]).unwrap();
    let names = buffer[..n].split_inclusive(|&byte| byte == 0);
    let names: Vec<_> = names
        .map(|name| CStr::from_bytes_with_nul(name).unwrap().to_owned())
        .filter(|name| !name.as_bytes().starts_with(b"security."))
        .collect();
    names
        .into_iter()
        .map(|name| {
            let n = rustix::fs::getxattr(path, &name, &mut buffer[..]).unwrap();
            (name, buffer[..n].to_vec())
        })
        .collect()
}
