//! How `umount` learns that the process which served a mount has ended, with
//! its last save done: it connects to a socket that the process holds open
//! until then.
//!
//! The socket's name is abstract (unix(7)): it needs no file, and vanishes
//! with the process however that ends.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::table::Entry;

/// How long to wait at the most, for each word and for the end. The mount may live
/// on in another mount namespace, and its process may have been stopped.
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
                asked: Arc::default(),
            };
            let (socket, has_ended) = (shown.socket.clone(), shown.has_ended.clone());
            let asked = shown.asked.clone();
            std::thread::Builder::new()
                .name("presence".into())
                .spawn(move || keep_those_who_wait(&socket, &has_ended, &asked))?;
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

/// Who has asked for the end of this process, or waits for it.
#[derive(Debug, Default)]
struct Asked {
    waiting: Vec<UnixStream>,
    /// The one that has announced an unmount last, in words.
    unmounter: Option<(Instant, String)>,
}

/// What is sent before an unmount.
const UNMOUNTING: u8 = b'u';

/// What is answered when that has been heard.
const HEARD: u8 = b'h';

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it is somebody who may unmount what this process serves. Anybody can
/// connect to an abstract name, and say nothing.
fn may_unmount(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::getuid())
}

/// Who it is, if it announces an unmount.
fn announced(stream: &UnixStream) -> Option<String> {
    let mut said = [0];
    let read = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| (&*stream).read(&mut said));
    if !matches!(read, Ok(1)) || said != [UNMOUNTING] {
        return None;
    }
    let name = "sessionfs umount";
    Some(match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) => {
            let (pid, uid) = (peer.pid, peer.uid.as_raw());
            format!("{name}, process {pid} of user {uid}")
        }
        Err(_) => name.to_owned(),
    })
}

/// Whether it is not closed at its other end.
fn waits(stream: &UnixStream) -> bool {
    let nothing = stream
        .set_nonblocking(true)
        .and_then(|()| (&*stream).read(&mut [0]));
    nothing.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

/// Takes each that connects from the queue, which would be full one day and make
/// the next one wait, and keeps it for as long as it waits, up to a number: one
/// that has room for those who may unmount. Only they are listened to.
fn keep_those_who_wait(socket: &UnixListener, has_ended: &AtomicBool, asked: &Mutex<Asked>) {
    const MOST: usize = 64;
    const MOST_OF_OTHERS: usize = 32;
    for stream in socket.incoming() {
        let Ok(stream) = stream else {
            if has_ended.load(Ordering::Acquire) {
                return;
            }
            // Out of descriptors, say: not in a tight loop.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let (unmounter, most) = match may_unmount(&stream) {
            true => (announced(&stream), MOST),
            false => (None, MOST_OF_OTHERS),
        };
        let mut asked = lock(asked);
        if let Some(unmounter) = unmounter {
            asked.unmounter = Some((Instant::now(), unmounter));
            if let Err(e) = (&stream).write_all(&[HEARD]) {
                log::debug!("an unmount does not hear that it is heard: {e}");
            }
        }
        let waiting = &mut asked.waiting;
        waiting.retain(waits);
        if waiting.len() < most {
            waiting.push(stream);
        }
    }
}

/// That this process serves a mount, until it is dropped.
#[derive(Debug)]
pub(super) struct Shown {
    socket: Arc<UnixListener>,
    has_ended: Arc<AtomicBool>,
    asked: Arc<Mutex<Asked>>,
}

impl Shown {
    /// The `sessionfs umount` that has just announced itself, in words.
    pub(super) fn unmounter(&self) -> Option<String> {
        let asked = lock(&self.asked);
        let (at, unmounter) = asked.unmounter.as_ref()?;
        (at.elapsed() < PATIENCE).then(|| unmounter.clone())
    }
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

    /// Tells it that it is about to be unmounted.
    pub(super) fn announce(&self) {
        let announce = || {
            (&self.0).write_all(&[UNMOUNTING])?;
            self.0.set_read_timeout(Some(PATIENCE))?;
            (&self.0).read_exact(&mut [0])
        };
        // One that does not listen does not say in its log who it was.
        if let Err(e) = announce() {
            log::debug!("the unmount is not announced: {e}");
        }
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

/// Whether it is a mount of this program: by its type, or, if it was given
/// another one, by the process that serves it.
pub(super) fn is_served_by_us(entry: &Entry) -> bool {
    entry.is_ours() || entry.is_fuse() && Watch::of(entry.device).is_some()
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
        assert_eq!(socket.unmounter(), None);
        let watch = Watch::of(DEVICE).unwrap();
        assert_eq!(socket.unmounter(), None);
        watch.announce();
        let unmounter = socket.unmounter().unwrap();
        assert!(
            unmounter.starts_with("sessionfs umount, process "),
            "{unmounter}"
        );
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(socket);
        });
        assert!(watch.wait());
        late.join().unwrap();
    }
}
