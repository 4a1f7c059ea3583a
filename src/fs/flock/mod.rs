//! flock(2): of `session` it is a lock of the session, whichever checkpoint a
//! descriptor is of (DESIGN 2.16); of any other file, of that file.
//!
//! The kernel leaves it to us (`FUSE_FLOCK_LOCKS`), and fcntl locks to itself.
//! What it would do (fs/locks.c, Linux 6.18) is done here: a lock belongs to an
//! open file, which is a handle here, with all its duplicates; to ask for the
//! other kind of lock gives the first one up; whoever asks for what is free gets it
//! at once.
//!
//! Two things differ, as a close is more than a close here:
//! - Who unlocks what it has changed and not saved yet keeps the lock until that is
//!   saved, for a bounded time: the next one would not see the change, and would be
//!   refused its own.
//! - RELEASE, which drops the lock, comes after the last close has returned, and on
//!   a thread that may be late. So a request that does not wait is refused only
//!   after the holder has had a moment to be released.
//!
//! Nobody waits on a thread of its own: the answers to those who wait are kept
//! (`queue`), and given by one thread that serves no requests, and waits for
//! nothing else.

pub(in crate::fs) mod ask;
pub(in crate::fs) mod lock;
pub(in crate::fs) mod queue;
