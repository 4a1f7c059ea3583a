//! A mounted repository: its parts, and how its nodes are found on the backing
//! filesystem.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use fuser::Notifier;

use crate::fs::dir::Dir;
use crate::fs::errno::Result;
use crate::fs::flock::queue::Flocks;
use crate::fs::lasting::Lasting;
use crate::fs::lasting::node::{Forgotten, ROOT, Role};
use crate::fs::listing::state::Listings;
use crate::fs::options::Options;
use crate::fs::plain::looks::Links;
use crate::fs::report::activity::{Activity, Counted};
use crate::fs::report::statistics::{Saves, Statistics};
use crate::fs::request::Caller;
use crate::fs::session::replaced::Replacements;
use crate::fs::session::threads::Threads;
use crate::fs::shares::{Share, Shares};
use crate::repo::{CHECKPOINT, LOCK, Repository, Session, SessionName};
use crate::sys::{self, Errno};

/// A mounted repository.
pub struct Fs {
    pub(in crate::fs) repository: Repository,
    pub(in crate::fs) options: Options,
    pub(in crate::fs) lasting: Lasting,
    /// Locked for writing while a directory is renamed, because its node gets the new
    /// name a moment later; and for reading by a thread that has not found a directory by
    /// the names of its nodes.
    pub(in crate::fs) names: RwLock<()>,
    pub(in crate::fs) threads: Threads,
    pub(in crate::fs) descriptors: Arc<Shares>,
    pub(in crate::fs) listings: Listings,
    pub(in crate::fs) links: Links,
    pub(in crate::fs) replacements: Arc<Replacements>,
    pub(in crate::fs) flocks: Flocks,
    pub(in crate::fs) activity: Arc<Activity>,
    pub(in crate::fs) statistics: Arc<Statistics>,
    /// Whether birth times tell the repository's files apart.
    pub(in crate::fs) keeps_births: OnceLock<bool>,
    pub(in crate::fs) since: SystemTime,
    /// Tells the kernel to drop what it has cached.
    pub(in crate::fs) notifier: OnceLock<Notifier>,
    /// The device of the mount.
    pub(in crate::fs) device: Arc<OnceLock<(u32, u32)>>,
    /// Whether passthrough has not failed so far.
    pub(in crate::fs) passthrough: AtomicBool,
    /// Whether a writer has shared a checkpoint's node with its readers.
    pub(in crate::fs) has_shared_writers: AtomicBool,
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fs")
            .field("repository", &self.repository)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Fs {
    /// A filesystem of the sessions in `repository`.
    pub fn new(repository: Repository, options: Options) -> Self {
        let lasting = Lasting::default();
        Self {
            passthrough: AtomicBool::new(options.passthrough),
            has_shared_writers: AtomicBool::new(false),
            repository,
            options,
            replacements: Arc::new(Replacements::new(lasting.nodes.clone())),
            lasting,
            names: RwLock::default(),
            threads: Threads::default(),
            descriptors: Shares::of_descriptors(),
            listings: Listings::default(),
            links: Links::default(),
            flocks: Flocks::default(),
            activity: Arc::default(),
            statistics: Arc::default(),
            keeps_births: OnceLock::new(),
            since: SystemTime::now(),
            notifier: OnceLock::new(),
            device: Arc::default(),
        }
    }

    /// Whether other users than the one who mounted may use the mount.
    pub fn allows_others(&self) -> bool {
        self.options.allow_other
    }

    /// Notes that the filesystem is mounted, as this device (major and minor number). In
    /// `/proc`, the device tells the files of one mount from those of others.
    pub fn mounted(&self, device: (u32, u32)) {
        // It is set only once.
        let _ = self.device.set(device);
    }

    /// The user whose share a handle is in.
    pub fn user_of(&self, handle: u64) -> Option<u32> {
        self.lasting.handles.user(handle)
    }

    /// Sets a function that is called with true when a thread begins to wait for another
    /// writer, and with false when the wait is over.
    pub fn on_wait(&self, call: fn(bool)) {
        self.activity.on_wait(call);
    }

    /// To be kept by a request that waits, until it is answered: if the daemon ended
    /// before, the caller would get an error.
    pub fn busy(&self) -> Counted<'_> {
        self.activity.busy()
    }

    /// The saves that are being committed now, or not answered yet.
    pub fn saves_in_progress(&self) -> usize {
        self.activity.now().1
    }

    /// The end of the mount has begun: changes that wait for another writer are refused.
    pub fn begin_end(&self) {
        self.activity.end();
    }

    /// The counts of saves so far.
    pub fn saves(&self) -> Saves {
        self.statistics.saves()
    }

    /// How many writers have unsaved changes.
    pub fn open_writers(&self) -> usize {
        self.activity.now().0
    }

    /// Waits until all commits have ended, however long that takes, and at most `timeout`
    /// for open writers. Returns whether nothing is left.
    pub fn drain(&self, timeout: Duration) -> bool {
        let is_drained = self.activity.drain(timeout);
        self.carry_out_all_removals();
        is_drained
    }

