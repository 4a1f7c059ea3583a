//! The identity of a thread for access to files: user, groups and umask.

use rustix::io::Errno;

use super::call::Result;

/// The ids by which the kernel checks a thread's access to files, and which own the files
/// that it makes (credentials(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIds {
    /// The filesystem user id.
    pub uid: u32,
    /// The filesystem group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

impl FileIds {
    /// The ids of the threads of this process that have not [assumed](Self::assume)
    /// others.
    pub fn of_this_process() -> Result<Self> {
        let groups = rustix::process::getgroups()?;
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
        })
    }

    /// Gives these ids to this thread only. A user id other than 0 makes the capabilities
    /// that concern files ineffective, and 0 makes them effective again
    /// (capabilities(7)).
    ///
    /// `EPERM` if this process may not have them all; some may have been changed then.
    #[allow(unsafe_code)]
    pub fn assume(&self) -> Result<()> {
        let gid = rustix::fs::Gid::from_raw;
        let groups: Vec<_> = self.groups.iter().copied().map(gid).collect();
        // The system call itself concerns one thread; setgroups(3) of the C library would
        // change all threads.
        let set_groups = rustix::thread::set_thread_groups(&groups);
        // SAFETY: these calls take and return integers. They return the former id, even
        // on failure: so an invalid id is used to read the present one.
        let (uid, gid) = unsafe {
            libc::setfsgid(self.gid);
            libc::setfsuid(self.uid);
            (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
        };
        if (uid.cast_unsigned(), gid.cast_unsigned()) != (self.uid, self.gid) {
            return Err(Errno::PERM);
        }
        set_groups
    }
}

/// The umask of this process. umask(2) would change it for a moment, in all threads, so
/// it is read from `/proc` (Linux 4.7); `None` if it is not there.
pub fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let umask = lines.find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}
