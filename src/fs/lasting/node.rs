//! The nodes that the kernel knows: what a node id stands for.
//!
//! A node of the backing filesystem has its inode number as its id, and is found by its
//! name below its parent. Every use checks that the name still leads to that inode. So
//! 100,000 nodes need no descriptor, and a change made directly in the repository is
//! noticed.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fuser::BackingId;

use crate::fs::session::hold::Held;
use crate::fs::session::writer::Writer;
use crate::fs::shares::limit_of_descriptors;
use crate::sys::{Statx, is_dir};

/// The root's node id (`FUSE_ROOT_ID`).
pub(in crate::fs) const ROOT: u64 = 1;

/// Writers have ids from here on, above the inode numbers that filesystems use.
pub(in crate::fs) const FIRST_WRITER: u64 = 0xfffe << 48;

/// The empty checkpoints shown for sessions without one: the low bits are those of the
/// session's inode number.
const FIRST_EMPTY: u64 = 0xfffd << 48;

/// How many replaced checkpoints are kept open for programs that may open them without a
/// path.
const MOST_KEPT: usize = 1024;

/// The name of the report, in the root.
pub const REPORT_NAME: &str = ".sessionfs-status";

/// The node of the report on the mount's state.
pub(in crate::fs) const REPORT: u64 = FIRST_EMPTY - 1;

/// What a node is.
#[derive(Debug, Clone)]
pub(in crate::fs) enum Role {
    /// The repository's directory.
    Root,
    /// A session's directory.
    Session,
    /// A regular file called `session` in a session's directory.
    Checkpoint,
    /// The empty checkpoint shown where there is none yet.
    Empty,
    /// A checkpoint opened for writing.
    Writer(Arc<Writer>),
    /// Any other directory.
    Directory,
    /// Any other file.
    Other,
    /// The report on the mount's state.
    Report,
}

/// The version of a file's content. As long as it is the same, the kernel's page cache is
/// right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct Version {
    modified: (i64, u32),
    size: u64,
}

impl Version {
    pub(in crate::fs) fn of(stat: &Statx) -> Self {
        Self {
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            size: stat.stx_size,
        }
    }
}

/// Tells an inode from an earlier one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::fs) struct Identity {
    /// The birth time in nanoseconds, as coarse as the kernel's clock ticks.
    pub(in crate::fs) birth: u64,
    /// A digest of the file handle, where it was read; exact.
    pub(in crate::fs) handle: Option<u64>,
}

/// The id of a node and its generation. They identify an inode even after it is gone and
/// its number is reused, for as long as the kernel knows the node. It knows a directory
/// while anything in it is open.
pub(in crate::fs) type Exact = (u64, u32);

impl Identity {
    fn is_other_than(self, other: Self) -> bool {
        let handles = self.handle.zip(other.handle);
        self.birth != other.birth || handles.is_some_and(|(a, b)| a != b)
    }
}

/// One node.
#[derive(Debug)]
pub(in crate::fs) struct Node {
    pub(in crate::fs) parent: u64,
    pub(in crate::fs) name: OsString,
    pub(in crate::fs) role: Role,
    /// The session whose checkpoint it is, or was.
    session: Option<Exact>,
    identity: Identity,
    /// Counted up when the number comes back with another inode; the kernel then drops
    /// what it has cached.
    generation: u32,
    lookups: u64,
    /// Its file, kept open between a thread's lookup and open.
    held: Weak<Held>,
    /// Its file, kept open though it has been replaced, as long as the kernel knows the
    /// node: it may be opened without its path.
    kept: Option<Arc<OwnedFd>>,
    /// Whether it stands for whatever checkpoint its session has.
    follows: bool,
    /// Its open files: they give the attributes after the name is gone.
    open: Vec<Weak<OwnedFd>>,
    /// The file from which a program runs.
    executed: Weak<OwnedFd>,
    /// The kernel takes one passthrough file for each inode at a time.
    pub(in crate::fs) backing: Weak<BackingId>,
    /// The version of the content in the page cache, if any.
    pub(in crate::fs) cached: Option<Version>,
}

