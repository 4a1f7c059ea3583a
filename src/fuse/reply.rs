//! The answers to the kernel, one for each kind of reply.

use std::ffi::CString;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use crate::fs::{Created, Entry, Opened, Result};

/// What is answered: a value, or an errno.
type Answer<T> = std::result::Result<T, Errno>;

pub(super) fn empty(reply: ReplyEmpty, result: Answer<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn entry(reply: ReplyEntry, result: Answer<Entry>) {
    match result {
        Ok(entry) => reply.entry_with_ttls(
            &entry.attr_ttl,
            &entry.entry_ttl,
            &entry.attr,
            Generation(entry.generation),
        ),
        Err(errno) => reply.error(errno),
    }
}

/// Attributes, and how long they may be believed.
pub(super) fn attr(reply: ReplyAttr, result: Answer<(FileAttr, Duration)>) {
    match result {
        Ok((attr, ttl)) => reply.attr(&ttl, &attr),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn open(reply: ReplyOpen, result: Answer<Opened>) {
    match result {
        Ok(opened) => {
            let handle = FileHandle(opened.handle);
            match opened.backing {
                Some(backing) => reply.opened_passthrough(handle, opened.flags, &backing),
                None => reply.opened(handle, opened.flags),
            }
        }
        Err(errno) => reply.error(errno),
    }
}

/// `size` as of getxattr(2): 0 asks for the length only.
pub(super) fn xattr(size: u32) -> fn(ReplyXattr, Answer<Vec<u8>>) {
    fn length(reply: ReplyXattr, result: Answer<Vec<u8>>) {
        match result {
            Ok(value) => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }
    fn value(reply: ReplyXattr, result: Answer<Vec<u8>>) {
        match result {
            Ok(value) => reply.data(&value),
            Err(errno) => reply.error(errno),
        }
    }
    if size == 0 { length } else { value }
}

pub(super) fn write(reply: ReplyWrite, len: usize, result: Result<()>) {
    match result {
        Ok(()) => reply.written(u32::try_from(len).unwrap_or(u32::MAX)),
        Err(fail) => reply.error(fail.errno()),
    }
}

pub(super) fn create(reply: ReplyCreate, result: Answer<Created>) {
    let Created { entry, opened } = match result {
        Ok(created) => created,
        Err(errno) => return reply.error(errno),
    };
    let (ttl, generation) = (&entry.entry_ttl, Generation(entry.generation));
    let (handle, flags) = (FileHandle(opened.handle), opened.flags);
    match opened.backing {
        Some(id) => reply.created_passthrough(ttl, &entry.attr, generation, handle, flags, &id),
        None => reply.created(ttl, &entry.attr, generation, handle, flags),
    }
}

pub(super) fn written(reply: ReplyWrite, result: Answer<u32>) {
    match result {
        Ok(bytes) => reply.written(bytes),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn link(reply: ReplyData, result: Answer<CString>) {
    match result {
        Ok(target) => reply.data(target.as_bytes()),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn opened(reply: ReplyOpen, result: Answer<u64>) {
    match result {
        Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn statfs(reply: ReplyStatfs, result: Answer<rustix::fs::StatVfs>) {
    match result {
        Ok(stat) => reply.statfs(
            stat.f_blocks,
            stat.f_bfree,
            stat.f_bavail,
            stat.f_files,
            stat.f_ffree,
            u32::try_from(stat.f_bsize).unwrap_or(4096),
            u32::try_from(stat.f_namemax).unwrap_or(255),
            u32::try_from(stat.f_frsize).unwrap_or(4096),
        ),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn offset(reply: ReplyLseek, result: Answer<u64>) {
    match result {
        Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
        Err(errno) => reply.error(errno),
    }
}
