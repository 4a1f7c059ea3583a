//! A checkpoint that is taken back from its other name (DESIGN 2.11).
//!
//! What a process has renamed away has two names as long as its removal is only
//! promised (DESIGN 2.12). To the kernel a rename of the one onto the other is
//! done then: it answers 0, leaves both where they are, and does not ask us
//! (vfs_rename in fs/namei.c, Linux 6.18); and when the removal is done, the name
//! `session` is gone. So it goes before the kernel compares the two: as it does in
//! any directory, where the first process has taken it away.

use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::request::{Caller, Request};
use crate::proc::syscall::Call;
use crate::sys::{RenameFlags, Statx};

impl Fs {
    /// Notes that a rename has come by another name of a checkpoint that is to be
    /// removed. The kernel looks for the old name first.
    pub(in crate::fs) fn note_other_name(&self, stat: &Statx, caller: Caller) {
        if stat.stx_nlink < 2 {
            return;
        }
        if let Some(removal) = self.lasting.sessions.promised_anywhere(stat.stx_ino)
            && let Some(call) = rename_call(caller.tid)
        {
            removal.note_rename(call);
        }
    }

    /// Does a promised removal at once, if the caller is about to rename the same
    /// checkpoint onto this name by its other one.
    ///
    /// # Errors
    /// `EBUSY` while a writer saves, and as of the removal.
    pub(in crate::fs) fn make_way_for_other_name(
        &self,
        session: u64,
        request: Request,
    ) -> Result<()> {
        let Some(removal) = self.lasting.sessions.renamed_back(session) else {
            return Ok(());
        };
        // To who has asked for it the name is absent, and the rename comes.
        if self
            .lasting
            .sessions
            .asked_by(request.caller.tid, session)
            .is_some()
            || !rename_call(request.caller.tid).is_some_and(|call| removal.is_noted_rename(&call))
        {
            return Ok(());
        }
        // What would refuse the rename leaves the old checkpoint to others.
        let _writers = self.keep_writers_out(session, request.caller)?;
        removal.complete(request.patience)
    }
}

/// The call that a thread is in, if that replaces one name by another.
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
    fn renames_are_told_from_other_calls() {
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
