//! What the mount means, without the kernel: nodes, handles, and when a save
//! is a save (DESIGN 2, 4 and 5).
//!
//! Every operation takes plain values and answers plain values, so that all
//! of it can be called without a mount; `fuse.rs` is the only user.

mod absence;
mod activity;
mod asker;
mod attr;
mod credentials;
mod entries;
mod errno;
mod flock;
mod handle;
mod hold;
mod listing;
mod lookup;
mod node;
mod open;
#[cfg(any(test, fuzzing))]
pub mod outside_input;
mod passthrough;
mod pathless;
mod ranges;
mod removal;
mod rename;
mod replaced;
mod report;
mod request;
mod retry;
mod setattr;
mod shares;
mod slot;
mod statistics;
mod taken_back;
mod umask;
mod writer;
mod xattr;

use std::ffi::OsStr;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, Notifier};

use self::absence::Found;
pub use self::absence::Missing;
use self::activity::{Activity, Counted};
pub use self::attr::SetAttr;
pub use self::errno::{Fail, Result};
use self::flock::Flocks;
pub use self::flock::{Ask, Flock, Locked};
use self::handle::Handles;
use self::hold::Holds;
use self::listing::Listings;
pub use self::node::Forgotten;
use self::node::{FIRST_WRITER, Nodes, ROOT, Role};
pub use self::open::{Created, Opened};
use self::removal::Removals;
use self::replaced::Replacements;
pub use self::report::{REPORT_NAME, SCHEMA};
pub use self::request::{Caller, Patience};
use self::retry::Retries;
pub use self::shares::{Share, Shares};
use self::slot::Slots;
pub use self::statistics::Saves;
use self::statistics::Statistics;
use crate::repo::{CHECKPOINT, LOCK, Repository, Session, SessionName};
use crate::sys::{self, Errno, Statx};

/// How a mount behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Let the kernel read checkpoints, and read and write other files, on the
    /// backing filesystem by itself, where it can and we are allowed to.
    pub passthrough: bool,
    /// How long a writer waits for another one, or for a foreign
    /// `session.next`, before it gets `EBUSY`. Zero: not at all.
    pub lock_wait: Duration,
    /// Other users get in: the kernel checks their permissions.
    pub allow_other: bool,
    /// How long the kernel may believe the name of a directory without asking.
    /// One that has been replaced meanwhile is noticed when it is used.
    pub entry_timeout: Option<Duration>,
    /// How long the kernel may believe attributes of what is no checkpoint.
    pub attr_timeout: Option<Duration>,
    /// What a session without a checkpoint shows.
    pub missing: Missing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            passthrough: true,
            lock_wait: Duration::ZERO,
            allow_other: false,
            entry_timeout: None,
            attr_timeout: None,
            missing: Missing::default(),
        }
    }
}

/// What the kernel is told of a name.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Attributes; the node id is in them.
    pub attr: FileAttr,
    /// Tells inodes of one number apart.
    pub generation: u64,
    /// How long the kernel may believe the name.
    pub entry_ttl: Duration,
    /// How long the kernel may believe the attributes.
    pub attr_ttl: Duration,
}

/// How long the name of a directory may be believed if nobody says.
const DIRECTORY_TTL: Duration = Duration::from_secs(1);

/// How long what a listing said may be believed: long enough for the `stat`
/// of each entry by the program that lists.
const LISTING_TTL: Duration = Duration::from_millis(100);

