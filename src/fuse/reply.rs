//! The answers to the kernel, one for each kind of reply and value.

use std::ffi::CString;
use std::time::Duration;

use fuser::{
    FileAttr, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr,
};

use crate::fs::{Created, Entry, Fail, Listed, Opened, Result};

/// A reply that is answered with a value, or an errno.
pub(super) trait Answer<T>: Send + 'static {
    /// Answers it.
    fn answer(self, result: Result<T>);
}

impl Answer<()> for ReplyEmpty {
    fn answer(self, result: Result<()>) {
        match result {
            Ok(()) => self.ok(),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

impl Answer<Entry> for ReplyEntry {
    fn answer(self, result: Result<Entry>) {
        match result {
            Ok(entry) => self.entry_with_ttls(
                &entry.attr_ttl,
                &entry.entry_ttl,
                &entry.attr,
                Generation(entry.generation),
            ),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

/// Attributes, and how long they may be believed.
impl Answer<(FileAttr, Duration)> for ReplyAttr {
    fn answer(self, result: Result<(FileAttr, Duration)>) {
        match result {
            Ok((attr, ttl)) => self.attr(&ttl, &attr),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

/// A file.
impl Answer<Opened> for ReplyOpen {
    fn answer(self, result: Result<Opened>) {
        match result {
            Ok(opened) => {
                let handle = FileHandle(opened.handle);
                match opened.backing {
                    Some(backing) => self.opened_passthrough(handle, opened.flags, &backing),
                    None => self.opened(handle, opened.flags),
                }
            }
            Err(fail) => self.error(fail.errno()),
        }
    }
}

/// The handle of a directory.
impl Answer<u64> for ReplyOpen {
    fn answer(self, result: Result<u64>) {
        match result {
            Ok(handle) => self.opened(FileHandle(handle), FopenFlags::empty()),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

impl Answer<Created> for ReplyCreate {
    fn answer(self, result: Result<Created>) {
        let Created { entry, opened } = match result {
            Ok(created) => created,
            Err(fail) => return self.error(fail.errno()),
        };
        let (ttl, generation) = (&entry.entry_ttl, Generation(entry.generation));
        let (handle, flags) = (FileHandle(opened.handle), opened.flags);
        match opened.backing {
            Some(id) => self.created_passthrough(ttl, &entry.attr, generation, handle, flags, &id),
            None => self.created(ttl, &entry.attr, generation, handle, flags),
        }
    }
}

/// The bytes written.
impl Answer<u32> for ReplyWrite {
    fn answer(self, result: Result<u32>) {
        match result {
            Ok(bytes) => self.written(bytes),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

/// The target of a symlink.
impl Answer<CString> for ReplyData {
    fn answer(self, result: Result<CString>) {
        match result {
            Ok(target) => self.data(target.as_bytes()),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

impl Answer<rustix::fs::StatVfs> for ReplyStatfs {
    fn answer(self, result: Result<rustix::fs::StatVfs>) {
        match result {
            Ok(stat) => self.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                u32::try_from(stat.f_bsize).unwrap_or(4096),
                u32::try_from(stat.f_namemax).unwrap_or(255),
                u32::try_from(stat.f_frsize).unwrap_or(4096),
            ),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

impl Answer<u64> for ReplyLseek {
    fn answer(self, result: Result<u64>) {
        match result {
            Ok(offset) => self.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(fail) => self.error(fail.errno()),
        }
    }
}

/// The reply for an extended attribute, or the names of all, with the room that the
/// client has, in bytes: 0 asks for the length alone (getxattr(2)).
pub(super) struct Value(pub(super) ReplyXattr, pub(super) u32);

/// `ERANGE` if it does not fit.
impl Answer<Vec<u8>> for Value {
    fn answer(self, result: Result<Vec<u8>>) {
        let Self(reply, room) = self;
        match result {
            Ok(value) if room == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Ok(value) if value.len() > room as usize => {
                reply.error(Fail::Errno(libc::ERANGE).errno());
            }
            Ok(value) => reply.data(&value),
            Err(fail) => reply.error(fail.errno()),
        }
    }
}

/// Adds an entry to the listing of a directory; whether there was room for it.
pub(super) fn add(reply: &mut ReplyDirectoryPlus, listed: &Listed) -> bool {
    let entry = &listed.entry;
    !reply.add(
        entry.attr.ino,
        listed.offset,
        &listed.name,
        &entry.entry_ttl,
        &entry.attr,
        Generation(entry.generation),
    )
}

/// Answers with the listing as it is.
pub(super) fn end(reply: ReplyDirectoryPlus, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(fail) => reply.error(fail.errno()),
    }
}
