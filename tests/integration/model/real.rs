//! The same steps, done on a mount.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::reference::FILE_NAMES;
use super::step::{
    Bytes, DESCRIPTORS, Errno, Flags, Outcome, SESSIONS, Session, SessionView, Step, View,
};
use crate::common::Mount;
use crate::common::tools::close;

/// The sessions of a mount that only this run uses, and what it has open.
pub struct Real<'a> {
    mount: &'a Mount,
    prefix: String,
    descriptors: [Option<File>; DESCRIPTORS],
}

impl<'a> Real<'a> {
    pub fn new(mount: &'a Mount) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            mount,
            prefix: format!("run-{number}-"),
            descriptors: Default::default(),
        }
    }

    fn name(&self, session: Session) -> String {
        format!("{}{session}.session", self.prefix)
    }

    fn on_mount(&self, session: Session) -> PathBuf {
        self.mount.mountpoint.join(self.name(session))
    }

    fn in_repository(&self, session: Session) -> PathBuf {
        self.mount.repository.join(self.name(session))
    }

    fn checkpoint(&self, session: Session) -> PathBuf {
        self.on_mount(session).join("session")
    }

    fn file(&self, session: Session, name: usize) -> PathBuf {
        self.on_mount(session).join(FILE_NAMES[name])
    }

    /// Does a step.
    pub fn run(&mut self, step: Step) -> Outcome {
        match self.try_to(step) {
            Ok(outcome) => outcome,
            Err(e) => {
                let errno = e.raw_os_error().expect("a system call failed");
                // Both are correct (rename(2)): ext4 returns one, xfs the other.
                let is_in_the_way =
                    errno == libc::EEXIST && matches!(step, Step::RenameSession(..));
                let errno = if is_in_the_way {
                    libc::ENOTEMPTY
                } else {
                    errno
                };
                Outcome::Failed(Errno(errno))
            }
        }
    }

    fn try_to(&mut self, step: Step) -> io::Result<Outcome> {
        let done = match step {
            Step::Mkdir(s) => fs::create_dir(self.on_mount(s)),
            Step::Rmdir(s) => fs::remove_dir(self.on_mount(s)),
            Step::RenameSession(from, to) => fs::rename(self.on_mount(from), self.on_mount(to)),
            Step::Open(d, s, flags) if self.descriptors[d].is_none() => {
                self.descriptors[d] = Some(open(&self.checkpoint(s), flags)?);
                Ok(())
            }
            Step::OpenFile(d, s, name, flags) if self.descriptors[d].is_none() => {
                self.descriptors[d] = Some(open(&self.file(s, name), flags)?);
                Ok(())
            }
            Step::Open(..) | Step::OpenFile(..) => return Ok(Outcome::Skipped),
            Step::Truncate(s, len) => truncate(&self.checkpoint(s), len),
            Step::Unlink(s) => fs::remove_file(self.checkpoint(s)),
            Step::UnlinkFile(s, name) => fs::remove_file(self.file(s, name)),
            Step::RenameFile(s, name, t, other) => {
                fs::rename(self.file(s, name), self.file(t, other))
            }
            Step::RenameOnto(s, name, t) => fs::rename(self.file(s, name), self.checkpoint(t)),
            Step::RenameAway(s, t, name) => fs::rename(self.checkpoint(s), self.file(t, name)),
            Step::RenameCheckpoint(s, t) => fs::rename(self.checkpoint(s), self.checkpoint(t)),
            Step::BreakLock(s) => fs::remove_file(self.on_mount(s).join("session.next")),
            Step::DirectSave(s, len, byte) => {
                let dir = self.in_repository(s);
                let next = dir.join("session.next");
                File::create_new(&next)?.write_all(&vec![byte; len])?;
                fs::rename(next, dir.join("session"))
            }
            Step::DirectUnlink(s) => fs::remove_file(self.in_repository(s).join("session")),
            Step::ForeignLock(s) => {
                File::create_new(self.in_repository(s).join("session.next")).map(drop)
            }
            Step::Dup(from, to) => {
                if self.descriptors[to].is_some() {
                    return Ok(Outcome::Skipped);
                }
                let Some(file) = &self.descriptors[from] else {
                    return Ok(Outcome::Skipped);
                };
                self.descriptors[to] = Some(file.try_clone()?);
                Ok(())
            }
            Step::Close(d) => match self.descriptors[d].take() {
                Some(file) => close(file),
                None => return Ok(Outcome::Skipped),
            },
            Step::Read(d, _)
            | Step::Write(d, ..)
            | Step::Seek(d, _)
            | Step::SetLen(d, _)
            | Step::Sync(d) => {
                let Some(file) = &mut self.descriptors[d] else {
                    return Ok(Outcome::Skipped);
                };
                return on_descriptor(step, file);
            }
        };
        done.map(|()| Outcome::Done)
    }

    /// What can be seen now; on the mount of these sessions.
    pub fn view(&self, on_mount: &[Session]) -> io::Result<View> {
        let mut view = View::default();
        for session in 0..SESSIONS {
            let repository = match contents(&self.in_repository(session)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let mount = (on_mount.contains(&session))
                .then(|| contents(&self.on_mount(session)))
                .transpose()?;
            view.sessions
                .push((session, SessionView { repository, mount }));
        }
        if !on_mount.is_empty() {
            let mut listed = Vec::new();
            for entry in fs::read_dir(&self.mount.mountpoint)? {
                let name = entry?.file_name();
                listed.extend((0..SESSIONS).filter(|session| name == *self.name(*session)));
            }
            listed.sort_unstable();
            view.listed = Some(listed);
        }
        for (descriptor, file) in self.descriptors.iter().enumerate() {
            if let Some(file) = file {
                view.sizes.push((descriptor, file.metadata()?.len()));
            }
        }
        Ok(view)
    }
}