/// A mounted repository.
pub struct Fs {
    repository: Repository,
    options: Options,
    nodes: Arc<Nodes>,
    /// Held for writing while a directory is renamed, as its node says so only
    /// then, and for reading by who has not found one by the names of its nodes.
    names: RwLock<()>,
    holds: Holds,
    handles: Handles,
    descriptors: Arc<Shares>,
    listings: Listings,
    retries: Retries,
    slots: Slots,
    removals: Removals,
    replacements: Arc<Replacements>,
    flocks: Flocks,
    found: Found,
    activity: Arc<Activity>,
    statistics: Arc<Statistics>,
    /// Whether the times of birth of the repository's files tell them apart.
    keeps_births: OnceLock<bool>,
    since: SystemTime,
    next_writer: AtomicU64,
    /// Tells the kernel what it must not believe any more.
    notifier: OnceLock<Notifier>,
    /// The device of the mount.
    device: Arc<OnceLock<(u32, u32)>>,
    /// Whether passthrough still seems possible.
    passthrough: AtomicBool,
    /// Whether a writer has shared a checkpoint's inode with its readers.
    has_shared_writers: AtomicBool,
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fs")
            .field("repository", &self.repository)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A directory of the backing filesystem, found anew for each use.
struct Dir {
    fd: Arc<OwnedFd>,
    stat: Statx,
}

impl Fs {
    /// A filesystem of the sessions in `repository`.
    pub fn new(repository: Repository, options: Options) -> Self {
        let nodes = Arc::<Nodes>::default();
        Self {
            passthrough: AtomicBool::new(options.passthrough),
            has_shared_writers: AtomicBool::new(false),
            repository,
            options,
            replacements: Arc::new(Replacements::new(nodes.clone())),
            nodes,
            names: RwLock::default(),
            holds: Holds::default(),
            handles: Handles::default(),
            descriptors: Shares::of_descriptors(),
            listings: Listings::default(),
            retries: Retries::default(),
            slots: Slots::default(),
            removals: Removals::default(),
            flocks: Flocks::default(),
            found: Found::default(),
            activity: Arc::default(),
            statistics: Arc::default(),
            keeps_births: OnceLock::new(),
            since: SystemTime::now(),
            next_writer: AtomicU64::new(first_writer()),
            notifier: OnceLock::new(),
            device: Arc::default(),
        }
    }

    /// Whether users other than the one who mounted get in.
    pub fn allows_others(&self) -> bool {
        self.options.allow_other
    }

    /// It is mounted, as this device (major and minor number): by it `/proc`
    /// tells the files of one mount from those of others.
    pub fn mounted(&self, device: (u32, u32)) {
        // Once and for all.
        let _ = self.device.set(device);
    }

    /// To be held by a request that waits, until it is answered: an end of
    /// the daemon in between would be told to the caller as a failure.
    pub fn busy(&self) -> Counted<'_> {
        self.activity.busy()
    }

    /// The saves that are being committed now, or not answered yet.
    pub fn saves_in_progress(&self) -> usize {
        self.activity.now().1
    }

    /// The end has begun: who waits for another writer is refused.
    pub fn begin_end(&self) {
        self.activity.end();
    }

    /// What has become of the saves so far.
    pub fn saves(&self) -> Saves {
        self.statistics.saves()
    }

    /// The writers that have changed something and are not closed.
    pub fn open_writers(&self) -> usize {
        self.activity.now().0
    }

    /// Waits until all commits have ended, however long that takes, and at
    /// most `timeout` for open writers. Answers whether nothing is left.
    pub fn drain(&self, timeout: Duration) -> bool {
        let is_drained = self.activity.drain(timeout);
        self.finish_removals();
        is_drained
    }

    /// The kernel has forgotten so many lookups of a node; answers what goes with
    /// the last one.
    pub fn forget(&self, id: u64, lookups: u64) -> Option<Forgotten> {
        self.nodes.forget(id, lookups)
    }

    /// Lets go of replaced checkpoints that nobody came to open; to be called
    /// about every second. Answers whether there are any left.
    pub fn housekeep(&self) -> bool {
        let holds_any = self.holds.age();
        self.removals.forget_ended();
        self.retries.age() || holds_any
    }

    /// Waits until there may be something for [`housekeep`](Self::housekeep).
    pub fn wait_for_housework(&self) {
        self.holds.wait();
    }

