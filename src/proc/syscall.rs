//! The call that a thread is in, which waits for our answer. A FUSE request does
//! not tell what it is for; `/proc/TID/syscall` does, to those who may trace the
//! thread (ptrace(2)).

use super::files::OutOfExec;

/// A call of a thread: its number and arguments, and the pointers of its stack and
/// its program. Two calls that follow each other differ in some of it, as a rule.
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

/// The number of the call and its arguments, in the form of
/// proc_pid_syscall(5).
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
    fn what_cannot_be_read_says_nothing() {
        for call in ["", "running", "-1 0x1 0x2", "257 0x1 0x2 0xc1"] {
            assert_eq!(parse(call), None, "{call}");
        }
        assert_eq!(Call::of(0), None);
    }
}
