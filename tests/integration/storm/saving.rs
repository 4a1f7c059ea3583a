//! Ways of saving a checkpoint, each as one function: it saves the whole content or
//! fails. If it fails, it uses the files it has left beside `session` at the next try.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::content::Content;
use super::mapping::write_mapped;
use crate::common::random::Random;
use crate::common::tools::{close, open_rw};

/// The arguments of a way of saving.
pub struct Save<'a> {
    /// The session's directory on the mount, with [`ELSEWHERE`] in it.
    pub directory: &'a Path,
    /// A prefix for names that only this thread uses.
    pub own: &'a str,
    pub content: &'a Content,
    pub random: &'a mut Random,
}

/// A way of saving.
#[derive(Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    save: fn(&mut Save<'_>) -> io::Result<()>,
    /// It starts from the current checkpoint, and may find that it has been replaced
    /// (DESIGN 2.9).
    may_be_stale: bool,
}

const fn replacing(name: &'static str, save: fn(&mut Save<'_>) -> io::Result<()>) -> Way {
    Way {
        name,
        save,
        may_be_stale: false,
    }
}

const fn continuing(name: &'static str, save: fn(&mut Save<'_>) -> io::Result<()>) -> Way {
    Way {
        name,
        save,
        may_be_stale: true,
    }
}

pub const WAYS: &[Way] = &[
    replacing("truncate, write", truncate),
    replacing("truncate, write through a duplicate", duplicate),
    continuing("read, modify, write", read_modify_write),
    replacing("temporary file beside, fsync, rename", rename_beside),
    replacing("temporary file elsewhere, rename", rename_elsewhere),
    continuing("shared mapping", mapping),
    continuing("pwrite in any order, ftruncate", scattered),
    continuing("save points", save_points),
    replacing("copy_file_range", copied),
    replacing("sendfile", sent),
    replacing("session.next, rename, fsync of directory", session_next),
    replacing("RENAME_EXCHANGE, unlink", exchanged),
    replacing("unlink, create", remove_and_make),
];

/// A directory of the session for files that are not saved yet.
pub const ELSEWHERE: &str = "elsewhere";

impl Way {
    /// Saves once; `false` if another one was faster.
    pub fn save(&self, save: &mut Save<'_>) -> bool {
        match (self.save)(save) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::ResourceBusy => false,
            Err(e) if e.kind() == ErrorKind::StaleNetworkFileHandle && self.may_be_stale => false,
            Err(e) => panic!("{}: {e}", self.name),
        }
    }
}

impl Save<'_> {
    fn session(&self) -> PathBuf {
        self.directory.join("session")
    }

    fn any(&mut self) -> Vec<u8> {
        self.content.any(self.random)
    }
}

fn truncate(save: &mut Save<'_>) -> io::Result<()> {
    let file = File::create(save.session())?;
    save_through(save, file)
}

/// As shells do it: the descriptor that was opened is closed before anything is written.
fn duplicate(save: &mut Save<'_>) -> io::Result<()> {
    let opened = File::create(save.session())?;
    let writer = opened.try_clone()?;
    close(opened)?;
    save_through(save, writer)
}

/// Writes in pieces, now and then with a save point before the close.
fn save_through(save: &mut Save<'_>, mut writer: File) -> io::Result<()> {
    let bytes = save.any();
    let piece = 1 + save.random.below(bytes.len() as u64) as usize;
    for piece in bytes.chunks(piece.max(bytes.len() / 8)) {
        writer.write_all(piece)?;
    }
    assert_eq!(writer.metadata()?.len(), bytes.len() as u64);
    if save.random.below(4) == 0 {
        writer.sync_all()?;
    }
    close(writer)
}

