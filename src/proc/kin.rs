//! Which processes may have a writer's file open besides the one that closes it (DESIGN
//! 5): those that have been seen with it (its kin), and their living descendants. No
//! other process is looked at, however many there are.
//!
//! A user can make such a look long: by many processes with many descriptors. So it is
//! made on a thread that serves nobody else, and has a time limit, after which the answer
//! is that it is unknown.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use super::files;
use super::identity::Process;
use super::table::{Sought, Table, table};

/// The time for one look, at one process or many, and how many processes it sees.
const TIME: Duration = Duration::from_millis(500);
const MOST: usize = 4096;

/// How many processes are remembered for one writer. Beyond that the oldest are
/// forgotten. If one of those writes later, its close makes a save of its own.
const REMEMBERED: usize = 1024;

/// Whether any process but the closing one holds a file, which means: has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding {
    /// None is known.
    No,
    /// Only processes that may be about to close it: the descriptors are close-on-exec,
    /// or the process is in the middle of an exec.
    UntilExec,
    /// Some do, or it is unknown.
    Yes,
}

/// The processes that have been seen with a writer's file.
#[derive(Debug, Clone, Default)]
pub struct Kin {
    /// Oldest first.
    seen: Vec<Process>,
}

impl Kin {
    /// Adds a process that has been seen with the file.
    pub fn add(&mut self, process: Process) {
        if !process.is_known() || self.seen.contains(&process) {
            return;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.remove(0);
        }
        self.seen.push(process);
    }

    /// Adds the living descendants of a process that closes the file: they may have
    /// inherited it. A process at its end still has its children then, because the kernel
    /// closes its files before it gives the children to another parent (do_exit,
    /// kernel/exit.c, Linux 6.18).
    pub fn add_descendants(&mut self, pid: u32) {
        let mut look = Look::new(until());
        let mut at = 0;
        look.see(pid);
        while let Some(&parent) = look.order.get(at) {
            at += 1;
            look.see_children(parent);
            if look.is_over() {
                break;
            }
        }
        for child in look.order.into_iter().skip(1) {
            self.add(Process::of(child));
        }
    }

    /// Adds all of these.
    pub fn add_all(&mut self, others: Self) {
        for process in others.seen {
            self.add(process);
        }
    }

    /// Whether any of these processes, or a living descendant of them, but for `closer`,
    /// holds the file. The look ends at `until`.
    pub fn holding(&self, closer: Process, sought: Sought, until: Instant) -> Holding {
        let mut look = Look::new(until);
        let mut holding = Holding::No;
        let roots = self.seen.iter().filter(|process| process.exists());
        for root in roots {
            look.see(root.pid);
        }
        let mut at = 0;
        while let Some(&pid) = look.order.get(at) {
            at += 1;
            if pid != closer.pid {
                holding = holding.max(holds(pid, sought, until));
            }
            if holding == Holding::Yes {
                return holding;
            }
            // Children are looked for after the parent's table: a child born before this
            // is found here; one born later is a copy of a table that does not hold the
            // file.
            look.see_children(pid);
            if look.is_over() {
                return Holding::Yes;
            }
        }
        holding
    }
}

/// The end of a look that begins now.
pub fn until() -> Instant {
    Instant::now() + TIME
}

/// Whether this process holds the file. The look ends at `until`.
pub fn holds(pid: u32, sought: Sought, until: Instant) -> Holding {
    match table(pid, sought, Some(until)) {
        Ok(Table::Holds) => Holding::Yes,
        Ok(Table::HoldsUntilExec) => Holding::UntilExec,
        Ok(Table::Other | Table::Empty) => Holding::No,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Holding::No,
        // It exists, but must not be looked at, or not for so long: its close will tell,
        // or RELEASE.
        Err(_) => Holding::Yes,
    }
}

/// A look at processes, each once.
struct Look {
    until: Instant,
    seen: HashSet<u32>,
    order: Vec<u32>,
}

impl Look {
    fn new(until: Instant) -> Self {
        Self {
            until,
            seen: HashSet::new(),
            order: Vec::new(),
        }
    }

    fn see(&mut self, pid: u32) {
        if self.seen.insert(pid) {
            self.order.push(pid);
        }
    }

    /// Adds the children of all threads of a process, which `/proc` shows without waiting
    /// (proc_tid_children(5)).
    fn see_children(&mut self, pid: u32) {
        let threads = files::threads(pid);
        for thread in threads.into_iter().flatten().flatten() {
            // A thread that has ended meanwhile has none.
            let children = fs::read(thread.path().join("children")).unwrap_or_default();
            for child in parse_children(&children) {
                self.see(child);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.order.len() > MOST || Instant::now() > self.until
    }
}

pub fn parse_children(children: &[u8]) -> impl Iterator<Item = u32> {
    children
        .split(|&byte| byte == b' ')
        .filter_map(|child| str::from_utf8(child).ok()?.parse().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn rule_5_descendants_are_found_at_any_depth() {
        // The standard input of a shell's background job is /dev/null, so it reads from a
        // copy.
        let script = "exec 3<&0; (sh -c 'echo; read x <&3'; :) & read x; wait";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(shell.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let mut kin = Kin::default();
        kin.add_descendants(shell.id());
        // The subshell and the shell that it has started.
        assert!(kin.seen.len() >= 2, "{kin:?}");
        assert!(kin.seen.iter().all(|process| process.pid != shell.id()));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn rule_13_2_a_table_that_takes_too_long_counts_as_holding() {
        let nothing = Sought {
            ino: u64::MAX,
            shown: u64::MAX,
            shown_before: u64::MAX,
            device: None,
            may_only_read: false,
        };
        let me = std::process::id();
        assert_eq!(holds(me, nothing, Instant::now()), Holding::Yes);
        let an_hour = Instant::now() + Duration::from_secs(3600);
        assert_eq!(holds(me, nothing, an_hour), Holding::No);
        assert_eq!(holds(u32::MAX, nothing, Instant::now()), Holding::No);
    }

    #[test]
    fn remembered_processes_are_bounded() {
        let mut kin = Kin::default();
        kin.add(Process::UNKNOWN);
        assert!(kin.seen.is_empty());
        let me = Process::of(std::process::id());
        kin.add(me);
        kin.add(me);
        assert_eq!(kin.seen, [me]);
        assert_eq!(parse_children(b"12 7 ").collect::<Vec<_>>(), [12, 7]);
        assert_eq!(parse_children(b"").count(), 0);
    }
}
