//! Reports the changes made by system calls to the tests, for a model of the disk that
//! knows what a power cut leaves.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

/// What a successful call has changed. The listener asks the kernel for the result,
/// before anything else changes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests listen"))]
pub enum Change<'a> {
    /// A file without a name has been made.
    Unnamed(BorrowedFd<'a>),
    /// A file or directory has been made under a name, unless it existed already.
    Created(BorrowedFd<'a>, &'a OsStr),
    /// An existing file has got a further name.
    Linked(BorrowedFd<'a>, &'a OsStr),
    /// A name has been removed.
    Removed(BorrowedFd<'a>, &'a OsStr),
    /// A name has been moved.
    Renamed {
        /// The old directory and name.
        from: (BorrowedFd<'a>, &'a OsStr),
        /// The new directory and name.
        to: (BorrowedFd<'a>, &'a OsStr),
        /// Whether the file that had the new name has got the old one.
        exchange: bool,
    },
    /// Content, size or attributes of a file.
    Inode(BorrowedFd<'a>),
    /// Nothing, but all changes of this file are durable now.
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

    /// Gets every change that this thread makes, except those that the listener makes
    /// itself.
    pub type Listener = Box<dyn FnMut(Change<'_>)>;

    thread_local! {
        static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
    }

    /// Runs `f`, and reports every change to `listener`.
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