    /// The kernel has forgotten this number of lookups of a node. Returns what goes away
    /// with the last one.
    pub fn forget(&self, id: u64, lookups: u64) -> Option<Forgotten> {
        self.lasting.nodes.forget(id, lookups)
    }

    /// Closes replaced checkpoints that were kept for an OPEN that has not come; to be
    /// called about every second. Returns whether there are any left.
    pub fn housekeep(&self) -> bool {
        let knows_any = self.threads.age();
        self.lasting.sessions.forget_ended();
        knows_any
    }

    /// Waits until there may be work for [`housekeep`](Self::housekeep).
    pub fn wait_for_housework(&self) {
        self.threads.wait();
    }

    /// The directory of a node; `ESTALE` if another one has its name, which makes the
    /// kernel walk the path again.
    pub(in crate::fs) fn dir(&self, id: u64) -> Result<Dir> {
        let root = self.repository.root()?.ok_or(Errno::NOENT)?;
        if id == ROOT {
            let stat = sys::fstat(&*root)?;
            return Ok(Dir { fd: root, stat });
        }
        // First without the lock: a rename has it as long as the disk takes.
        self.find_dir(&root, id).or_else(|_| {
            let _names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            self.find_dir(&root, id)
        })
    }

    fn find_dir(&self, root: &OwnedFd, id: u64) -> Result<Dir> {
        let path = self.lasting.nodes.path(id).ok_or(Errno::STALE)?;
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

    /// The session of a node; `ESTALE` as for [`dir`](Self::dir).
    pub(in crate::fs) fn session(&self, id: u64) -> Result<Session> {
        // As in `dir`: it may be being renamed.
        self.find_session(id).or_else(|_| {
            let _names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            self.find_session(id)
        })
    }

    fn find_session(&self, id: u64) -> Result<Session> {
        let (_, name) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
        let session = self.repository.session(&SessionName::new(&name)?)?;
        if sys::fstat(session.dir())?.stx_ino != id {
            return Err(Errno::STALE.into());
        }
        Ok(session)
    }

    /// Parent directory and name of a node that is neither the root nor a session.
    pub(in crate::fs) fn locate(&self, id: u64) -> Result<(Dir, std::ffi::OsString)> {
        let (parent, name) = self.lasting.nodes.parent_and_name(id).ok_or(Errno::STALE)?;
        Ok((self.dir(parent)?, name))
    }

    /// A descriptor of a node, possibly an `O_PATH` one. An open file has one even if its
    /// name is gone.
    pub(in crate::fs) fn path_fd(&self, id: u64) -> Result<Arc<OwnedFd>> {
        if id == ROOT {
            return Ok(self.dir(ROOT)?.fd);
        }
        if let Some(session) = self.lasting.nodes.follows(id) {
            let checkpoint = self.followed(session)?.ok_or(Errno::NOENT)?;
            return Ok(Arc::new(checkpoint));
        }
        if let Some(fd) = self.lasting.nodes.own_file(id) {
            return Ok(fd);
        }
        let (dir, name) = self.locate(id)?;
        let fd = match sys::open_path(&*dir.fd, &name) {
            Err(Errno::NOENT) if self.lasting.nodes.session(id).is_some() => {
                return Err(self.is_gone(id));
            }
            fd => fd?,
        };
        if sys::fstat(&fd)?.stx_ino != id {
            return Err(self.is_gone(id));
        }
        Ok(Arc::new(fd))
    }

    /// Takes this number of descriptors from the share of the caller's user.
    ///
    /// # Errors
    /// `EMFILE` if the share has less than that left.
    pub(in crate::fs) fn reserve(&self, caller: Caller, descriptors: u64) -> Result<Share> {
        let share = self.descriptors.take(caller.uid, descriptors);
        Ok(share.ok_or(Errno::MFILE)?)
    }

    pub(in crate::fs) fn role(&self, id: u64) -> Result<Role> {
        Ok(self.lasting.nodes.role(id).ok_or(Errno::STALE)?)
    }

    /// Whether this name in this directory is a session's checkpoint.
    pub(in crate::fs) fn is_checkpoint(&self, parent: u64, name: &OsStr) -> Result<bool> {
        Ok(name == CHECKPOINT && matches!(self.role(parent)?, Role::Session))
    }

    /// Whether this name in this directory is a session's lock.
    pub(in crate::fs) fn is_lock(&self, parent: u64, name: &OsStr) -> Result<bool> {
        Ok(name == LOCK && matches!(self.role(parent)?, Role::Session))
    }
}

fn open_dir(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    sys::open_dir_beneath(root, path).map_err(|errno| match errno {
        // Another file has its name.
        Errno::NOTDIR | Errno::LOOP | Errno::XDEV => Errno::STALE.into(),
        errno => errno.into(),
    })
}
