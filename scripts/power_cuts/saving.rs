//! How files are written and saved, by a writer of the mount or in the repository.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::attributes::{self, Owner};
use crate::content::{Contents, Label};

/// A name in a session beside the checkpoint, for what is renamed to it.
pub const BESIDE: &str = "beside";

/// A save by a file that is open for writing. It writes in two parts, and between
/// them sets attributes, if its label says so.
pub struct Save<'a> {
    file: File,
    contents: &'a Contents,
    label: Label,
    /// It changes a content into another one with the same noise: most of it is only
    /// copied.
    is_edit: bool,
}

impl<'a> Save<'a> {
    pub fn truncate(path: &Path, contents: &'a Contents, label: Label) -> io::Result<Self> {
        Ok(Self {
            file: File::create(path)?,
            contents,
            label,
            is_edit: false,
        })
    }

    pub fn edit(path: &Path, contents: &'a Contents, label: Label) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        Ok(Self {
            file: options.read(true).write(true).open(path)?,
            contents,
            label,
            is_edit: true,
        })
    }

    /// Saves as an edit of whichever content it has been opened with.
    pub fn save_what_is_there(mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let counter = self.label.counter;
        self.file.read_to_end(&mut bytes)?;
        let there = self.contents.read(&bytes).map_err(io::Error::other)?;
        self.label = Label { counter, ..there };
        self.save()
    }

    /// Goes on to another content, in the same file.
    pub fn go_on(&mut self, label: Label) -> io::Result<()> {
        self.label = label;
        self.is_edit = false;
        self.file.set_len(0)
    }

    /// Up to the middle.
    pub fn begin(&self) -> io::Result<()> {
        let bytes = self.contents.make(self.label);
        let len = match self.is_edit {
            true => Contents::head(self.label).len(),
            false => bytes.len() / 2,
        };
        self.file.write_all_at(&bytes[..len], 0)?;
        attributes::set(&self.file, self.label)
    }

    pub fn finish(&self) -> io::Result<()> {
        let bytes = self.contents.make(self.label);
        let at = match self.is_edit {
            true => Contents::tail_at(self.label) as usize,
            false => bytes.len() / 2,
        };
        self.file.write_all_at(&bytes[at..], at as u64)?;
        attributes::set_time(&self.file, self.label)
    }

    /// Makes it a save point.
    pub fn sync(&self) -> io::Result<()> {
        self.begin()?;
        self.finish()?;
        self.file.sync_all()
    }

    pub fn close(self) -> io::Result<()> {
        close(self.file)
    }

    /// All of it. The first error ends it: what it has written until then is nothing
    /// whole, and must not be published by going on.
    pub fn save(self) -> io::Result<()> {
        let written = self.begin().and_then(|()| self.finish());
        let closed = self.close();
        written.and(closed)
    }
}

/// Replaces the checkpoint in the repository itself, durably. With the name
/// `session.next` it does what the original does.
pub fn replace_directly(
    directory: &Path,
    name: &str,
    (contents, label): (&Contents, Label),
) -> io::Result<()> {
    let next = directory.join(name);
    if next.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let save = Save::truncate(&next, contents, label)?;
    save.sync()?;
    save.close()?;
    fs::rename(&next, directory.join("session"))?;
    File::open(directory)?.sync_all()
}

/// Calls it as a thread of this user, in no other group.
pub fn acting_as<T: Send>(
    (uid, gid): Owner,
    call: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if (uid, gid) == (0, 0) {
        return call();
    }
    let become_user = || {
        set_thread_groups(&[])?;
        let gid = Gid::from_raw(gid);
        set_thread_res_gid(gid, gid, gid)?;
        let uid = Uid::from_raw(uid);
        set_thread_res_uid(uid, uid, uid)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user()?;
            call()
        });
        let panicked = |_| io::Error::other("a thread panicked");
        thread.join().map_err(panicked)?
    })
}

/// Closes a file and tells what close(2) says, which dropping it does not.
#[allow(unsafe_code, reason = "the standard library ignores the error")]
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is not owned by anything else any more.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
