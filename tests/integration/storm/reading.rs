//! Ways of reading a checkpoint, each as one function: it reads all of it, and asks for
//! its size meanwhile.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::mapping::{read_buffered, read_mapped};
use crate::common::random::Random;

/// The arguments of a way of reading.
pub struct Look<'a> {
    /// The session's directory on the mount.
    pub directory: &'a Path,
    /// A prefix for names that only this thread uses.
    pub own: &'a str,
    pub random: &'a mut Random,
}

/// A way of reading: its name, and how it is done.
pub type Way = (&'static str, fn(&mut Look<'_>) -> io::Result<Vec<u8>>);

/// All ways.
pub const WAYS: &[Way] = &[
    ("read", read),
    ("pread in any order", scattered),
    ("shared mapping", mapping),
    ("sendfile", sent),
    ("copy_file_range", copied),
    ("O_DIRECT", direct),
    ("opened again through /proc/self/fd", reopened),
    ("stdio", buffered),
];

impl Look<'_> {
    fn open(&self) -> io::Result<File> {
        File::open(self.directory.join("session"))
    }
}

fn len(file: &File) -> io::Result<usize> {
    Ok(file.metadata()?.len() as usize)
}

/// The size is that of the content, before, between and after.
fn read(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    let mut file = look.open()?;
    let before = len(&file)?;
    let first = look.random.below(before as u64 + 1);
    let mut bytes = Vec::new();
    (&file).take(first).read_to_end(&mut bytes)?;
    let between = len(&file)?;
    file.read_to_end(&mut bytes)?;
    let (read, after) = (bytes.len(), len(&file)?);
    assert_eq!((before, between, after), (read, read, read), "sizes");
    Ok(bytes)
}

fn scattered(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    let file = look.open()?;
    let mut bytes = vec![0; len(&file)?];
    let size = bytes.len().div_ceil(5).max(1);
    let mut pieces: Vec<_> = bytes.chunks_mut(size).enumerate().collect();
    while !pieces.is_empty() {
        let (number, piece) = pieces.swap_remove(look.random.below(pieces.len() as u64) as usize);
        file.read_exact_at(piece, (number * size) as u64)?;
    }
    assert_eq!(file.read_at(&mut [0], bytes.len() as u64)?, 0, "the end");
    Ok(bytes)
}

fn mapping(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    let file = look.open()?;
    let len = len(&file)?;
    assert_ne!(len, 0, "an empty file");
    read_mapped(&file, len)
}

fn sent(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    let file = look.open()?;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut copy = File::from(rustix::fs::memfd_create("copy", flags)?);
    while rustix::fs::sendfile(&copy, &file, None, 1 << 20)? > 0 {}
    assert_eq!(len(&copy)?, len(&file)?, "sizes");
    copy.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    copy.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn copied(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    let file = look.open()?;
    let path = look.directory.join(format!("{}.copy", look.own));
    let copy = File::create(&path)?;
    while rustix::fs::copy_file_range(&file, None, &copy, None, 1 << 20)? > 0 {}
    assert_eq!(len(&copy)?, len(&file)?, "sizes");
    let bytes = fs::read(&path)?;
    fs::remove_file(path)?;
    Ok(bytes)
}

/// Memory aligned for any device.
#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Block([u8; 4096]);

fn direct(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(look.directory.join("session"))?;
    let len = len(&file)?;
    let mut bytes = Vec::with_capacity(len);
    let mut block = Box::new(Block([0; 4096]));
    // After the end, the offset would not be a multiple of a block.
    while bytes.len() < len {
        match file.read_at(&mut block.0, bytes.len() as u64)? {
            0 => break,
            count => bytes.extend_from_slice(&block.0[..count]),
        }
    }
    assert_eq!(bytes.len(), len, "sizes");
    Ok(bytes)
}

/// It is the same checkpoint, whatever `session` is by then.
fn reopened(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    let mut file = look.open()?;
    let mut again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let (mut bytes, mut same) = (Vec::new(), Vec::new());
    again.read_to_end(&mut bytes)?;
    file.read_to_end(&mut same)?;
    assert!(bytes == same, "two descriptors of one checkpoint differ");
    Ok(bytes)
}

fn buffered(look: &mut Look<'_>) -> io::Result<Vec<u8>> {
    read_buffered(&look.directory.join("session"))
}
