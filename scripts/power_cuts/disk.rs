//! A disk in memory, which can record what is written to it and when it is
//! told to flush. Its image is served beside a report of how much is recorded.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::image;

/// The block size of all filesystems that are tried. A write is not torn finer
/// than that: a superblock torn at 512 bytes fails the mount, and says nothing.
pub const BLOCK: usize = 4096;

type Block = Box<[u8; BLOCK]>;

/// What came to the disk.
#[derive(Debug)]
pub enum Entry {
    /// At this offset, in bytes.
    Write(u64, Vec<u8>),
    /// All writes before it are durable once it is answered.
    Flush,
}

/// Blocks; one that is missing is of zeroes.
#[derive(Default)]
struct Blocks(HashMap<u64, Block>);

impl Blocks {
    /// The block `n` for changing it; from `below` at first.
    fn block(&mut self, n: u64, below: Option<&Self>) -> &mut [u8; BLOCK] {
        self.0.entry(n).or_insert_with(|| {
            below
                .and_then(|below| below.0.get(&n).cloned())
                .unwrap_or_else(|| Box::new([0; BLOCK]))
        })
    }
}

/// The disk.
pub struct Disk {
    size: u64,
    blocks: Blocks,
    /// What has been written since [`Disk::begin`], to be forgotten again.
    over: Option<Blocks>,
    log: Option<Vec<Entry>>,
}

/// The parts of a range that lie in one block each: the number of the block,
/// the place in it, and the place in the range.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let inside = (at % BLOCK as u64) as usize;
        let n = (BLOCK - inside).min(len - done);
        let part = (at / BLOCK as u64, inside, done..done + n);
        done += n;
        Some(part)
    })
}

/// A write in pieces of which each is there or not after a power cut.
pub fn pieces(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    parts(offset, data.len()).map(move |(_, _, range)| (offset + range.start as u64, &data[range]))
}

impl Disk {
    /// One with the content of a sparse file.
    pub fn load(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut blocks = Blocks::default();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < size {
            let n = (size - at).min(buffer.len() as u64) as usize;
            file.read_exact(&mut buffer[..n])?;
            for (block, inside, range) in parts(at, n) {
                if buffer[range.clone()].iter().any(|&byte| byte != 0) {
                    let len = range.len();
                    blocks.block(block, None)[inside..inside + len].copy_from_slice(&buffer[range]);
                }
            }
            at += n as u64;
        }
        Ok(Self {
            size,
            blocks,
            over: None,
            log: None,
        })
    }

    /// Writes its content to a new sparse file.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size)?;
        let over = self.over.iter().flat_map(|over| &over.0);
        for (n, block) in self.blocks.0.iter().chain(over) {
            file.write_all_at(&block[..], n * BLOCK as u64)?;
        }
        Ok(())
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        for (n, inside, range) in parts(offset, buffer.len()) {
            let over = self.over.as_ref().and_then(|over| over.0.get(&n));
            let place = &mut buffer[range];
            match over.or_else(|| self.blocks.0.get(&n)) {
                Some(block) => place.copy_from_slice(&block[inside..inside + place.len()]),
                None => place.fill(0),
            }
        }
    }

    /// Writes, and records it if there is a log.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (n, inside, range) in parts(offset, data.len()) {
            let block = match &mut self.over {
                Some(over) => over.block(n, Some(&self.blocks)),
                None => self.blocks.block(n, None),
            };
            block[inside..inside + range.len()].copy_from_slice(&data[range]);
        }
        if let Some(log) = &mut self.log {
            log.push(Entry::Write(offset, data.to_vec()));
        }
    }

    pub fn flush(&mut self) {
        if let Some(log) = &mut self.log {
            log.push(Entry::Flush);
        }
    }

    /// Records from now on, from nothing.
    pub fn record(&mut self) {
        self.log = Some(Vec::new());
    }

    /// What has been recorded; nothing is from now on.
    pub fn recorded(&mut self) -> Vec<Entry> {
        self.log.take().unwrap_or_default()
    }

    /// The number of entries recorded so far.
    pub fn position(&self) -> usize {
        self.log.as_ref().map_or(0, Vec::len)
    }

    /// What is written from now on will be forgotten at the next [`Disk::begin`].
    pub fn begin(&mut self) {
        self.over = Some(Blocks::default());
    }

    /// Forgets what was written since [`Disk::begin`]: writes last again.
    pub fn end(&mut self) {
        self.over = None;
    }
}

/// A disk that its server and its owner share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Disk>>);

impl Shared {
    pub fn new(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl image::Disk for Shared {
    fn size(&self) -> u64 {
        self.lock().size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.lock().read(offset, buffer);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.lock().write(offset, data);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.lock().flush();
        Ok(())
    }

    fn is_parallel(&self) -> bool {
        true
    }

    /// The number of entries recorded so far.
    fn report(&self) -> Option<String> {
        Some(self.lock().position().to_string())
    }
}
