//! What a worker of the load says of its saves, one line for each, and the numbers
//! of its sessions.

use std::fmt;

use crate::result::Result;

/// What has to be there of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The save of this counter, or a later one; 0 is that it has been made.
    Saved(u64),
    /// Anything whole: it is being removed or renamed.
    Going,
    /// Nothing: that has returned.
    Gone,
    /// Not this save, now or later: it was refused, or its writer killed.
    Refused(u64),
}

/// Before the counter of such a save.
const REFUSED: &str = "refused:";

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Saved(counter) => write!(f, "{counter}"),
            Self::Going => f.write_str("going"),
            Self::Gone => f.write_str("gone"),
            Self::Refused(counter) => write!(f, "{REFUSED}{counter}"),
        }
    }
}

/// What a worker has been told, or has begun.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub session: u64,
    pub state: State,
    /// So much was recorded when it was acknowledged, or a little more.
    pub position: usize,
}

impl Acknowledged {
    pub fn read(line: &str) -> Result<Self> {
        let fields: Vec<_> = line.split(' ').collect();
        let &[session, state, position] = &fields[..] else {
            return Err(format!("not the log of a worker: {line}").into());
        };
        Ok(Self {
            session: session.parse()?,
            state: match state {
                "going" => State::Going,
                "gone" => State::Gone,
                other => match other.strip_prefix(REFUSED) {
                    Some(counter) => State::Refused(counter.parse()?),
                    None => State::Saved(other.parse()?),
                },
            },
            position: position.parse()?,
        })
    }
}

/// What is added to the number of a session that is renamed.
pub const RENAMED: u64 = 500;

/// The number of a session before it was renamed, which is in its contents.
pub fn first_number(session: u64) -> u64 {
    match session % 1000 >= RENAMED {
        true => session - RENAMED,
        false => session,
    }
}

/// The name of a session's directory.
pub fn name(session: u64) -> String {
    format!("{session}.session")
}

/// The worker some of whose saves are the original's. Its sessions have numbers of
/// this thousand.
pub const WITH_ORIGINAL: u64 = 1;

/// Whether a `session.next` that the original has left may be in a session.
pub fn may_be_foreign(session: u64) -> bool {
    session / 1000 == WITH_ORIGINAL
}
