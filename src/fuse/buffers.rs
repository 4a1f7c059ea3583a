//! Memory for the pieces that are read, and for those that wait to be written.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fs::{Patience, Share, Shares};
use crate::sys::{Errno, Result, memory};

/// The largest piece that is read or written in one request, in bytes.
pub(super) const MAX_PIECE: u32 = 1 << 20;

/// How many are kept for the next requests. More are in use only while as
/// many requests are.
const KEPT: usize = 4;

/// What may wait of one user, and of all, in bytes: of what is to be written, and
/// again of what is to be read.
const OF_USER: u64 = 64 << 20;
const OF_ALL: u64 = 256 << 20;

/// How long the last free thread waits for the disk to take anything of what
/// waits already.
const MOMENT: Duration = Duration::from_millis(100);

/// Buffers of [`MAX_PIECE`] bytes, used in turn.
#[derive(Clone)]
pub(super) struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    reading: Arc<Shares>,
    writing: Arc<Shares>,
}

/// One of them; given back when it is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    buffers: Buffers,
    /// That of the user for whom it waits.
    _share: Option<Share>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            free: Arc::default(),
            reading: Shares::new(OF_USER, OF_ALL),
            writing: Shares::new(OF_USER, OF_ALL),
        }
    }
}

impl Buffers {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `len` bytes, at most [`MAX_PIECE`], with anything in it, for
    /// what a user reads. Who may wait does so for the share of the user: there
    /// are as many who wait as there are requests.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(super) fn take(&self, user: u32, len: usize, patience: Patience) -> Result<Buffer> {
        let share = match patience {
            Patience::None => None,
            Patience::Wait => self.reading.wait_for(user, size(len)),
        };
        self.buffer(len, share)
    }

    /// A copy of `data`, which a user writes. `is_last` is for a thread that
    /// others wait for.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(super) fn copy(&self, user: u32, data: &[u8], is_last: bool) -> Result<Buffer> {
        let amount = size(data.len());
        let share = if is_last {
            self.writing.take_within(user, amount, MOMENT)
        } else {
            self.writing.take(user, amount)
        };
        let mut buffer = self.buffer(data.len(), Some(share.ok_or(Errno::NOMEM)?))?;
        // The kernel sends no more than that.
        let len = buffer.len;
        buffer.copy_from_slice(&data[..len]);
        Ok(buffer)
    }

    fn buffer(&self, len: usize, share: Option<Share>) -> Result<Buffer> {
        let most = MAX_PIECE as usize;
        let free = self.free().pop();
        let mut bytes = match free {
            Some(bytes) => bytes,
            None => {
                memory::require(memory::CUSHION + most)?;
                memory::block(most)?
            }
        };
        let len = len.min(most);
        // No more of it is ever touched than is used.
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Ok(Buffer {
            bytes,
            len,
            buffers: self.clone(),
            _share: share,
        })
    }
}

/// What a buffer of so many bytes takes of memory.
fn size(len: usize) -> u64 {
    len.next_multiple_of(4096) as u64
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.buffers.free();
        if free.len() < KEPT {
            free.push(bytes);
            return;
        }
        // Memory is given back without keeping others waiting.
        drop(free);
        drop(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_buffers_are_kept_and_used_again() {
        let buffers = Buffers::default();
        let first = buffers.copy(7, b"abc", false).unwrap();
        assert_eq!(&*first, b"abc");
        let address = first.as_ptr();
        drop(first);
        let take = |len| buffers.take(7, len, Patience::None).unwrap();
        assert_eq!(take(7).as_ptr(), address);
        assert_eq!(take(7).len(), 7);
        assert_eq!(take(usize::MAX).len(), MAX_PIECE as usize);
        let many: Vec<_> = (0..2 * KEPT).map(|_| take(1)).collect();
        drop(many);
        assert_eq!(buffers.free().len(), KEPT);
    }

    #[test]
    fn rule_13_3_what_a_user_writes_waits_in_bounded_memory() {
        let buffers = Buffers::default();
        let piece = vec![1; MAX_PIECE as usize];
        let mut waiting = Vec::new();
        while let Ok(copy) = buffers.copy(61002, &piece, false) {
            waiting.push(copy);
        }
        assert_eq!(waiting.len() as u64, OF_USER / u64::from(MAX_PIECE));
        assert!(buffers.copy(61002, &piece, true).is_err());
        assert!(buffers.copy(61001, &piece, true).is_ok());
        // What is read has its own.
        assert!(buffers.take(61002, piece.len(), Patience::Wait).is_ok());
        drop(waiting);
        assert!(buffers.copy(61002, &piece, true).is_ok());
    }
}
