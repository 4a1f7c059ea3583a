//! The requests of the kernel: each is decoded, given to [`Fs`](crate::fs::Fs), and answered.
//!
//! A request runs on the thread that took it, unless it would have to wait:
//! then it runs again on a worker, and the thread takes the next one. A panic
//! answers `EIO` and ends nothing.

mod adapter;
mod buffers;
mod capabilities;
mod data;
mod filesystem;
mod locks;
mod reply;
mod threads;
mod workers;

pub use self::adapter::Adapter;
pub use self::locks::Waiters;
