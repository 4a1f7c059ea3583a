//! How `umount` learns that the process which served a mount has ended, with
//! its last save done: it connects to a socket that the process holds open
//! until then.
//!
//! The socket's name is abstract (unix(7)): it needs no file, and vanishes
//! with the process however that ends.

use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How long to wait at the most. The mount may live on in another mount
/// namespace.
const PATIENCE: Duration = Duration::from_secs(5);

type Device = (u32, u32);

fn address((major, minor): Device) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("sessionfs/{major}:{minor}"))
}

/// Shows that this process serves the mount with this device number, for as
/// long as the socket is open. Without it, nobody can wait for the end.
pub(super) fn show(device: Device) -> Option<Shown> {
    let shown = address(device)
        .and_then(|address| UnixListener::bind_addr(&address))
        .and_then(|socket| {
            let shown = Shown {
                socket: Arc::new(socket),
                has_ended: Arc::default(),
            };
            let (socket, has_ended) = (shown.socket.clone(), shown.has_ended.clone());
            std::thread::Builder::new()
                .name("presence".into())
                .spawn(move || keep_those_who_wait(&socket, &has_ended))?;
            Ok(shown)
        });
    match shown {
        Ok(shown) => Some(shown),
        Err(e) => {
            log::debug!("an unmount cannot wait for this process to end: {e}");
            None
        }
    }
}

/// Takes who connects from the queue, which would be full one day and make the
/// next one wait, and keeps him for as long as he waits, up to a number.
fn keep_those_who_wait(socket: &UnixListener, has_ended: &AtomicBool) {
    const MOST: usize = 64;
    let mut waiting: Vec<UnixStream> = Vec::new();
    for stream in socket.incoming() {
        let Ok(stream) = stream else {
            if has_ended.load(Ordering::Acquire) {
                return;
            }
            // Out of descriptors, say: not in a tight loop.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let waits = |stream: &UnixStream| {
            let nothing = stream
                .set_nonblocking(true)
                .and_then(|()| (&*stream).read(&mut [0]));
            nothing.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
        };
        waiting.retain(waits);
        if waiting.len() < MOST {
            waiting.push(stream);
        }
    }
}

/// That this process serves a mount, until it is dropped.
#[derive(Debug)]
pub(super) struct Shown {
    socket: Arc<UnixListener>,
    has_ended: Arc<AtomicBool>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Release);
        // Makes the thread's accept(2) fail.
        if let Err(errno) = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both) {
            log::debug!("the end is seen at the end of this process only: {errno}");
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
        connect(device).ok().map(Self)
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

/// Without waiting: a process that has been stopped takes nobody from its queue,
/// and when that is full, connect(2) would wait for it.
fn connect((major, minor): Device) -> io::Result<UnixStream> {
    let name = format!("sessionfs/{major}:{minor}");
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        // Somebody has the name, and that is what was asked.
        Ok(()) | Err(Errno::AGAIN) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
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
