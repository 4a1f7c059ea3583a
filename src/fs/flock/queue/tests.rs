//! The queue of locks, without a mount (DESIGN 2.16).

use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::fs::Caller;

fn ask(handle: u64, what: Flock) -> Ask {
    let caller = Caller {
        tid: std::process::id(),
        uid: 7,
        gid: 7,
    };
    Ask {
        node: 0,
        handle,
        what,
        waits: true,
        caller,
    }
}

/// Makes a request wait; returns where its answer arrives.
fn wait(flocks: &Flocks, ask: Ask) -> Receiver<Result<()>> {
    let (tell, told) = channel();
    flocks.wait(
        (1, 0),
        ask,
        Box::new(move |result| tell.send(result).unwrap()),
    );
    told
}

fn answer(flocks: &Flocks) {
    for due in flocks.due() {
        let result = due.result;
        due.answer(result);
    }
}

#[test]
fn a_lock_is_granted_in_the_order_of_the_requests() {
    use Flock::{Exclusive, Shared};
    let flocks = Flocks::default();
    assert!(flocks.take((1, 0), &ask(1, Shared)));
    assert!(flocks.take((1, 0), &ask(2, Shared)));
    assert!(flocks.take((2, 0), &ask(9, Exclusive)), "another file's");
    assert!(!flocks.take((1, 0), &ask(3, Exclusive)));
    let third = wait(&flocks, ask(3, Exclusive));
    assert!(flocks.take((1, 0), &ask(4, Shared)), "it is free for that");
    let fifth = wait(&flocks, ask(5, Exclusive));
    let sixth = wait(&flocks, ask(6, Shared));
    let seventh = wait(&flocks, ask(7, Shared));
    for handle in [1, 2] {
        flocks.release(handle);
        assert!(third.try_recv().is_err());
    }
    flocks.release(4);
    answer(&flocks);
    assert_eq!(third.try_recv(), Ok(Ok(())));
    assert!(fifth.try_recv().is_err());
    // It gives up its lock for the other kind, and the lock goes to the next request.
    assert!(!flocks.take((1, 0), &ask(3, Shared)));
    answer(&flocks);
    assert_eq!(fifth.try_recv(), Ok(Ok(())));
    flocks.release(5);
    answer(&flocks);
    assert_eq!(sixth.try_recv(), Ok(Ok(())));
    assert_eq!(seventh.try_recv(), Ok(Ok(())));
    for handle in [6, 7, 9] {
        flocks.release(handle);
    }
    let inner = flocks.lock();
    assert!(inner.files.is_empty() && inner.locked.is_empty() && inner.timed.is_empty());
    assert!(inner.waiting.is_empty());
}

#[test]
fn an_unlock_before_the_save_takes_effect_at_the_save_or_after_a_while() {
    let flocks = Flocks::default();
    for is_saved in [true, false] {
        assert!(flocks.take((1, 0), &ask(1, Flock::Exclusive)));
        flocks.unlock_when_saved(1);
        assert!(!flocks.take((1, 0), &ask(2, Flock::Shared)));
        let impatient = Ask {
            waits: false,
            ..ask(2, Flock::Shared)
        };
        let told = wait(&flocks, impatient);
        if is_saved {
            flocks.saved(1);
        }
        answer(&flocks);
        assert_eq!(told.try_recv(), Ok(Ok(())));
        flocks.release(2);
    }
    // One that locks again before the save has the lock as before.
    assert!(flocks.take((1, 0), &ask(1, Flock::Exclusive)));
    flocks.unlock_when_saved(1);
    assert!(flocks.take((1, 0), &ask(1, Flock::Exclusive)));
    flocks.saved(1);
    assert!(!flocks.take((1, 0), &ask(2, Flock::Shared)));
}

#[test]
fn the_release_of_ended_processes_is_waited_for_longer() {
    let flocks = Flocks::default();
    let by = |tid: u32, handle: u64| {
        let mut ask = ask(handle, Flock::Shared);
        ask.caller.tid = tid;
        ask
    };
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let most = OWNERS_LOOKED_AT as u64;
    for handle in 1..=most {
        assert!(flocks.take((1, 0), &by(child.id(), handle)));
    }
    let asked = ask(0, Flock::Exclusive);
    assert_eq!(flocks.release_time((1, 0), &asked), RELEASE_TIME);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(flocks.release_time((1, 0), &asked), EXIT_TIME);
    // Only this number of owners is looked at, up to the first that lives.
    let me = std::process::id();
    assert!(flocks.take((1, 0), &by(me, most + 1)));
    assert_eq!(flocks.release_time((1, 0), &asked), EXIT_TIME);
    flocks.release(1);
    assert_eq!(flocks.release_time((1, 0), &asked), RELEASE_TIME);
    assert_eq!(flocks.release_time((2, 0), &asked), RELEASE_TIME);
}

#[test]
fn the_waiting_requests_of_one_user_are_bounded_and_others_have_their_own() {
    let flocks = Flocks::default();
    assert!(flocks.take((1, 0), &ask(0, Flock::Exclusive)));
    let waiting: Vec<_> = (1..=MOST_WAITING as u64)
        .map(|handle| wait(&flocks, ask(handle, Flock::Exclusive)))
        .collect();
    let refused = wait(&flocks, ask(1 << 20, Flock::Exclusive));
    answer(&flocks);
    assert_eq!(refused.try_recv(), Ok(Err(Fail::Errno(libc::ENOLCK))));
    let mut other = ask(1 << 21, Flock::Exclusive);
    other.caller.uid = 8;
    let other = wait(&flocks, other);
    for handle in 0..=MOST_WAITING as u64 {
        flocks.release(handle);
    }
    answer(&flocks);
    assert!(waiting.iter().all(|told| told.try_recv() == Ok(Ok(()))));
    assert_eq!(other.try_recv(), Ok(Ok(())));
}
