//! How `umount` learns that the process which served a mount has ended, with
//! its last save done: it connects to a socket that the process holds open
//! until then, and that nobody ever accepts from.
//!
//! The socket's name is abstract (unix(7)): it needs no file, and vanishes
//! with the process however that ends.

use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

/// How long to wait at the most. The mount may live on in another mount
/// namespace.
const PATIENCE: Duration = Duration::from_secs(5);

type Device = (u32, u32);

fn address((major, minor): Device) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("sessionfs/{major}:{minor}"))
}

/// Shows that this process serves the mount with this device number, for as
/// long as the socket is open. Without it, nobody can wait for the end.
pub(super) fn show(device: Device) -> Option<UnixListener> {
    match address(device).and_then(|address| UnixListener::bind_addr(&address)) {
        Ok(socket) => Some(socket),
        Err(e) => {
            log::debug!("an unmount cannot wait for this process to end: {e}");
            None
        }
    }
}

/// A process to be waited for.
#[derive(Debug)]
pub(super) struct Watch(UnixStream);

impl Watch {
    /// The process that serves a mount, if it can be found. To be called
    /// before the unmount.
    pub(super) fn of(device: Device) -> Option<Self> {
        let stream = address(device).and_then(|address| UnixStream::connect_addr(&address));
        stream.ok().map(Self)
    }

    /// Waits for its end, for a bounded time; answers whether it has ended.
    pub(super) fn wait(mut self) -> bool {
        if self.0.set_read_timeout(Some(PATIENCE)).is_err() {
            return false;
        }
        match self.0.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No device has such a number.
    const DEVICE: Device = (u32::MAX, 7);

    #[test]
    fn the_end_of_a_process_is_seen() {
        assert!(Watch::of(DEVICE).is_none());
        let socket = show(DEVICE).unwrap();
        assert!(show(DEVICE).is_none());
        let watch = Watch::of(DEVICE).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(socket);
        });
        assert!(watch.wait());
        late.join().unwrap();
    }
}
