//! The steps of a sequence. Each is complete in itself, so that a sequence with steps
//! left out is still a sequence.

use std::fmt;

/// How many of each there are to choose from.
pub const SESSIONS: usize = 3;
pub const FILES: usize = 2;
pub const DESCRIPTORS: usize = 6;

/// One of the sessions, by number.
pub type Session = usize;
/// A file beside a session's checkpoint, by number.
pub type Name = usize;
/// A descriptor, by number.
pub type Descriptor = usize;

/// One operation. If it has no meaning at this point (a descriptor that is open already,
/// or is not open) it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Through the mount.
    Mkdir(Session),
    Rmdir(Session),
    RenameSession(Session, Session),
    Open(Descriptor, Session, Flags),
    OpenFile(Descriptor, Session, Name, Flags),
    Dup(Descriptor, Descriptor),
    Close(Descriptor),
    Read(Descriptor, usize),
    /// This many equal bytes.
    Write(Descriptor, usize, u8),
    Seek(Descriptor, u64),
    SetLen(Descriptor, u64),
    Sync(Descriptor),
    Truncate(Session, u64),
    Unlink(Session),
    UnlinkFile(Session, Name),
    RenameFile(Session, Name, Session, Name),
    /// A file becomes the checkpoint.
    RenameOnto(Session, Name, Session),
    /// The checkpoint gets the name of a file.
    RenameAway(Session, Session, Name),
    RenameCheckpoint(Session, Session),
    BreakLock(Session),
    /// In the repository, as another program does it.
    DirectSave(Session, usize, u8),
    DirectUnlink(Session),
    ForeignLock(Session),
}

/// Flags of open(2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub i32);

impl Flags {
    pub fn has(self, flag: i32) -> bool {
        self.0 & flag != 0
    }

    pub fn reads(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_WRONLY
    }

    pub fn writes(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// Whether the open is to change the file.
    pub fn changes(self) -> bool {
        self.writes() || self.has(libc::O_TRUNC)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 & libc::O_ACCMODE {
            libc::O_RDONLY => "O_RDONLY",
            libc::O_WRONLY => "O_WRONLY",
            _ => "O_RDWR",
        })?;
        for (flag, name) in [
            (libc::O_CREAT, "O_CREAT"),
            (libc::O_EXCL, "O_EXCL"),
            (libc::O_TRUNC, "O_TRUNC"),
            (libc::O_APPEND, "O_APPEND"),
        ] {
            if self.has(flag) {
                write!(f, "|{name}")?;
            }
        }
        Ok(())
    }
}

/// Bytes, printed as runs: `3*a 1000*b`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn all(len: usize, byte: u8) -> Self {
        Self(vec![byte; len])
    }

    /// As pwrite(2) of `len` bytes leaves it.
    pub fn write(&mut self, at: usize, len: usize, byte: u8) {
        if self.0.len() < at + len {
            self.0.resize(at + len, 0);
        }
        self.0[at..at + len].fill(byte);
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs: Vec<_> = self
            .0
            .chunk_by(|a, b| a == b)
            .map(|run| format!("{}*{}", run.len(), run[0].escape_ascii()))
            .collect();
        write!(f, "[{}]", runs.join(" "))
    }
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The step had no meaning.
    Skipped,
    Done,
    Read(Bytes),
    Failed(Errno),
}

/// An error, printed by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

/// What can be seen after a step.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Of each session that is there.
    pub sessions: Vec<(Session, SessionView)>,
    /// The sessions that the root of the mount lists.
    pub listed: Option<Vec<Session>>,
    /// fstat(2) of each descriptor that is open: the size.
    pub sizes: Vec<(Descriptor, u64)>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (session, view) in &self.sessions {
            write!(
                f,
                "\n    session {session}: in the repository {:?}",
                view.repository
            )?;
            if let Some(mount) = &view.mount {
                write!(f, ", on the mount {mount:?}")?;
            }
        }
        if let Some(listed) = &self.listed {
            write!(f, "\n    sessions that are listed: {listed:?}")?;
        }
        write!(f, "\n    descriptors and their sizes: {:?}", self.sizes)
    }
}

/// What can be seen of a session.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SessionView {
    /// Names and contents in the repository, sorted.
    pub repository: Vec<(String, Bytes)>,
    /// The same on the mount, if that was looked at.
    pub mount: Option<Vec<(String, Bytes)>>,
}
