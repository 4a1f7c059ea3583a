//! Renaming a checkpoint back from its backup name (DESIGN 2.11).
//!
//! A checkpoint that a process has renamed away has two names, as long as its removal is
//! deferred (DESIGN 2.12). The kernel treats a rename of one name to the other as done:
//! it returns 0, leaves both in place and does not ask the filesystem (vfs_rename in
//! fs/namei.c, Linux 6.18). When the removal were carried out later, the name `session`
//! would be gone. So the removal is carried out before the kernel compares the two names,
//! when it looks up the second.

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::request::{Caller, Request};
use crate::proc::syscall::Call;
use crate::sys::{RenameFlags, Statx};

impl Fs {
    /// Notes that a rename has looked up the other name of a checkpoint whose removal is
    /// deferred. The kernel looks up the old name first.
    pub(in crate::fs) fn note_other_name(&self, stat: &Statx, caller: Caller) {
        if stat.stx_nlink < 2 {
            return;
        }
        if let Some(removal) = self.lasting.sessions.deferred_anywhere(stat.stx_ino)
            && let Some(call) = rename_call(caller.tid)
        {
            removal.note_rename(call);
        }
    }

    /// Carries out a deferred removal at once, if the caller is about to rename the same
    /// checkpoint back to this name.
    ///
    /// # Errors
    /// `EBUSY` while a writer saves, and those of the removal.
    pub(in crate::fs) fn carry_out_before_renaming_back(
        &self,
        session: u64,
        request: Request,
    ) -> Result<()> {
        let Some(removal) = self.lasting.sessions.renamed_back(session) else {
            return Ok(());
        };
        // The process that removed it does not see this name, so the kernel does send us
        // its rename.
        if self
            .lasting
            .sessions
            .removed_by(request.caller.tid, session)
            .is_some()
            || !rename_call(request.caller.tid).is_some_and(|call| removal.is_noted_rename(&call))
        {
            return Ok(());
        }
        // If a writer would refuse the rename, the old checkpoint stays.
        let _writers = self.keep_writers_out(session, request.caller)?;
        removal.carry_out_for_request(request.patience)
    }
}

/// The call that a thread is in, if it is a rename that may replace a file.
fn rename_call(tid: u32) -> Option<Call> {
    Call::of(tid).filter(|call| is_rename(call.number, &call.arguments))
}

fn is_rename(number: i64, arguments: &[u64; 6]) -> bool {
    match number {
        libc::SYS_renameat2 => arguments[4] & !u64::from(RenameFlags::NOREPLACE.bits()) == 0,
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        libc::SYS_renameat => true,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_that_may_replace_a_file_are_recognized() {
        let with = |flags| [0, 0, 0, 0, flags, 0];
        let exchange = u64::from(RenameFlags::EXCHANGE.bits());
        assert!(is_rename(libc::SYS_renameat2, &with(0)));
        assert!(is_rename(libc::SYS_renameat2, &with(1)));
        assert!(!is_rename(libc::SYS_renameat2, &with(exchange)));
        assert!(!is_rename(libc::SYS_statx, &with(0)));
        assert_eq!(rename_call(0), None);
        assert_eq!(rename_call(std::process::id()), None, "it reads its own");
    }
}
