//! Random steps, the same for the same seed.

use super::reference::Model;
use super::step::{DESCRIPTORS, FILES, Flags, SESSIONS, Step};
use crate::common::random::{Random as Numbers, any_seed};

/// The value that asks for a random seed.
pub const SEED: &str = "SESSIONFS_MODEL_SEED";

/// The source of random steps.
pub struct Random(Numbers);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Numbers::new(seed))
    }

    /// The seed in the environment, or a random one.
    pub fn seed() -> u64 {
        match std::env::var(SEED) {
            Ok(seed) => seed.parse().expect("a seed is a number"),
            Err(_) => any_seed(),
        }
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0.below(limit as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn session(&mut self) -> usize {
        // One session more often than the others, so that the steps meet there.
        self.below(SESSIONS + 2).saturating_sub(2)
    }

    fn name(&mut self) -> usize {
        self.below(FILES)
    }

    fn byte(&mut self) -> u8 {
        b'a' + self.below(26) as u8
    }

    /// Normally short; a long one is copied by another thread of the daemon.
    fn len(&mut self) -> usize {
        if self.one_in(40) {
            70_000
        } else {
            self.below(20)
        }
    }

    fn flags(&mut self) -> Flags {
        const WAYS: &[i32] = &[
            libc::O_RDONLY,
            libc::O_RDONLY,
            libc::O_RDONLY | libc::O_TRUNC,
            libc::O_RDONLY | libc::O_CREAT,
            libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
            libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
            libc::O_WRONLY | libc::O_TRUNC,
            libc::O_WRONLY,
            libc::O_WRONLY | libc::O_APPEND,
            libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
            libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL,
            libc::O_RDWR,
            libc::O_RDWR | libc::O_CREAT,
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC,
            libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND,
        ];
        Flags(WAYS[self.below(WAYS.len())])
    }

    /// The next step; mostly one that has an effect in the present state.
    pub fn step(&mut self, model: &Model) -> Step {
        loop {
            let step = self.any_step(model);
            if !model.waits_for_lock(step) || self.one_in(30) {
                return step;
            }
        }
    }

    fn any_step(&mut self, model: &Model) -> Step {
        let session = self.session();
        if !model.is_there(session) && !self.one_in(8) {
            return Step::Mkdir(session);
        }
        let descriptor = self.below(DESCRIPTORS);
        let is_open = model.is_open(descriptor);
        match self.below(100) {
            0..55 if !is_open && self.one_in(5) => {
                Step::OpenFile(descriptor, session, self.name(), self.flags())
            }
            0..55 if !is_open => Step::Open(descriptor, session, self.flags()),
            0..12 => Step::Close(descriptor),
            12..22 => Step::Read(descriptor, self.len().max(1)),
            22..40 => Step::Write(descriptor, self.len().max(1), self.byte()),
            40..44 => Step::Seek(descriptor, self.below(30) as u64),
            44..48 => Step::SetLen(descriptor, self.below(3) as u64 * 5),
            48..52 => Step::Sync(descriptor),
            52..55 => Step::Dup(descriptor, self.below(DESCRIPTORS)),
            55..59 => Step::Truncate(session, self.below(3) as u64 * 5),
            59..64 => Step::Unlink(session),
            64..66 => Step::UnlinkFile(session, self.name()),
            66..69 => Step::RenameFile(session, self.name(), self.session(), self.name()),
            69..75 => Step::RenameOnto(session, self.name(), self.session()),
            75..78 => Step::RenameAway(session, self.session(), self.name()),
            78..80 => Step::RenameCheckpoint(session, self.session()),
            80..83 => Step::ForeignLock(session),
            83..88 => Step::BreakLock(session),
            88..93 => Step::DirectSave(session, self.len(), self.byte()),
            93..94 => Step::DirectUnlink(session),
            94..96 => Step::Mkdir(session),
            96..98 => Step::Rmdir(session),
            _ => Step::RenameSession(session, self.session()),
        }
    }
}
