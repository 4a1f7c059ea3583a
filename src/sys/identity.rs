//! Who a thread is to the kernel when it asks for files: user, groups and umask.

use rustix::io::Errno;

use super::call::Result;

/// The ids by which the kernel decides what a thread may do with files, and
/// whose the files are that it makes (credentials(7)).
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
    /// Those that the threads of this process have as long as they do not
    /// [assume](Self::assume) others.
    pub fn of_this_process() -> Result<Self> {
        let groups = rustix::process::getgroups()?;
        Ok(Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::fs::Gid::as_raw).collect(),
        })
    }

    /// Gives them to this thread, and to no other. A user id that is not 0
    /// takes the capabilities that concern files out of effect, and 0 brings
    /// them back (capabilities(7)).
    ///
    /// `EPERM` for what this process may not have; some of them may be
    /// changed then.
    #[allow(unsafe_code)]
    pub fn assume(&self) -> Result<()> {
        let gid = rustix::fs::Gid::from_raw;
        let groups: Vec<_> = self.groups.iter().copied().map(gid).collect();
        // The system calls themselves are of one thread; setgroups(3) of
        // the C library would change all threads.
        let set_groups = rustix::thread::set_thread_groups(&groups);
        // SAFETY: these calls take and answer integers. They answer the
        // former id, also on failure: whether it has changed is asked for
        // with an id that is none.
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

/// The umask of this process. umask(2) would change it for a moment, in all
/// threads, so it is taken from `/proc` (Linux 4.7); `None` where that does not tell.
pub fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let umask = lines.find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}
