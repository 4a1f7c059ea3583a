//! DESIGN 2 in plain Rust: what a single process, which does everything, sees of some
//! sessions, on the mount and in the repository.

mod open;

use std::collections::BTreeMap;

use super::step::{
    Bytes, DESCRIPTORS, Errno, Flags, Outcome, SESSIONS, Session, SessionView, Step, View,
};

/// The names of the files beside a checkpoint.
pub const FILE_NAMES: [&str; super::step::FILES] = ["backup", "notes"];

/// A rule that is wrong on purpose, which the comparison must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// A save over a newer checkpoint is made (not 2.9).
    LostUpdate,
    /// A second writer may change the session too (not 2.8).
    TwoWriters,
    /// fsync is no save (not 2.5).
    NoSavePoint,
    /// A reader sees what is saved later (not 2.1).
    ReaderFollows,
    /// A foreign `session.next` does not lock the session (not 2.8).
    ForeignLockIgnored,
    /// A removal is not deferred, but seen in the repository at once (not 2.12).
    RemovedAtOnce,
    /// A writer that its own process has replaced still saves (not 2.12).
    KeepsName,
}

/// A file's content, by its number, which stays the same as long as the file is open.
type Inode = usize;
type Directory = usize;
type Handle = usize;

type Result<T> = std::result::Result<T, i32>;

/// The settings of the model.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub wrong: Wrong,
    /// The result of making a file without a name in a directory that has been removed:
    /// ext4 refuses it (`EPERM`), tmpfs and xfs do not (Linux 6.18).
    pub tmpfile_in_removed: Option<i32>,
}

pub struct Model {
    wrong: Wrong,
    tmpfile_in_removed: Option<i32>,
    inodes: Vec<Bytes>,
    /// All that ever were.
    directories: Vec<Dir>,
    sessions: [Option<Directory>; SESSIONS],
    /// All that ever were.
    handles: Vec<Open>,
    descriptors: [Option<Handle>; DESCRIPTORS],
}

/// A session's directory.
#[derive(Default)]
struct Dir {
    is_gone: bool,
    checkpoint: Option<Inode>,
    files: BTreeMap<&'static str, Inode>,
    /// A foreign `session.next`.
    is_locked: bool,
    removal: Option<Removal>,
    /// The writer that is changing it.
    slot: Option<Handle>,
}

/// The process has removed the checkpoint, and must see none (2.12).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// The checkpoint that others still see.
    Promised(Inode),
    Done,
}

/// What a name leads to, for this process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A session without a checkpoint shows an empty one.
    Empty,
    Checkpoint(Inode),
    /// The new checkpoint that it has created and has open.
    Own(Handle),
}

/// An open file.
struct Open {
    flags: Flags,
    at: u64,
    descriptors: usize,
    what: What,
}

enum What {
    /// A checkpoint, or another file; none stands for an empty checkpoint. With the
    /// session of a checkpoint.
    File(Option<Inode>, Option<Directory>),
    Writer(Writer),
}

/// An open for writing of a checkpoint.
struct Writer {
    dir: Directory,
    base: Option<Inode>,
    removed: Option<Inode>,
    replaces: bool,
    staged: Option<Bytes>,
    failed: Option<i32>,
    has_saved: bool,
    /// Created where there was none.
    is_new: bool,
    /// Its own process has removed or replaced it (2.12).
    is_nameless: bool,
    /// Opened only to append (2.9).
    only_appends: bool,
}

impl Model {
    pub fn new(rules: Rules) -> Self {
        Self {
            wrong: rules.wrong,
            tmpfile_in_removed: rules.tmpfile_in_removed,
            inodes: Vec::new(),
            directories: Vec::new(),
            sessions: [None; SESSIONS],
            handles: Vec::new(),
            descriptors: [None; DESCRIPTORS],
        }
    }

    pub fn is_open(&self, descriptor: usize) -> bool {
        self.descriptors[descriptor].is_some()
    }

    pub fn is_there(&self, session: Session) -> bool {
        self.sessions[session].is_some()
    }