fn read_modify_write(save: &mut Save<'_>) -> io::Result<()> {
    let mut file = open_rw(save.session())?;
    let mut old = Vec::new();
    file.read_to_end(&mut old)?;
    save.content.check(&old);
    let seed = old
        .iter()
        .rev()
        .take(8)
        .fold(1, |seed, byte| seed << 8 ^ u64::from(*byte));
    let bytes = save.content.of(seed, 1 + old.len() % (1 << 20));
    file.write_all_at(&bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    assert_eq!(file.metadata()?.len(), bytes.len() as u64);
    close(file)
}

fn rename_beside(save: &mut Save<'_>) -> io::Result<()> {
    let new = save.directory.join(format!(".{}.tmp", save.own));
    let mut file = File::create(&new)?;
    file.write_all(&save.any())?;
    file.sync_all()?;
    close(file)?;
    fs::rename(new, save.session())
}

fn rename_elsewhere(save: &mut Save<'_>) -> io::Result<()> {
    let new = save.directory.join(ELSEWHERE).join(save.own);
    fs::write(&new, save.any())?;
    fs::rename(new, save.session())
}

fn mapping(save: &mut Save<'_>) -> io::Result<()> {
    let bytes = save.any();
    let file = open_rw(save.session())?;
    // The first change: if the writer is refused, it gets an error here, and not a signal
    // at a page of the mapping.
    file.set_len(0)?;
    file.set_len(bytes.len() as u64)?;
    write_mapped(&file, &bytes)?;
    close(file)
}

fn scattered(save: &mut Save<'_>) -> io::Result<()> {
    let bytes = save.any();
    let file = File::options().write(true).open(save.session())?;
    let size = bytes.len().div_ceil(5);
    let mut pieces: Vec<_> = bytes.chunks(size).enumerate().collect();
    while !pieces.is_empty() {
        let (number, piece) = pieces.swap_remove(save.random.below(pieces.len() as u64) as usize);
        file.write_all_at(piece, (number * size) as u64)?;
    }
    file.set_len(bytes.len() as u64)?;
    close(file)
}

/// Several checkpoints through one descriptor, each of them whole.
fn save_points(save: &mut Save<'_>) -> io::Result<()> {
    let file = File::create(save.session())?;
    for point in 0..3 {
        let bytes = save.any();
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        match point {
            0 => file.sync_all()?,
            _ => file.sync_data()?,
        }
    }
    close(file)
}

fn copied(save: &mut Save<'_>) -> io::Result<()> {
    from_another_file(save, |from, to| {
        rustix::fs::copy_file_range(from, None, to, None, 1 << 20)
    })
}

fn sent(save: &mut Save<'_>) -> io::Result<()> {
    from_another_file(save, |from, to| {
        rustix::fs::sendfile(to, from, None, 1 << 20)
    })
}

/// The kernel is asked to copy until there is nothing left.
fn from_another_file(
    save: &mut Save<'_>,
    copy: impl Fn(&File, &File) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    let source = save.directory.join(format!("{}.source", save.own));
    let bytes = save.any();
    fs::write(&source, &bytes)?;
    let (from, to) = (File::open(&source)?, File::create(save.session())?);
    while copy(&from, &to)? > 0 {}
    assert_eq!(to.metadata()?.len(), bytes.len() as u64);
    close(to)?;
    fs::remove_file(source)
}

/// The old checkpoint gets the name of the temporary file.
fn exchanged(save: &mut Save<'_>) -> io::Result<()> {
    let new = save.directory.join(format!("{}.exchanged", save.own));
    fs::write(&new, save.any())?;
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        &new,
        rustix::fs::CWD,
        save.session(),
        exchange,
    )?;
    save.content.check(&fs::read(&new)?);
    fs::remove_file(new)
}

/// What the original does in the repository itself.
fn session_next(save: &mut Save<'_>) -> io::Result<()> {
    let next = save.directory.join("session.next");
    let mut file = match File::create_new(&next) {
        // Another one has the lock.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            return Err(ErrorKind::ResourceBusy.into());
        }
        file => file?,
    };
    let saved = (file.write_all(&save.any()))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&next, save.session()));
    if saved.is_err() {
        fs::remove_file(&next)?;
    }
    saved?;
    File::open(save.directory)?.sync_all()
}

/// By a process of its own: the process that has removed it does not see it any more.
fn remove_and_make(save: &mut Save<'_>) -> io::Result<()> {
    let source = save.directory.join(format!("{}.new", save.own));
    fs::write(&source, save.any())?;
    let output = Command::new("cp")
        .arg("--remove-destination")
        .args([&source, &save.session()])
        .env("LC_ALL", "C")
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => fs::remove_file(source),
        // Or another one has made it anew between the two steps, as on any filesystem.
        false
            if complaint.contains("Device or resource busy")
                || complaint.contains("File exists")
                // It began where there was none, and another one was saved
                // before it was (DESIGN 2.9).
                || complaint.contains("Stale file handle") =>
        {
            Err(ErrorKind::ResourceBusy.into())
        }
        false => Err(io::Error::other(complaint.into_owned())),
    }
}
