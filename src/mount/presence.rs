//! How `umount` learns that the process that served a mount has ended, with its last
//! save done: it connects to a socket that the process keeps open until then.
//!
//! The socket's name is abstract (unix(7)): it needs no file, and vanishes with the
//! process, in whatever way that ends.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::table::Mount;

/// How long to wait at most, for each message and for the end. The mount may live on in
/// another mount namespace, and its process may be stopped.
const PATIENCE: Duration = Duration::from_secs(5);

type Device = (u32, u32);

fn address((major, minor): Device) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("sessionfs/{major}:{minor}"))
}

/// Shows that this process serves the mount with this device number, for as long as the
/// socket is open. Without it, no process can wait for the end.
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
                .spawn(move || keep_waiting_peers(&socket, &has_ended, &asked))?;
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

/// The connections of processes that unmount, or wait for the end of this process.
#[derive(Debug, Default)]
struct Asked {
    waiting: Vec<UnixStream>,
    /// The process that has last announced an unmount, in words, and when.
    unmounter: Option<(Instant, String)>,
}

/// Sent before an unmount.
const UNMOUNTING: u8 = b'u';

/// The answer to it.
const HEARD: u8 = b'h';

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the peer's user may unmount what this process serves. Any process can
/// connect to an abstract name, and send nothing.
fn may_unmount(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::getuid())
}

/// Describes the peer if it announces an unmount.
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

/// Whether the peer has not closed its end.
fn waits(stream: &UnixStream) -> bool {
    let nothing = stream
        .set_nonblocking(true)
        .and_then(|()| (&*stream).read(&mut [0]));
    nothing.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

/// Accepts every connection, because a full queue would make the next one wait, and
/// keeps it for as long as the peer waits. The number is limited, with room reserved for
/// peers that may unmount; only what they send is read.
fn keep_waiting_peers(socket: &UnixListener, has_ended: &AtomicBool, asked: &Mutex<Asked>) {
    const MOST: usize = 64;
    const MOST_OF_OTHERS: usize = 32;
    for stream in socket.incoming() {
        let Ok(stream) = stream else {
            if has_ended.load(Ordering::Acquire) {
                return;
            }
            // For example out of descriptors: do not loop without a pause.
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
                log::debug!("cannot answer an unmount: {e}");
            }
        }
        let waiting = &mut asked.waiting;
        waiting.retain(waits);
        if waiting.len() < most {
            waiting.push(stream);
        }
    }
}

/// Shows that this process serves a mount, until it is dropped.
#[derive(Debug)]
pub(super) struct Shown {
    socket: Arc<UnixListener>,
    has_ended: Arc<AtomicBool>,
    asked: Arc<Mutex<Asked>>,
}

impl Shown {
    /// The `sessionfs umount` that has just announced an unmount, in words.
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
            log::debug!("the end of the mount is seen only when this process ends: {errno}");
        }
    }
}

/// A process whose end can be waited for.
#[derive(Debug)]
pub(super) struct Watch(UnixStream);

impl Watch {
    /// The process that serves a mount, if it can be found. To be called before the
    /// unmount.
    pub(super) fn of(device: Device) -> Option<Self> {
        connect(device).ok().map(Self)
    }

    /// Tells it that its mount is about to be unmounted.
    pub(super) fn announce(&self) {
        let announce = || {
            (&self.0).write_all(&[UNMOUNTING])?;
            self.0.set_read_timeout(Some(PATIENCE))?;
            (&self.0).read_exact(&mut [0])
        };
        // If it does not listen, its log does not name the process that unmounted.
        if let Err(e) = announce() {
            log::debug!("the unmount is not announced: {e}");
        }
    }

    /// Waits for its end for a bounded time; returns whether it has ended.
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

/// Connects without waiting: a stopped process accepts nothing, and once its queue is
/// full, connect(2) would wait for it.
fn connect((major, minor): Device) -> io::Result<UnixStream> {
    let name = format!("sessionfs/{major}:{minor}");
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        // EAGAIN: the queue is full, so a process has the name.
        Ok(()) | Err(Errno::AGAIN) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether it is a mount of this program: by its type, or, if it was given
/// another one, by the process that serves it.
pub(super) fn is_served_by_us(entry: &Mount) -> bool {
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
