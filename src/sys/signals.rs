//! The signals that ask the daemon to end, and the signal for a file that gets too large.

use std::io;

/// The signals that ask the daemon to end, as a set.
#[allow(unsafe_code)]
fn stop_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is plain integers; sigemptyset initialises it anyway,
    // and neither call keeps the pointer.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks `SIGINT`, `SIGTERM` and `SIGHUP` in this thread and in the threads
/// it starts from now on, so that [`wait_for_stop_signal`] gets them.
#[allow(unsafe_code)]
pub fn block_stop_signals() -> io::Result<()> {
    let set = stop_signals();
    // SAFETY: the set is initialised and outlives the call.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Runs `f` with `SIGINT`, `SIGTERM` and `SIGHUP` blocked, so that it can finish and
/// clean up first.
#[allow(unsafe_code)]
pub fn with_stop_signals_blocked<T>(f: impl FnOnce() -> T) -> io::Result<T> {
    let set = stop_signals();
    let change = |how, to: &libc::sigset_t| {
        // SAFETY: sigset_t is plain integers, for which all zeroes is a value;
        // both sets are live and no call keeps a pointer.
        let (result, before) = unsafe {
            let mut before = std::mem::zeroed();
            let result = libc::pthread_sigmask(how, std::ptr::from_ref(to), &raw mut before);
            (result, before)
        };
        match result {
            0 => Ok(before),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    };
    let before = change(libc::SIG_BLOCK, &set)?;
    let result = f();
    change(libc::SIG_SETMASK, &before)?;
    Ok(result)
}

/// Blocks `SIGXFSZ` in this thread and in the threads it starts: a write
/// beyond the limit of file sizes (`ulimit -f`) fails with `EFBIG`, and does
/// not end the process.
#[allow(unsafe_code)]
pub fn block_file_size_signal() -> io::Result<()> {
    // SAFETY: sigset_t is plain integers; sigemptyset initialises it anyway,
    // and no call keeps a pointer.
    let result = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Waits for one of the blocked signals, and returns its number.
#[allow(unsafe_code)]
pub fn wait_for_stop_signal() -> io::Result<i32> {
    let set = stop_signals();
    let mut signal = 0;
    // SAFETY: the set is initialised, and both pointers outlive the call.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(signal),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
