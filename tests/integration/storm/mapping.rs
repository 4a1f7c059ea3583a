//! Calls that the standard library and rustix do not offer without `unsafe`:
//! shared mappings, and the C library's buffered files.

#![allow(unsafe_code, reason = "mappings and stdio are those of the C library")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Copies a file of `len` bytes, not 0, out of a shared mapping of it.
pub fn read_mapped(file: &File, len: usize) -> io::Result<Vec<u8>> {
    with_mapping(file, len, libc::PROT_READ, |at| {
        let mut bytes = vec![0; len];
        // SAFETY: `len` bytes are mapped there, and `bytes` is a separate buffer.
        unsafe { std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), len) };
        bytes
    })
}

/// Copies bytes, not none, into a shared mapping of a file that is as long.
pub fn write_mapped(file: &File, bytes: &[u8]) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    with_mapping(file, bytes.len(), protection, |at| {
        // SAFETY: as many bytes are mapped there, writable.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    })
}

fn with_mapping<T>(
    file: &File,
    len: usize,
    protection: i32,
    f: impl FnOnce(*mut u8) -> T,
) -> io::Result<T> {
    let (none, fd) = (std::ptr::null_mut(), file.as_raw_fd());
    // SAFETY: a new mapping, of nothing that Rust knows.
    let at = unsafe { libc::mmap(none, len, protection, libc::MAP_SHARED, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let result = f(at.cast());
    // SAFETY: mapped above, and `f` has kept nothing of it.
    match unsafe { libc::munmap(at, len) } {
        0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads a whole file with fopen(3) and fread(3).
pub fn read_buffered(path: &Path) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both are strings that end with a NUL.
    let stream = unsafe { libc::fopen(path.as_ptr(), c"r".as_ptr()) };
    if stream.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut bytes = Vec::new();
    let mut piece = [0; 1000];
    loop {
        // SAFETY: an open stream, and as much room as is said.
        let count = unsafe { libc::fread(piece.as_mut_ptr().cast(), 1, piece.len(), stream) };
        bytes.extend_from_slice(&piece[..count]);
        if count < piece.len() {
            break;
        }
    }
    // SAFETY: an open stream.
    let failed = (unsafe { libc::ferror(stream) } != 0).then(io::Error::last_os_error);
    // SAFETY: an open stream, which is not used after this.
    unsafe { libc::fclose(stream) };
    failed.map_or(Ok(bytes), Err)
}