/// What goes away with a node.
#[derive(Debug)]
pub struct Forgotten {
    held: Option<Arc<Held>>,
    _kept: Option<Arc<OwnedFd>>,
    _writer: Option<Arc<Writer>>,
}

impl Drop for Forgotten {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.let_go();
        }
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub(in crate::fs) struct Nodes {
    by_id: Mutex<HashMap<u64, Node>>,
    /// The nodes whose replaced file is kept open, oldest first.
    kept: Mutex<VecDeque<u64>>,
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel is about to be told of a node: counts the lookup, and returns the
    /// generation.
    pub(in crate::fs) fn remember(
        &self,
        id: u64,
        parent: u64,
        name: &OsStr,
        role: Role,
        identity: Identity,
    ) -> u64 {
        let mut by_id = self.lock();
        let directory = exact(&by_id, parent);
        let node = by_id.entry(id).or_insert_with(|| Node {
            parent,
            name: name.to_owned(),
            role: role.clone(),
            session: None,
            identity,
            generation: 0,
            lookups: 0,
            held: Weak::new(),
            kept: None,
            follows: false,
            open: Vec::new(),
            executed: Weak::new(),
            backing: Weak::new(),
            cached: None,
        });
        node.lookups += 1;
        node.identity.handle = node.identity.handle.or(identity.handle);
        if node.identity.is_other_than(identity) {
            node.identity = identity;
            node.generation = node.generation.wrapping_add(1);
            node.cached = None;
            node.backing = Weak::new();
            node.open = Vec::new();
            node.held = Weak::new();
            node.kept = None;
            node.follows = false;
            node.session = None;
        }
        match role {
            Role::Checkpoint | Role::Empty => node.session = Some(directory),
            // It has got another name, and is an ordinary file now.
            _ => node.follows = false,
        }
        if node.parent != parent || node.name != name {
            node.parent = parent;
            node.name = name.to_owned();
        }
        node.role = role;
        u64::from(node.generation)
    }

    /// The kernel is about to be told of another name of a checkpoint: counts the lookup,
    /// and returns the generation; `None` if the kernel does not know the file.
    pub(in crate::fs) fn remember_link(&self, id: u64) -> Option<u64> {
        self.with(id, |node| {
            node.lookups += 1;
            u64::from(node.generation)
        })
    }

    /// Whether the kernel knows a node.
    pub(in crate::fs) fn is_known(&self, id: u64) -> bool {
        self.lock().contains_key(&id)
    }

    /// Keeps a file that has just been looked up open, until it is opened.
    pub(in crate::fs) fn hold(&self, id: u64, file: OwnedFd) -> Arc<Held> {
        let new = Arc::new(Held::new(file));
        let held = self.with(id, |node| match node.held.upgrade() {
            Some(held) => held,
            None => {
                node.held = Arc::downgrade(&new);
                new.clone()
            }
        });
        held.unwrap_or(new)
    }

    /// The kernel has forgotten this number of lookups. Returns what goes away with the
    /// node; dropping it closes files, which may take time.
    pub(in crate::fs) fn forget(&self, id: u64, lookups: u64) -> Option<Forgotten> {
        let mut by_id = self.lock();
        let node = by_id.get_mut(&id)?;
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups > 0 {
            return None;
        }
        let gone = by_id.remove(&id)?;
        drop(by_id);
        if gone.kept.is_some() {
            self.kept().retain(|kept| *kept != id);
        }
        let writer = match gone.role {
            Role::Writer(writer) => Some(writer),
            _ => None,
        };
        let held = gone.held.upgrade();
        let is_anything = held.is_some() || writer.is_some() || gone.kept.is_some();
        is_anything.then_some(Forgotten {
            held,
            _kept: gone.kept,
            _writer: writer,
        })
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the file of a node that is being replaced open, if the kernel knows the
    /// node: programs may open it without its path. As it takes disk space, the oldest
    /// are closed beyond a limit.
    pub(in crate::fs) fn keep(&self, id: u64, file: Arc<OwnedFd>) {
        let is_new = self.with(id, |node| node.kept.replace(file).is_none());
        if is_new != Some(true) {
            return;
        }
        let mut kept = self.kept();
        kept.push_back(id);
        let most = MOST_KEPT.min(usize::try_from(limit_of_descriptors() / 8).unwrap_or(MOST_KEPT));
        let oldest = if kept.len() > most {
            kept.pop_front()
        } else {
            None
        };
        drop(kept);
        let gone = oldest.and_then(|oldest| self.with(oldest, |node| node.kept.take()));
        drop(gone);
    }

    /// Makes a node stand for whatever checkpoint its session has; the kernel caches
    /// nothing of it then. Returns whether it does: not while a passthrough reader has it
    /// open.
    pub(in crate::fs) fn follow(&self, id: u64, own: Option<Arc<OwnedFd>>) -> bool {
        let follows = self.with(id, |node| {
            let is_checkpoint = matches!(node.role, Role::Checkpoint | Role::Empty);
            if !is_checkpoint || node.backing.strong_count() > 0 {
                return false;
            }
            node.cached = None;
            node.follows = true;
            true
        });
        if let Some(own) = own.filter(|_| follows == Some(true)) {
            self.keep(id, own);
        }
        follows == Some(true)
    }

    /// The session whose current checkpoint a node stands for.
    pub(in crate::fs) fn follows(&self, id: u64) -> Option<u64> {
        let by_id = self.lock();
        let node = by_id.get(&id).filter(|node| node.follows)?;
        current(&by_id, node.session?)
    }

    /// The file of a node, if it is kept open for any reason.
    pub(in crate::fs) fn own_file(&self, id: u64) -> Option<Arc<OwnedFd>> {
        let (open, held, kept) = self.with(id, |node| {
            let open = node.open.iter().find_map(Weak::upgrade);
            (open, node.held.upgrade(), node.kept.clone())
        })?;
        open.or_else(|| held?.file()).or(kept)
    }

    /// A writer is closed. The kernel may know its node until the name is looked up
    /// again, but the node must not keep descriptors open until then. From now on it
    /// counts as a replaced checkpoint.
    pub(in crate::fs) fn retire(&self, writer: u64) {
        let ended = self.with(writer, |node| {
            std::mem::replace(&mut node.role, Role::Checkpoint)
        });
        // Not under the lock of all nodes.
        drop(ended);
    }

    /// Looks at or changes a node, under the lock of all nodes.
    pub(in crate::fs) fn with<T>(&self, id: u64, f: impl FnOnce(&mut Node) -> T) -> Option<T> {
        self.lock().get_mut(&id).map(f)
    }

    /// The role of a node; the root is always known.
    pub(in crate::fs) fn role(&self, id: u64) -> Option<Role> {
        if id == ROOT {
            return Some(Role::Root);
        }
        self.with(id, |node| node.role.clone())
    }

    /// The session of which a node is the checkpoint, or was one since the kernel knows
    /// it: a program that opens it may have meant `session`. `None` also if another
    /// directory has got the number of that session's.
    pub(in crate::fs) fn session(&self, id: u64) -> Option<u64> {
        let by_id = self.lock();
        current(&by_id, by_id.get(&id)?.session?)
    }

    /// As [`session`](Self::session), also if that session is gone.
    pub(in crate::fs) fn exact_session(&self, id: u64) -> Option<Exact> {
        self.with(id, |node| node.session)?
    }

    /// What distinguishes a node from later ones with the same number.
    pub(in crate::fs) fn exact(&self, id: u64) -> Exact {
        exact(&self.lock(), id)
    }

    /// Parent and name of a node.
    pub(in crate::fs) fn parent_and_name(&self, id: u64) -> Option<(u64, OsString)> {
        self.with(id, |node| (node.parent, node.name.clone()))
    }

    /// The path of a node below the root; `None` if a directory above it is
    /// not known any more.
    pub(in crate::fs) fn path(&self, id: u64) -> Option<PathBuf> {
        let by_id = self.lock();
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            // No path is longer than the kernel's limit, whatever renames have made of
            // the tree.
            if names.len() > libc::PATH_MAX as usize {
                return None;
            }
            let node = by_id.get(&at)?;
            names.push(node.name.as_os_str());
            at = node.parent;
        }
        Some(names.into_iter().rev().collect())
    }

    /// The kernel has renamed a node.
    pub(in crate::fs) fn renamed(&self, id: u64, parent: u64, name: &OsStr) {
        self.with(id, |node| {
            node.parent = parent;
            node.name = name.to_owned();
        });
    }

    /// A file has become a session's checkpoint: opening it by a descriptor
    /// (`/proc/self/fd/N`) leads to the checkpoint from now on.
    pub(in crate::fs) fn became_checkpoint(&self, id: u64, session: u64) {
        let mut by_id = self.lock();
        let session = exact(&by_id, session);
        if let Some(node) = by_id.get_mut(&id) {
            node.role = Role::Checkpoint;
            node.session = Some(session);
        }
    }

    /// Remembers an open file of a node as long as it is open, and returns the backing
    /// file for passthrough: that of the other open files, or a new one if it is the
    /// first.
    pub(in crate::fs) fn opened(
        &self,
        id: u64,
        file: &Arc<OwnedFd>,
        new_backing: impl FnOnce() -> Option<Arc<BackingId>>,
    ) -> Option<Arc<BackingId>> {
        self.with(id, |node| {
            let is_first = !node.open.iter().any(|file| file.strong_count() > 0);
            let backing = match node.backing.upgrade() {
                None if is_first && !node.follows => new_backing(),
                others => others,
            };
            node.backing = backing.as_ref().map_or_else(Weak::new, Arc::downgrade);
            if node.open.len() == node.open.capacity() {
                node.open.retain(|file| file.strong_count() > 0);
            }
            node.open.push(Arc::downgrade(file));
            backing
        })?
    }

    /// A program has been started from this open file of a node.
    pub(in crate::fs) fn executed(&self, id: u64, file: &Arc<OwnedFd>) {
        self.with(id, |node| node.executed = Arc::downgrade(file));
    }

    /// Whether the program that was started last from a node is still running.
    pub(in crate::fs) fn is_executed(&self, id: u64) -> bool {
        self.with(id, |node| node.executed.strong_count() > 0) == Some(true)
    }

    /// An open file of a node.
    pub(in crate::fs) fn open_file(&self, id: u64) -> Option<Arc<OwnedFd>> {
        self.with(id, |node| node.open.iter().find_map(Weak::upgrade))?
    }
}

fn exact(by_id: &HashMap<u64, Node>, id: u64) -> Exact {
    (id, by_id.get(&id).map_or(0, |node| node.generation))
}

/// The id of a node, unless another inode has it by now.
fn current(by_id: &HashMap<u64, Node>, (id, generation): Exact) -> Option<u64> {
    let node = by_id.get(&id);
    node.is_none_or(|node| node.generation == generation)
        .then_some(id)
}

/// The role of a file that is no checkpoint, by its status.
pub(in crate::fs) fn other_role(stat: &Statx) -> Role {
    if is_dir(stat) {
        Role::Directory
    } else {
        Role::Other
    }
}

/// The node id of a session's checkpoint while there is none.
pub(in crate::fs) fn empty_id(session: u64) -> u64 {
    FIRST_EMPTY | (session & ((1 << 48) - 1))
}

#[cfg(test)]
mod tests;