    /// Does a step.
    pub fn run(&mut self, step: Step) -> Outcome {
        let outcome = match step {
            Step::Mkdir(s) => self.mkdir(s),
            Step::Rmdir(s) => self.rmdir(s),
            Step::RenameSession(from, to) => self.rename_session(from, to),
            Step::Open(d, ..) | Step::OpenFile(d, ..) | Step::Dup(_, d) if self.is_open(d) => {
                return Outcome::Skipped;
            }
            Step::Open(d, s, flags) => (self.dir(s))
                .and_then(|dir| self.open(dir, flags))
                .map(|open| self.install(d, open)),
            Step::OpenFile(d, s, name, flags) => match self.dir(s) {
                Ok(dir) => {
                    (self.open_file(dir, FILE_NAMES[name], flags)).map(|open| self.install(d, open))
                }
                Err(errno) => Err(errno),
            },
            Step::Dup(from, _)
            | Step::Close(from)
            | Step::Read(from, _)
            | Step::Write(from, ..)
            | Step::Seek(from, _)
            | Step::SetLen(from, _)
            | Step::Sync(from)
                if !self.is_open(from) =>
            {
                return Outcome::Skipped;
            }
            Step::Dup(from, to) => {
                self.descriptors[to] = self.descriptors[from];
                self.opened(from).descriptors += 1;
                Ok(())
            }
            Step::Close(d) => self.close(d),
            Step::Read(d, len) => {
                return match self.read(d, len) {
                    Ok(bytes) => Outcome::Read(bytes),
                    Err(errno) => Outcome::Failed(Errno(errno)),
                };
            }
            Step::Write(d, len, byte) => self.write(d, len, byte),
            Step::Seek(d, at) => {
                self.opened(d).at = at;
                Ok(())
            }
            Step::SetLen(d, len) => self.set_len(d, len),
            Step::Sync(d) => self.sync(d),
            Step::Truncate(s, len) => self.dir(s).and_then(|dir| self.truncate(dir, len)),
            Step::Unlink(s) => self.dir(s).and_then(|dir| self.unlink(dir)),
            Step::UnlinkFile(s, name) => self.dir(s).and_then(|dir| {
                let files = &mut self.directories[dir].files;
                files.remove(FILE_NAMES[name]).map(drop).ok_or(libc::ENOENT)
            }),
            Step::RenameFile(s, name, t, other) => self.dir(s).and_then(|from| {
                let to = self.dir(t)?;
                self.rename_file(from, FILE_NAMES[name], to, FILE_NAMES[other])
            }),
            Step::RenameOnto(s, name, t) => self
                .dir(s)
                .and_then(|from| self.rename_onto(from, FILE_NAMES[name], self.dir(t)?)),
            Step::RenameAway(s, t, name) => self
                .dir(s)
                .and_then(|from| self.rename_away(from, self.dir(t)?, FILE_NAMES[name])),
            Step::RenameCheckpoint(s, t) => {
                (self.dir(s)).and_then(|from| self.rename_checkpoint(from, self.dir(t)?))
            }
            Step::BreakLock(s) => self.dir(s).and_then(|dir| {
                let is_locked = &mut self.directories[dir].is_locked;
                std::mem::take(is_locked).then_some(()).ok_or(libc::ENOENT)
            }),
            Step::DirectSave(s, len, byte) => self.dir(s).and_then(|dir| {
                if self.directories[dir].is_locked {
                    return Err(libc::EEXIST);
                }
                let new = self.new_inode(Bytes::all(len, byte));
                self.directories[dir].checkpoint = Some(new);
                Ok(())
            }),
            Step::DirectUnlink(s) => self.dir(s).and_then(|dir| {
                let checkpoint = self.directories[dir].checkpoint.take();
                checkpoint.map(drop).ok_or(libc::ENOENT)
            }),
            Step::ForeignLock(s) => self.dir(s).and_then(|dir| {
                let is_locked = &mut self.directories[dir].is_locked;
                let had = std::mem::replace(is_locked, true);
                if had { Err(libc::EEXIST) } else { Ok(()) }
            }),
        };
        outcome.map_or_else(|errno| Outcome::Failed(Errno(errno)), |()| Outcome::Done)
    }

    /// Whether a removal must be carried out for this step while a lock is in its way:
    /// the daemon waits for it, a second, in vain.
    pub fn waits_for_lock(&self, step: Step) -> bool {
        let is_stuck = |dir: Directory| {
            let dir = &self.directories[dir];
            dir.is_locked && matches!(dir.removal, Some(Removal::Promised(_)))
        };
        match step {
            Step::Rmdir(s) | Step::RenameSession(_, s) => self.sessions[s].is_some_and(is_stuck),
            Step::OpenFile(_, s, name, flags) if flags.changes() => self
                .dir(s)
                .and_then(|dir| self.file(dir, FILE_NAMES[name]))
                .is_ok_and(|inode| self.sessions_of(inode).any(is_stuck)),
            _ => false,
        }
    }

