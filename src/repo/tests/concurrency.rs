//! Many at once (2.1, 2.3, I1, I3).

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{ALL_WAYS, Sandbox, Ways, name, set};
use crate::repo::{Kind, Repository, Session};
use crate::sys::fault;

const WRITERS: usize = 4;
const READERS: usize = 4;
const SAVES: usize = 40;

/// A content that shows whether it is whole: its length follows from its
/// number, and each of its bytes from both.
fn content(number: usize) -> Vec<u8> {
    let len = 8 + number * 7919 % 200_000;
    let mut bytes: Vec<u8> = (0..len).map(|i| (i * 31 + number) as u8).collect();
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

/// The number of a content; `None` if it is torn.
fn number(bytes: &[u8]) -> Option<usize> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let number = usize::try_from(number).ok().filter(|&n| n < 1 << 20)?;
    (content(number) == bytes).then_some(number)
}

/// Saves until it is done, as a program that waits for the lock.
fn save(session: &Session, ways: Ways, bytes: &[u8]) {
    loop {
        match fault::with(ways.plan(|_, _| None), || session.save(bytes)) {
            Ok(()) => return,
            Err(e) if e.kind() == Kind::Locked => {}
            Err(e) => panic!("{ways:?}: {e:?}"),
        }
        std::thread::yield_now();
    }
}

/// Lets the readers end when a writer does, even by a panic.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn race(ways: Ways) {
    let sandbox = Sandbox::with_checkpoint(&content(0));
    let path = sandbox.repository.path();
    let session = || Repository::new(path).session(&name("s")).unwrap();
    let writing = AtomicUsize::new(WRITERS);
    let seen: usize = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (session, writing) = (session(), &writing);
            scope.spawn(move || {
                let _done = Done(writing);
                for n in 0..SAVES {
                    save(&session, ways, &content(1 + writer + n * WRITERS));
                }
            });
        }
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (session, writing) = (session(), &writing);
                scope.spawn(move || {
                    let mut seen = std::collections::BTreeSet::new();
                    while seen.is_empty() || writing.load(Ordering::Relaxed) > 0 {
                        let bytes = session.load().unwrap();
                        let number = number(&bytes);
                        seen.insert(number.unwrap_or_else(|| panic!("torn: {ways:?}")));
                    }
                    seen.len()
                })
            })
            .collect();
        readers.into_iter().map(|r| r.join().unwrap()).sum()
    });
    assert!(seen > READERS, "{ways:?}: the readers have seen no save");
    let last = number(&sandbox.content()).unwrap();
    assert!(last > (SAVES - 1) * WRITERS, "{last} is no writer's last");
    assert_eq!(sandbox.entries(), set(["session"]), "{ways:?}");
}

/// I1, 2.1: no reader sees a mix, a prefix or nothing.
#[test]
fn i1_no_read_is_torn_with_tmpfile() {
    ALL_WAYS.into_iter().filter(|w| w.tmpfile).for_each(race);
}

/// I1, I3: also where session.next is written in place.
#[test]
fn i1_no_read_is_torn_without_tmpfile() {
    ALL_WAYS.into_iter().filter(|w| !w.tmpfile).for_each(race);
}

/// A torn content is recognised: otherwise the tests above would prove nothing.
#[test]
fn a_torn_content_is_recognised() {
    let (a, b) = (content(5), content(9));
    assert_eq!((number(&a), number(&b)), (Some(5), Some(9)));
    let mix = [&a[..20_000], &b[20_000..]].concat();
    for torn in [&b""[..], &a[..8], &a[..a.len() - 1], &mix] {
        assert_eq!(number(torn), None);
    }
}
