//! Whether a process has a file mapped, which it may write to after it has closed
//! it (DESIGN 2.6 and 5).
//!
//! Only `/proc/PID/maps` tells, and it waits for the process's memory, which
//! somebody else's filesystem may hold up for ever. So it is read on a thread of
//! its own, which is given up when the time is over. The read can be killed, so a
//! thread that is left behind keeps nobody from ending the daemon.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use super::files::OutOfExec;
use super::table::Sought;

/// How many such threads there may be, with those that were given up.
const MOST: usize = 8;
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// The place of one such thread.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let more = |n| (n < MOST).then_some(n + 1);
        let taken = LOOKING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        taken.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a process may have the file mapped in a way that changes it; yes, if
/// nobody can tell `until` then. Of a process in exec(2) no mapping is left.
pub fn may_be_mapped(pid: u32, sought: Sought, until: Instant) -> bool {
    let Some(process) = OutOfExec::of(pid) else {
        return false;
    };
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return true;
    }
    let Some(place) = Place::take() else {
        return true;
    };
    let (sender, found) = mpsc::sync_channel(1);
    let look = move || {
        let found = is_mapped(process, sought);
        drop(place);
        // It may have been given up.
        let _ = sender.send(found);
    };
    let thread = std::thread::Builder::new().name("mappings".into());
    if thread.spawn(look).is_err() {
        return true;
    }
    found.recv_timeout(left).unwrap_or(true)
}

fn is_mapped(process: OutOfExec, sought: Sought) -> bool {
    let Ok(maps) = process.maps() else {
        return true;
    };
    let mut maps = BufReader::new(maps);
    let mut line = Vec::new();
    loop {
        line.clear();
        match maps.read_until(b'\n', &mut line) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(_) => return true,
        }
        let is_sought = |(device, ino)| {
            sought.device.is_none_or(|sought| sought == device)
                && [sought.ino, sought.shown, sought.shown_before].contains(&ino)
        };
        if parse_shared(&line).is_some_and(is_sought) {
            return true;
        }
    }
}

/// Device and inode number of a shared mapping, by its line in `/proc/PID/maps`
/// (proc_pid_maps(5)); `None` of any other. That it is not writable now does not
/// matter: mprotect(2) may change that.
pub fn parse_shared(line: &[u8]) -> Option<((u32, u32), u64)> {
    let fields = line.split(|&byte| byte == b' ');
    let mut fields = fields.map(|field| str::from_utf8(field).unwrap_or_default());
    if !fields.nth(1)?.ends_with('s') {
        return None;
    }
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let number = |hex| u32::from_str_radix(hex, 16).ok();
    let ino = fields.next()?.trim_end().parse().ok()?;
    Some(((number(major)?, number(minor)?), ino))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rule_2_6_a_shared_mapping_is_told_from_others() {
        let shared = b"7f5e1000-7f5e2000 rw-s 00000000 fe:1f 18446744073709551615   /a b\xff\n";
        assert_eq!(parse_shared(shared), Some(((0xfe, 0x1f), u64::MAX)));
        let private = b"7f5e1000-7f5e2000 rw-p 00000000 fe:1f 7   /a\n";
        assert_eq!(parse_shared(private), None);
        for odd in [
            &b""[..],
            b"a",
            b"a rw-s",
            b"a rw-s 0 1 2\n",
            b"a rw-s 0 x:1 2\n",
        ] {
            assert_eq!(parse_shared(odd), None);
        }
    }

    #[test]
    fn rule_2_6_a_look_that_takes_too_long_finds_a_mapping() {
        let nothing = Sought {
            ino: u64::MAX,
            shown: u64::MAX,
            shown_before: u64::MAX,
            device: None,
            may_only_read: false,
        };
        let me = std::process::id();
        assert!(may_be_mapped(me, nothing, Instant::now()));
        assert!(may_be_mapped(u32::MAX, nothing, Instant::now()));
        let an_hour = Instant::now() + Duration::from_secs(3600);
        assert!(!may_be_mapped(me, nothing, an_hour));
    }
}