    /// Whether DESIGN does not define the result of a step: then it is left out.
    pub fn leaves_open(&self, step: Step) -> bool {
        match step {
            Step::OpenFile(d, s, name, _) if !self.is_open(d) => {
                self.sessions[s].is_some_and(|dir| self.is_ambiguous(dir, FILE_NAMES[name]))
            }
            // Another descriptor of a writer, so that its last close is one of several.
            Step::Open(_, s, _) | Step::RenameAway(s, ..) | Step::RenameCheckpoint(s, _) => {
                (self.dir(s)).is_ok_and(|dir| matches!(self.find(dir), Found::Own(_)))
            }
            _ => false,
        }
    }

    fn dir(&self, session: Session) -> Result<Directory> {
        self.sessions[session].ok_or(libc::ENOENT)
    }

    fn new_inode(&mut self, content: Bytes) -> Inode {
        self.inodes.push(content);
        self.inodes.len() - 1
    }

    fn find(&self, dir: Directory) -> Found {
        let is_own = |handle: &Handle| matches!(&self.handles[*handle].what, What::Writer(w) if w.is_new && !w.has_saved);
        if let Some(own) = self.own_writers(dir).find(is_own) {
            return Found::Own(own);
        }
        let dir = &self.directories[dir];
        match (dir.checkpoint, dir.removal) {
            (Some(inode), Some(Removal::Promised(removed))) if inode == removed => Found::Nothing,
            (Some(inode), _) => Found::Checkpoint(inode),
            (None, Some(_)) => Found::Nothing,
            (None, None) => Found::Empty,
        }
    }

    fn mkdir(&mut self, session: Session) -> Result<()> {
        if self.sessions[session].is_some() {
            return Err(libc::EEXIST);
        }
        self.directories.push(Dir::default());
        self.sessions[session] = Some(self.directories.len() - 1);
        Ok(())
    }

    /// A deferred removal is carried out now (2.12), because a step needs it.
    fn complete_removal(&mut self, dir: Directory) -> Result<()> {
        let dir = &mut self.directories[dir];
        if let Some(Removal::Promised(inode)) = dir.removal {
            if dir.checkpoint == Some(inode) {
                if dir.is_locked {
                    return Err(libc::EBUSY);
                }
                dir.checkpoint = None;
            }
            dir.removal = Some(Removal::Done);
        }
        Ok(())
    }

    fn remove_if_empty(&mut self, dir: Directory) -> Result<()> {
        let dir = &mut self.directories[dir];
        if dir.checkpoint.is_some() || !dir.files.is_empty() || dir.is_locked {
            return Err(libc::ENOTEMPTY);
        }
        dir.is_gone = true;
        Ok(())
    }

    fn rmdir(&mut self, session: Session) -> Result<()> {
        let dir = self.dir(session)?;
        self.complete_removal(dir)?;
        self.remove_if_empty(dir)?;
        self.sessions[session] = None;
        Ok(())
    }

    fn rename_session(&mut self, from: Session, to: Session) -> Result<()> {
        let dir = self.dir(from)?;
        if from == to {
            return Ok(());
        }
        if let Some(replaced) = self.sessions[to] {
            self.complete_removal(replaced)?;
            self.remove_if_empty(replaced)?;
        }
        self.sessions[from] = None;
        self.sessions[to] = Some(dir);
        Ok(())
    }

    fn unlink(&mut self, at: Directory) -> Result<()> {
        let found = match (self.find(at), self.directories[at].checkpoint) {
            (Found::Own(_), Some(inode)) => Found::Checkpoint(inode),
            (Found::Own(_), None) => Found::Empty,
            (found, _) => found,
        };
        let wrong = self.wrong;
        let dir = &mut self.directories[at];
        dir.removal = Some(match found {
            Found::Nothing | Found::Own(_) => return Err(libc::ENOENT),
            Found::Empty => Removal::Done,
            Found::Checkpoint(_) if dir.is_locked => return Err(libc::EBUSY),
            Found::Checkpoint(_) if wrong == Wrong::RemovedAtOnce => {
                dir.checkpoint = None;
                Removal::Done
            }
            Found::Checkpoint(inode) => Removal::Promised(inode),
        });
        self.own_writers_lose_names(at);
        Ok(())
    }

