//! Shares of what all users share: descriptors and memory (DESIGN 13.3). A user whose
//! share is used up is refused, and the others go on.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, geteuid, getrlimit};

/// How many descriptors an open writer takes: the session, the base, the base opened for
/// reading, the checkpoint whose number it shows, the staged file, and two processes that
/// write. Each process that has opened it takes one more, which counts as its handle's.
pub(in crate::fs) const OF_WRITER: u64 = 7;

/// How many descriptors at most are reserved for the daemon itself: for what it opens
/// while it answers, and for what it keeps open for no user in particular (`threads`,
/// `node`, `replaced`), which has limits of its own.
const RESERVE: u64 = 4096;

/// If nothing has been given back for this long, nothing more is expected: a disk may not
/// be answering.
const STILL: Duration = Duration::from_secs(1);

/// Something of which each user has a share. The user of the daemon, and root, may use
/// all of it.
#[derive(Debug)]
pub struct Shares {
    each: u64,
    all: u64,
    daemon: u32,
    used: Mutex<Used>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    by_user: HashMap<u32, u64>,
    all: u64,
    /// When something was given back last.
    last: Option<Instant>,
}

/// What a user has taken. It is given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    user: u32,
    amount: u64,
}

impl Shares {
    /// `each` for one user, and `all` for all users together.
    pub fn new(each: u64, all: u64) -> Arc<Self> {
        Arc::new(Self {
            each,
            all,
            daemon: geteuid().as_raw(),
            used: Mutex::default(),
            given_back: Condvar::new(),
        })
    }

