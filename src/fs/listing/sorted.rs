//! The sessions of a repository, youngest first, as they were when a reading of the root
//! began. Until it begins anew, each keeps its position.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::fs::errno::{Fail, Result};
use crate::fs::shares::{Share, Shares};
use crate::repo::Repository;
use crate::sys::Errno;

/// The names, one after the other, and the start and length of each.
#[derive(Debug)]
pub(in crate::fs) struct Sorted {
    text: Vec<u8>,
    ranges: Vec<(u32, u8)>,
    /// The memory, in the share of the user that reads it.
    share: Share,
}

/// A name that is not sorted yet.
struct Found {
    modified: SystemTime,
    start: u32,
    len: u8,
}

impl Sorted {
    /// Reads and sorts the present sessions. The memory comes from the share of a user.
    ///
    /// # Errors
    /// `ENOMEM` if the share is used up, and those of reading the directory.
    pub(in crate::fs) fn new(
        repository: &Repository,
        memory: &Arc<Shares>,
        user: u32,
    ) -> Result<Self> {
        let no_memory = Fail::from(Errno::NOMEM);
        let mut share = memory.take(user, 0).ok_or(no_memory)?;
        let (mut text, mut found) = (Vec::new(), Vec::new());
        let mut is_short = false;
        repository.visit(|name, modified| {
            let name = name.as_os_str().as_bytes();
            let (start, len) = (u32::try_from(text.len()), u8::try_from(name.len()));
            let (Ok(start), Ok(len)) = (start, len) else {
                is_short = true;
                return false;
            };
            text.extend_from_slice(name);
            found.push(Found {
                modified,
                start,
                len,
            });
            is_short = !share.resize(size(&text, &found));
            !is_short
        })?;
        if is_short {
            return Err(no_memory);
        }
        let name = |found: &Found| &text[range(found.start, found.len)];
        found.sort_unstable_by(|a, b| {
            let by_time = Reverse(a.modified).cmp(&Reverse(b.modified));
            by_time.then_with(|| name(a).cmp(name(b)))
        });
        let mut ranges: Vec<_> = found.iter().map(|found| (found.start, found.len)).collect();
        drop(found);
        text.shrink_to_fit();
        ranges.shrink_to_fit();
        // It takes less memory now.
        share.resize(size(&text, &ranges));
        Ok(Self {
            text,
            ranges,
            share,
        })
    }

    pub(in crate::fs) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(in crate::fs) fn get(&self, index: usize) -> Option<&OsStr> {
        let (start, len) = *self.ranges.get(index)?;
        Some(OsStr::from_bytes(&self.text[range(start, len)]))
    }

    /// Whether it has the same names, in the share of the same user.
    pub(in crate::fs) fn is_same(&self, other: &Self) -> bool {
        self.share.is_of_same_user(&other.share)
            && self.ranges == other.ranges
            && self.text == other.text
    }
}

fn range(start: u32, len: u8) -> std::ops::Range<usize> {
    start as usize..start as usize + usize::from(len)
}

fn size<T>(text: &Vec<u8>, entries: &Vec<T>) -> u64 {
    (text.capacity() + entries.capacity() * size_of::<T>()) as u64
}