impl Drop for Real<'_> {
    fn drop(&mut self) {
        for file in self.descriptors.iter_mut().filter_map(Option::take) {
            // Their errors have been compared, or do not matter any more.
            let _ = close(file);
        }
        for session in 0..SESSIONS {
            match fs::remove_dir_all(self.in_repository(session)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => eprintln!("clean up: {e}"),
                _ => {}
            }
        }
    }
}

fn open(path: &Path, flags: Flags) -> io::Result<File> {
    let flags = rustix::fs::OFlags::from_bits_retain(flags.0.cast_unsigned());
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let fd = rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, mode)?;
    Ok(fd.into())
}

/// truncate(2), which neither the standard library nor rustix has.
#[allow(unsafe_code, reason = "a call of the C library")]
fn truncate(path: &Path, len: u64) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that ends with a NUL.
    match unsafe { libc::truncate(path.as_ptr(), len.cast_signed()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn on_descriptor(step: Step, file: &mut File) -> io::Result<Outcome> {
    match step {
        Step::Read(_, len) => {
            let mut bytes = vec![0; len];
            let mut filled = 0;
            while filled < len {
                match file.read(&mut bytes[filled..])? {
                    0 => break,
                    read => filled += read,
                }
            }
            bytes.truncate(filled);
            return Ok(Outcome::Read(Bytes(bytes)));
        }
        Step::Write(_, len, byte) => file.write_all(&vec![byte; len])?,
        Step::Seek(_, at) => {
            file.seek(SeekFrom::Start(at))?;
        }
        Step::SetLen(_, len) => file.set_len(len)?,
        Step::Sync(_) => file.sync_all()?,
        _ => unreachable!("{step:?} is none of a descriptor"),
    }
    Ok(Outcome::Done)
}

/// Names and contents of a directory, sorted.
fn contents(dir: &Path) -> io::Result<Vec<(String, Bytes)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let content = fs::read(dir.join(&name))?;
        all.push((name.to_string_lossy().into_owned(), Bytes(content)));
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}
