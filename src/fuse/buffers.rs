//! Memory for the pieces that are read, and for those that wait to be written.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapter::MAX_PIECE;
use crate::sys::{Result, memory};

/// How many are kept for the next requests. More are in use only while as
/// many requests are.
const KEPT: usize = 4;

/// Buffers of [`MAX_PIECE`] bytes, used in turn.
#[derive(Clone, Default)]
pub(super) struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// One of them; given back when it is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    buffers: Buffers,
}

impl Buffers {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `len` bytes, at most [`MAX_PIECE`], with anything in it.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(super) fn take(&self, len: usize) -> Result<Buffer> {
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
        })
    }

    /// A copy of `data`.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(super) fn copy(&self, data: &[u8]) -> Result<Buffer> {
        let mut buffer = self.take(data.len())?;
        // The kernel sends no more than that.
        let len = buffer.len;
        buffer.copy_from_slice(&data[..len]);
        Ok(buffer)
    }
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
        let first = buffers.copy(b"abc").unwrap();
        assert_eq!(&*first, b"abc");
        let address = first.as_ptr();
        drop(first);
        assert_eq!(buffers.take(7).unwrap().as_ptr(), address);
        assert_eq!(buffers.take(7).unwrap().len(), 7);
        assert_eq!(buffers.take(usize::MAX).unwrap().len(), MAX_PIECE as usize);
        let many: Vec<_> = (0..2 * KEPT).map(|_| buffers.take(1).unwrap()).collect();
        drop(many);
        assert_eq!(buffers.free().len(), KEPT);
    }
}
