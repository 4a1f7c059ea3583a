//! Mounting and unmounting through `fusermount3`, for users who are not root.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::error::{Error, Result, Unmount};
use super::kernel;
use super::options::MountOptions;

/// The helper, setuid root, of the package fuse3.
const HELPER: &str = "fusermount3";

/// The environment variable with the number of the socket's descriptor, over which
/// the helper sends the connection.
const SOCKET: &str = "_FUSE_COMMFD";

const NOT_INSTALLED: &str = "fusermount3 is not installed (apt install fuse3)";

/// Mounts, and returns the connection to the kernel.
pub(super) fn mount(
    repository: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<OwnedFd> {
    let cannot = |reason: String| Error::cannot_mount(mountpoint, reason);
    if !Path::new(kernel::DEVICE).exists() {
        return Err(cannot(kernel::NO_DEVICE.into()));
    }
    let (ours, theirs) = UnixStream::pair().map_err(|e| cannot(e.to_string()))?;
    // Passed as standard input, the socket is not inherited by any other program.
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(options.for_helper(repository))
        .arg("--")
        .arg(mountpoint)
        .env(SOCKET, "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| cannot(not_started(&e)))?;
    let received = receive(&ours);
    if options.auto_unmount
        && let Ok(Some(device)) = received
    {
        // The helper keeps running, and unmounts when the socket is closed: when this
        // process ends in whatever way.
        let _ = ours.into_raw_fd();
        return Ok(device);
    }
    drop(ours);
    let output = child
        .wait_with_output()
        .map_err(|e| cannot(format!("{HELPER}: {e}")))?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Ok(_) => Err(cannot(said(&output))),
        Err(e) => Err(cannot(format!("{HELPER}: {e}"))),
    }
}

/// Unmounts a FUSE filesystem of this user.
pub(super) fn unmount(mountpoint: &Path, lazily: bool) -> std::result::Result<(), Unmount> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if lazily {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Unmount::Failed(not_started(&e)))?;
    if output.status.success() {
        return Ok(());
    }
    let busy = io::Error::from(Errno::BUSY).to_string();
    let busy = busy.split(" (").next().unwrap_or_default();
    let said = said(&output);
    Err(if said.contains(busy) {
        Unmount::Busy
    } else {
        Unmount::Failed(said)
    })
}

/// The descriptor that the helper sends; `None` if it ends without sending one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = loop {
        let mut data = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut data, &mut control, flags) {
            // ECONNRESET: it ended.
            Err(Errno::CONNRESET) => return Ok(None),
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor
        .map(Some)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor in its message"))
}

fn not_started(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => NOT_INSTALLED.into(),
        _ => format!("{HELPER} cannot be started: {error}"),
    }
}

/// The helper's complaint, in one line.
pub(super) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match &lines[..] {
        [] => format!("{HELPER} failed ({})", output.status),
        lines => lines.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_descriptor_is_no_panic() {
        use std::io::Write;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        assert!(receive(&ours).is_err());
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }
}