    fn file(&self, dir: Directory, name: &str) -> Result<Inode> {
        let inode = self.directories[dir].files.get(name);
        inode.copied().ok_or(libc::ENOENT)
    }

    fn rename_file(
        &mut self,
        from: Directory,
        name: &str,
        to: Directory,
        other: &'static str,
    ) -> Result<()> {
        let inode = self.file(from, name)?;
        // Two names of one file stay as they are (rename(2)).
        if self.file(to, other) != Ok(inode) {
            self.directories[from].files.remove(name);
            self.directories[to].files.insert(other, inode);
        }
        Ok(())
    }

    fn rename_onto(&mut self, from: Directory, name: &str, to: Directory) -> Result<()> {
        let inode = self.file(from, name)?;
        if self.find(to) == Found::Checkpoint(inode) {
            return Ok(());
        }
        self.become_checkpoint(inode, to)?;
        self.directories[from].files.remove(name);
        Ok(())
    }

    fn become_checkpoint(&mut self, inode: Inode, to: Directory) -> Result<()> {
        let dir = &mut self.directories[to];
        if dir.is_locked {
            return Err(libc::EBUSY);
        }
        dir.checkpoint = Some(inode);
        dir.removal = None;
        self.own_writers_lose_names(to);
        Ok(())
    }

    /// The checkpoint; an empty one is made if it is only shown.
    fn made(&mut self, dir: Directory) -> Result<Inode> {
        match self.find(dir) {
            Found::Nothing | Found::Own(_) => return Err(libc::ENOENT),
            Found::Checkpoint(inode) => return Ok(inode),
            Found::Empty => {}
        }
        let new = self.new_inode(Bytes::default());
        let dir = &mut self.directories[dir];
        if dir.is_locked || dir.slot.is_some() {
            return Err(libc::EBUSY);
        }
        dir.checkpoint = Some(new);
        Ok(new)
    }

    /// As editors make a backup: the file has both names until there is a new checkpoint.
    fn rename_away(&mut self, from: Directory, to: Directory, name: &'static str) -> Result<()> {
        let inode = self.made(from)?;
        if self.file(to, name) == Ok(inode) {
            return Ok(());
        }
        if self.directories[from].is_locked {
            return Err(libc::EBUSY);
        }
        self.directories[to].files.insert(name, inode);
        self.directories[from].removal = Some(Removal::Promised(inode));
        Ok(())
    }

    fn rename_checkpoint(&mut self, from: Directory, to: Directory) -> Result<()> {
        if self.find(from) == Found::Empty && from == to {
            return Ok(());
        }
        let inode = self.made(from)?;
        if self.find(to) == Found::Checkpoint(inode) {
            return Ok(());
        }
        self.become_checkpoint(inode, to)?;
        self.directories[from].checkpoint = None;
        Ok(())
    }

    /// What can be seen now; on the mount of these sessions.
    pub fn view(&self, on_mount: &[Session]) -> View {
        let mut view = View::default();
        for (session, dir) in self.sessions.iter().enumerate() {
            let Some(dir) = *dir else { continue };
            let found = self.find(dir);
            let dir = &self.directories[dir];
            let others = dir.files.iter().map(|(name, inode)| (*name, *inode));
            let mut all: Vec<_> = others
                .map(|(name, inode)| (name.to_owned(), self.inodes[inode].clone()))
                .collect();
            if dir.is_locked {
                all.push(("session.next".into(), Bytes::default()));
            }
            let with = |content: Option<Bytes>| {
                let mut all = all.clone();
                all.extend(content.map(|content| ("session".into(), content)));
                all.sort_by(|(a, _), (b, _)| a.cmp(b));
                all
            };
            let shown = match found {
                Found::Nothing => None,
                Found::Empty => Some(Bytes::default()),
                Found::Checkpoint(inode) => Some(self.inodes[inode].clone()),
                Found::Own(handle) => Some(self.content_of(handle)),
            };
            let session_view = SessionView {
                repository: with(dir.checkpoint.map(|inode| self.inodes[inode].clone())),
                mount: on_mount.contains(&session).then(|| with(shown)),
            };
            view.sessions.push((session, session_view));
        }
        if !on_mount.is_empty() {
            let there = |session: &Session| self.is_there(*session);
            view.listed = Some((0..SESSIONS).filter(there).collect());
        }
        for descriptor in (0..DESCRIPTORS).filter(|d| self.is_open(*d)) {
            let size = self.content(descriptor).0.len() as u64;
            view.sizes.push((descriptor, size));
        }
        view
    }
}
