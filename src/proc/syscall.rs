//! The system call that a thread, which waits for our answer, is in. A FUSE request does
//! not say which call it is for; `/proc/TID/syscall` does, if we may trace the thread
//! (ptrace(2)).

use super::files::OutOfExec;

/// A call of a thread: its number and arguments, its stack pointer and program counter.
/// Two successive calls normally differ in one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    tid: u32,
    text: String,
    /// The number of the call.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Call {
    /// The call of a thread; `None` if it cannot be seen.
    pub fn of(tid: u32) -> Option<Self> {
        if tid == 0 {
            return None;
        }
        let text = OutOfExec::known(tid).syscall()?;
        let (number, arguments) = parse(&text)?;
        Some(Self {
            tid,
            text,
            number,
            arguments,
        })
    }
}

/// The number of the call and its arguments, from the form of proc_pid_syscall(5).
pub fn parse(call: &str) -> Option<(i64, [u64; 6])> {
    let mut fields = call.split_ascii_whitespace();
    let number = fields.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_call_is_none() {
        for call in ["", "running", "-1 0x1 0x2", "257 0x1 0x2 0xc1"] {
            assert_eq!(parse(call), None, "{call}");
        }
        assert_eq!(Call::of(0), None);
    }
}
