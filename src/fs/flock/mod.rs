//! flock(2): of `session` it is a lock of the session, whichever checkpoint a descriptor
//! is of (DESIGN 2.16); of any other file, a lock of that file.
//!
//! The kernel leaves flock to us (`FUSE_FLOCK_LOCKS`), and does fcntl locks itself. The
//! rules of the kernel's flock hold here (fs/locks.c, Linux 6.18): a lock belongs to an
//! open file, which is a handle here, with all its duplicates; a request for the other
//! kind of lock first gives the present one up; a free lock is granted at once.
//!
//! Two things differ, because a close means more here:
//!
//! - A handle that unlocks while it has unsaved changes keeps the lock until they are
//!   saved, for a limited time. Otherwise the next one would not see the change, and its
//!   own save would be refused.
//! - RELEASE, which drops the lock, comes after the last close(2) has returned, and may
//!   be handled late. So a `LOCK_NB` request is refused only after the lock's owner has
//!   had a moment to be released.
//!
//! No thread is blocked by a waiting request. Its answer is kept (`queue`), and given by
//! one thread that serves no requests and waits for nothing else.

pub(in crate::fs) mod ask;
pub(in crate::fs) mod lock;
pub(in crate::fs) mod queue;
