//! Tells the tests what a system call has changed, for a model of the disk that
//! knows what a power cut leaves of it.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

/// What a call that succeeded has changed. What is there now the listener asks
/// the kernel, before anything else changes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests listen"))]
pub enum Change<'a> {
    /// A file without a name has been made.
    Unnamed(BorrowedFd<'a>),
    /// Something new has been made under a name, unless it was there already.
    Created(BorrowedFd<'a>, &'a OsStr),
    /// A name has been given to a file that was there.
    Linked(BorrowedFd<'a>, &'a OsStr),
    /// A name has been taken away.
    Removed(BorrowedFd<'a>, &'a OsStr),
    /// A name has been moved.
    Renamed {
        /// The directory and the name that it had.
        from: (BorrowedFd<'a>, &'a OsStr),
        /// The directory and the name that it has.
        to: (BorrowedFd<'a>, &'a OsStr),
        /// What had the name now has the other one.
        exchange: bool,
    },
    /// Content, size or attributes of a file.
    Inode(BorrowedFd<'a>),
    /// Nothing: but what has been changed of this file is durable now.
    Synced(BorrowedFd<'a>),
}

pub(super) fn note<'a>(change: impl FnOnce() -> Change<'a>) {
    #[cfg(test)]
    listener::tell(change);
    #[cfg(not(test))]
    let _ = change;
}

#[cfg(test)]
pub use listener::with;

#[cfg(test)]
mod listener {
    use std::cell::RefCell;

    use super::Change;

    /// Is told of every change that this thread makes. It may look, with calls
    /// of its own, and is not told of those.
    pub type Listener = Box<dyn FnMut(Change<'_>)>;

    thread_local! {
        static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
    }

    /// Runs `f` with every change told to `listener`.
    pub fn with<T>(listener: Listener, f: impl FnOnce() -> T) -> T {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                LISTENER.take();
            }
        }
        LISTENER.set(Some(listener));
        let _restore = Restore;
        f()
    }

    pub fn tell<'a>(change: impl FnOnce() -> Change<'a>) {
        if let Some(mut listener) = LISTENER.take() {
            listener(change());
            LISTENER.set(Some(listener));
        }
    }
}
