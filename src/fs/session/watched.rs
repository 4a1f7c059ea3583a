//! Tells watchers of a checkpoint that a save has replaced it: see `replaced`.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::FileAttr;

use crate::fs::attr::attr_of;
use crate::fs::entry::Entry;
use crate::fs::errno::Result;
use crate::fs::filesystem::Fs;
use crate::fs::request::Caller;
use crate::fs::session::replaced::{CAPACITY, READING_TICK, Replaced, TICK};
use crate::fs::session::writer::absent_attr;
use crate::sys::{self, Errno};

impl Fs {
    /// Waits until replaced checkpoints seem to be watched, and returns them. `look_up`
    /// looks up the checkpoint of the session with this name: the kernel then drops the
    /// dentry of the old one. An inode that only its dentry kept in memory is not
    /// watched.
    pub fn wait_for_watched(&self, look_up: impl Fn(&OsStr)) -> Vec<Arc<Replaced>> {
        let replacements = &self.replacements;
        let mut reading: Vec<Replaced> = Vec::new();
        loop {
            if reading.is_empty() {
                reading = replacements.take();
                std::thread::sleep(TICK);
            } else {
                std::thread::sleep(READING_TICK);
                reading.extend(replacements.noted().drain(..));
            }
            reading.retain(|replaced| self.lasting.nodes.is_known(replaced.id));
            let beyond = reading.len().saturating_sub(CAPACITY);
            reading.drain(..beyond);
            let (unused, others): (Vec<_>, Vec<_>) = std::mem::take(&mut reading)
                .into_iter()
                .partition(|replaced| replacements.is_unused(replaced));
            reading = others;
            if unused.is_empty() {
                continue;
            }
            for name in unused
                .iter()
                .filter_map(|replaced| self.session_of(replaced))
            {
                look_up(&name);
            }
            std::thread::sleep(TICK);
            let (watched, others): (Vec<_>, Vec<_>) = unused
                .into_iter()
                .partition(|replaced| replacements.is_unused(replaced) && replaced.is_gone());
            reading.extend(others.into_iter().filter(Replaced::is_gone));
            if !watched.is_empty() {
                replacements.noted().extend(reading);
                return watched.into_iter().map(Arc::new).collect();
            }
        }
    }

    /// The name of its session; `None` if the kernel has forgotten it.
    pub fn session_of(&self, replaced: &Replaced) -> Option<OsString> {
        Some(self.lasting.nodes.parent_and_name(replaced.session)?.1)
    }

    /// Runs `look`, during which `thread` finds the replaced checkpoint under the name
    /// `session`.
    pub fn show_replaced<T>(
        &self,
        replaced: &Arc<Replaced>,
        thread: u32,
        look: impl FnOnce() -> T,
    ) -> T {
        let replacements = &self.replacements;
        *replacements.shown() = Some(replaced.clone());
        replacements.thread.store(thread, Ordering::Release);
        let done = look();
        replacements.thread.store(0, Ordering::Release);
        *replacements.shown() = None;
        done
    }

    /// The replaced checkpoint of a session, if the caller is the thread to which it is
    /// shown.
    pub(in crate::fs) fn replaced_entry(
        &self,
        caller: Caller,
        session: u64,
    ) -> Option<Result<Entry>> {
        let thread = self.replacements.thread.load(Ordering::Acquire);
        if thread == 0 || thread != caller.tid {
            return None;
        }
        let shown = self.replacements.shown().clone();
        let replaced = shown.filter(|replaced| replaced.session == session)?;
        Some(self.entry_of_replaced(&replaced))
    }

    fn entry_of_replaced(&self, replaced: &Replaced) -> Result<Entry> {
        let attr = match &replaced.checkpoint {
            Some(old) => attr_of(&sys::fstat(old.as_path_fd())?, replaced.id),
            None => absent_attr(&self.session(replaced.session)?, replaced.id)?,
        };
        // The kernel counts this as a lookup, so it is counted; a node it has forgotten
        // is not shown.
        let generation = self
            .lasting
            .nodes
            .remember_link(replaced.id)
            .ok_or(Errno::STALE)?;
        Ok(Entry {
            attr: FileAttr { nlink: 0, ..attr },
            generation,
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        })
    }
}