    /// The directory of a node; `ESTALE` if another one has its place, which
    /// makes the kernel look the path up again.
    fn dir(&self, id: u64) -> Result<Dir> {
        let root = self.repository.root()?.ok_or(Errno::NOENT)?;
        if id == ROOT {
            let stat = sys::fstat(&*root)?;
            return Ok(Dir { fd: root, stat });
        }
        // Who finds the directory itself need not care whether its names are being
        // changed: a rename may take as long as the disk does.
        self.find_dir(&root, id).or_else(|_| {
            let _names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            self.find_dir(&root, id)
        })
    }

    fn find_dir(&self, root: &OwnedFd, id: u64) -> Result<Dir> {
        let path = self.nodes.path(id).ok_or(Errno::STALE)?;
        let fd = open_dir(root, &path)?;
        let stat = sys::fstat(&fd)?;
        if stat.stx_ino != id {
            return Err(Errno::STALE.into());
        }
        Ok(Dir {
            fd: Arc::new(fd),
            stat,
        })
    }

    /// The session of a node, as [`dir`](Self::dir).
    fn session(&self, id: u64) -> Result<Session> {
        let (_, name) = self.nodes.place(id).ok_or(Errno::STALE)?;
        let session = self.repository.session(&SessionName::new(&name)?)?;
        if sys::fstat(session.dir())?.stx_ino != id {
            return Err(Errno::STALE.into());
        }
        Ok(session)
    }

    /// Parent directory and name of a node that is no directory of ours.
    fn locate(&self, id: u64) -> Result<(Dir, std::ffi::OsString)> {
        let (parent, name) = self.nodes.place(id).ok_or(Errno::STALE)?;
        Ok((self.dir(parent)?, name))
    }

    /// A descriptor of a node, which may be an `O_PATH` one. What is open has
    /// one in any case, also when its name is gone.
    fn path_fd(&self, id: u64) -> Result<Arc<OwnedFd>> {
        if id == ROOT {
            return Ok(self.dir(ROOT)?.fd);
        }
        if let Some(session) = self.nodes.follows(id) {
            let checkpoint = self.followed(session)?.ok_or(Errno::NOENT)?;
            return Ok(Arc::new(checkpoint));
        }
        if let Some(fd) = self.nodes.own_file(id) {
            return Ok(fd);
        }
        let (dir, name) = self.locate(id)?;
        let fd = match sys::open_path(&*dir.fd, &name) {
            Err(Errno::NOENT) if self.nodes.session(id).is_some() => return Err(self.is_gone(id)),
            fd => fd?,
        };
        if sys::fstat(&fd)?.stx_ino != id {
            return Err(self.is_gone(id));
        }
        Ok(Arc::new(fd))
    }

    /// So many descriptors for the caller.
    ///
    /// # Errors
    /// `EMFILE` if that is more than is left of the user's share.
    fn reserve(&self, caller: Caller, descriptors: u64) -> Result<Share> {
        let share = self.descriptors.take(caller.uid, descriptors);
        Ok(share.ok_or(Errno::MFILE)?)
    }

    fn role(&self, id: u64) -> Result<Role> {
        Ok(self.nodes.role(id).ok_or(Errno::STALE)?)
    }

    /// Whether this name in this directory is a session's checkpoint.
    fn is_checkpoint(&self, parent: u64, name: &OsStr) -> Result<bool> {
        Ok(name == CHECKPOINT && matches!(self.role(parent)?, Role::Session))
    }

    /// Whether this name in this directory is a session's lock.
    fn is_lock(&self, parent: u64, name: &OsStr) -> Result<bool> {
        Ok(name == LOCK && matches!(self.role(parent)?, Role::Session))
    }
}

/// Somewhere in the range of writers: a process may hold writers of several
/// mounts, and `/proc` tells them apart by this number.
fn first_writer() -> u64 {
    let random = RandomState::new().hash_one(std::process::id());
    // Half of the range is left to count on.
    FIRST_WRITER + (random & ((1 << 47) - 1))
}

fn open_dir(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    sys::open_dir_beneath(root, path).map_err(|errno| match errno {
        // Something else has its name.
        Errno::NOTDIR | Errno::LOOP | Errno::XDEV => Errno::STALE.into(),
        errno => errno.into(),
    })
}