    /// The descriptors of this process: half of them for each user, less a reserve for
    /// the daemon itself.
    pub(in crate::fs) fn of_descriptors() -> Arc<Self> {
        let limit = limit_of_descriptors();
        let reserve = RESERVE.min(limit / 4);
        Self::new(limit / 2 - reserve, limit - reserve)
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an amount for a user; `None` if the share has less than that left.
    pub fn take(self: &Arc<Self>, user: u32, amount: u64) -> Option<Share> {
        let used = self.lock();
        self.take_of(used, user, amount)
    }

    /// As [`take`](Self::take), but waits, for `patience` at most, until enough has been
    /// given back. Gives up if nothing is given back for a second.
    pub fn take_within(
        self: &Arc<Self>,
        user: u32,
        amount: u64,
        patience: Duration,
    ) -> Option<Share> {
        let deadline = Instant::now() + patience;
        let mut used = self.lock();
        while !self.fits(&used, user, amount) {
            let moves = used.last.is_some_and(|at| at.elapsed() < STILL);
            let left = deadline.saturating_duration_since(Instant::now());
            if !moves || left.is_zero() {
                return None;
            }
            let waited = self.given_back.wait_timeout(used, left);
            (used, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        self.take_of(used, user, amount)
    }

    /// As [`take`](Self::take), but waits as long as necessary; `None` if no user may
    /// have that much.
    pub fn wait_for(self: &Arc<Self>, user: u32, amount: u64) -> Option<Share> {
        // More than the share can never be given back.
        if amount > self.each.min(self.all) {
            return None;
        }
        let is_short = |used: &mut Used| !self.fits(used, user, amount);
        let waited = self.given_back.wait_while(self.lock(), is_short);
        let used = waited.unwrap_or_else(PoisonError::into_inner);
        self.take_of(used, user, amount)
    }

    fn take_of(
        self: &Arc<Self>,
        mut used: MutexGuard<'_, Used>,
        user: u32,
        amount: u64,
    ) -> Option<Share> {
        if !self.fits(&used, user, amount) {
            return None;
        }
        used.all += amount;
        *used.by_user.entry(user).or_default() += amount;
        Some(Share {
            shares: self.clone(),
            user,
            amount,
        })
    }

    fn give_back(&self, user: u32, amount: u64) {
        let mut used = self.lock();
        used.all = used.all.saturating_sub(amount);
        if let Some(own) = used.by_user.get_mut(&user) {
            *own = own.saturating_sub(amount);
            if *own == 0 {
                used.by_user.remove(&user);
            }
        }
        if amount > 0 {
            used.last = Some(Instant::now());
            drop(used);
            self.given_back.notify_all();
        }
    }

    fn fits(&self, used: &Used, user: u32, amount: u64) -> bool {
        let own = used.by_user.get(&user).copied().unwrap_or_default();
        let is_bound = user != self.daemon && user != 0;
        used.all.saturating_add(amount) <= self.all
            && (!is_bound || own.saturating_add(amount) <= self.each)
    }
}

impl Share {
    /// Changes the amount. Returns false, and changes nothing, if the user may not have
    /// that much.
    pub fn resize(&mut self, amount: u64) -> bool {
        if amount <= self.amount {
            self.shares.give_back(self.user, self.amount - amount);
        } else {
            let more = self.shares.take(self.user, amount - self.amount);
            let Some(mut more) = more else {
                return false;
            };
            // It belongs to this share from now on.
            more.amount = 0;
        }
        self.amount = amount;
        true
    }

    /// Splits off a part, which is given back separately.
    pub fn split(&mut self, amount: u64) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self {
            shares: self.shares.clone(),
            user: self.user,
            amount,
        }
    }

    /// Its user.
    pub(in crate::fs) fn user(&self) -> u32 {
        self.user
    }

    /// Whether another share is the same user's.
    pub fn is_of_same_user(&self, other: &Self) -> bool {
        self.user == other.user
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.give_back(self.user, self.amount);
    }
}

/// How many descriptors this process may have.
pub(in crate::fs) fn limit_of_descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;

    const ANN: u32 = 61001;
    const BOB: u32 = 61002;

    #[test]
    fn rule_13_3_a_used_up_share_leaves_others_theirs() {
        let shares = Shares::new(10, 25);
        let first = shares.take(ANN, 7).unwrap();
        assert!(shares.take(ANN, 4).is_none());
        let second = shares.take(ANN, 3).unwrap();
        let other = shares.take(BOB, 10).unwrap();
        // All there is, for the user of the daemon.
        assert!(shares.take(geteuid().as_raw(), 6).is_none());
        let own = shares.take(geteuid().as_raw(), 5).unwrap();
        drop((first, other));
        assert!(shares.take(ANN, 8).is_none());
        drop((shares.take(ANN, 7).unwrap(), second, own));
        let mut share = shares.take(ANN, 0).unwrap();
        assert!(share.resize(10) && !share.resize(11) && shares.take(ANN, 1).is_none());
        assert!(share.resize(3) && shares.take(ANN, 8).is_none());
        assert!(shares.take(ANN, 7).unwrap().is_of_same_user(&share));
        drop(share);
        let used = shares.lock();
        assert!(used.by_user.is_empty() && used.all == 0, "{used:?}");
    }

    #[test]
    fn a_share_can_be_waited_for() {
        let patience = Duration::from_secs(60);
        let shares = Shares::new(1, 9);
        let taken = shares.take(ANN, 1).unwrap();
        // Nothing has been given back yet, so it does not wait.
        assert!(shares.take_within(ANN, 1, patience).is_none());
        drop(shares.take(BOB, 1));
        let short = Duration::from_millis(1);
        assert!(shares.take_within(ANN, 1, short).is_none());
        assert!(shares.take_within(BOB, 1, short).is_some());
        std::thread::scope(|scope| {
            let first = scope.spawn(|| shares.wait_for(ANN, 1).is_some());
            let second = scope.spawn(|| shares.wait_for(ANN, 1).is_some());
            drop(taken);
            assert!(first.join().unwrap() && second.join().unwrap());
        });
        assert!(shares.wait_for(ANN, 2).is_none(), "more than there is");
    }
}
