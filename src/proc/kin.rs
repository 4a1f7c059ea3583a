//! Who may hold a writer's file besides the process that closes it (DESIGN 5): the
//! processes that have been seen with it, and their living descendants. No other
//! process is looked at, however many there are.
//!
//! What is looked at may be long in the hands of its user: many processes, with
//! many descriptors. So a look ends with its time, on a thread that serves nobody
//! else, and says then that it does not know.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use super::identity::Process;
use super::table::{Sought, Table, table};

/// How long one look may take, at one process or many, and how many it sees.
const TIME: Duration = Duration::from_millis(500);
const MOST: usize = 4096;

/// How many processes are remembered of one writer. Beyond that the oldest are
/// forgotten: a holder that is not found makes a save of its own.
const REMEMBERED: usize = 1024;

/// Who holds a file besides the one that closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Nobody that is known.
    No,
    /// Processes that may be about to let go of it: by close-on-exec descriptors
    /// only, or in the middle of an exec.
    UntilExec,
    /// There are some, or nobody can tell.
    Yes,
}

/// The processes that have been seen with a writer's file.
#[derive(Debug, Clone, Default)]
pub struct Kin {
    /// Oldest first.
    seen: Vec<Process>,
}

impl Kin {
    /// A process has been seen with the file.
    pub fn add(&mut self, process: Process) {
        if !process.is_known() || self.seen.contains(&process) {
            return;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.remove(0);
        }
        self.seen.push(process);
    }

    /// The living descendants of a process that closes the file, which may have
    /// it from there. At its end they are its own still: the kernel closes files
    /// before it gives children away (do_exit, kernel/exit.c, Linux 6.18).
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

    /// The same of all of these.
    pub fn add_all(&mut self, others: Self) {
        for process in others.seen {
            self.add(process);
        }
    }

    /// Whether one of these processes, but for `closer`, holds the file, or a
    /// living descendant of one, as far as that is seen `until` then.
    pub fn held(&self, closer: Process, sought: Sought, until: Instant) -> Held {
        let mut look = Look::new(until);
        let mut held = Held::No;
        let roots = self.seen.iter().filter(|process| process.exists());
        for root in roots {
            look.see(root.pid);
        }
        let mut at = 0;
        while let Some(&pid) = look.order.get(at) {
            at += 1;
            if pid != closer.pid {
                held = held.max(holds(pid, sought, until));
            }
            if held == Held::Yes {
                return held;
            }
            // After its table: a child that is born before is found by it, one
            // that is born later by this.
            look.see_children(pid);
            if look.is_over() {
                return Held::Yes;
            }
        }
        held
    }
}

/// The end of a look that begins now.
pub fn until() -> Instant {
    Instant::now() + TIME
}

/// Whether this process holds the file, as far as that is seen `until` then.
pub fn holds(pid: u32, sought: Sought, until: Instant) -> Held {
    match table(pid, sought, Some(until)) {
        Ok(Table::Holds) => Held::Yes,
        Ok(Table::HoldsUntilExec) => Held::UntilExec,
        Ok(Table::Other | Table::Empty) => Held::No,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Held::No,
        // It is there, and we must not look, or not for so long: its close tells, or
        // RELEASE does.
        Err(_) => Held::Yes,
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

    /// Of all threads of a process; `/proc` shows them without waiting for
    /// anything (proc_tid_children(5)).
    fn see_children(&mut self, pid: u32) {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
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
    fn rule_5_descendants_are_found_however_deep() {
        // What runs in the background of a shell reads nothing unless it is told to.
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
    fn rule_13_2_a_table_that_takes_too_long_is_one_that_holds() {
        let nothing = Sought {
            ino: u64::MAX,
            shown: u64::MAX,
            shown_before: u64::MAX,
            device: None,
            may_only_read: false,
        };
        let me = std::process::id();
        assert_eq!(holds(me, nothing, Instant::now()), Held::Yes);
        let an_hour = Instant::now() + Duration::from_secs(3600);
        assert_eq!(holds(me, nothing, an_hour), Held::No);
        assert_eq!(holds(u32::MAX, nothing, Instant::now()), Held::No);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
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
