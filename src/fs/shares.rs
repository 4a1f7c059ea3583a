//! What each user may have of what all share: descriptors, and memory (DESIGN
//! 13.3). Beyond it, that user is refused, and the others go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, geteuid, getrlimit};

/// The descriptors that an open checkpoint takes while it is written, beside
/// that of its handle: of its session, of the checkpoint it started from, of what is
/// staged, and of the process that writes.
pub(super) const OF_WRITER: u64 = 4;

/// At the most so many descriptors are kept for the daemon itself: for what it
/// opens while it answers.
const RESERVE: u64 = 128;

/// Something of which each user has a share. Whoever runs the daemon, and root,
/// may have all of it.
#[derive(Debug)]
pub struct Shares {
    each: u64,
    all: u64,
    daemon: u32,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    by_user: HashMap<u32, u64>,
    all: u64,
}

/// What a user has taken; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    user: u32,
    amount: u64,
}

impl Shares {
    /// `each` for a user, and `all` for all of them.
    pub fn new(each: u64, all: u64) -> Arc<Self> {
        Arc::new(Self {
            each,
            all,
            daemon: geteuid().as_raw(),
            used: Mutex::default(),
        })
    }

    /// The descriptors of this process: half of them for each user, less a
    /// reserve for the daemon itself.
    pub(super) fn of_descriptors() -> Arc<Self> {
        let limit = limit_of_descriptors();
        let reserve = RESERVE.min(limit / 8);
        Self::new(limit / 2 - reserve, limit - reserve)
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So much for a user; `None` if that is more than is left of the share.
    pub fn take(self: &Arc<Self>, user: u32, amount: u64) -> Option<Share> {
        let mut used = self.lock();
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

    fn fits(&self, used: &Used, user: u32, amount: u64) -> bool {
        let own = used.by_user.get(&user).copied().unwrap_or_default();
        let is_bound = user != self.daemon && user != 0;
        used.all.saturating_add(amount) <= self.all
            && (!is_bound || own.saturating_add(amount) <= self.each)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.shares.lock();
        used.all = used.all.saturating_sub(self.amount);
        if let Some(own) = used.by_user.get_mut(&self.user) {
            *own = own.saturating_sub(self.amount);
            if *own == 0 {
                used.by_user.remove(&self.user);
            }
        }
    }
}

/// How many descriptors this process may have.
pub(super) fn limit_of_descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;

    const ANN: u32 = 61001;
    const BOB: u32 = 61002;

    #[test]
    fn rule_13_3_a_share_ends_and_others_go_on() {
        let shares = Shares::new(10, 25);
        let first = shares.take(ANN, 7).unwrap();
        assert!(shares.take(ANN, 4).is_none());
        let second = shares.take(ANN, 3).unwrap();
        let other = shares.take(BOB, 10).unwrap();
        // All there is, for whoever runs the daemon.
        assert!(shares.take(geteuid().as_raw(), 6).is_none());
        let own = shares.take(geteuid().as_raw(), 5).unwrap();
        drop((first, other));
        assert!(shares.take(ANN, 8).is_none());
        drop((shares.take(ANN, 7).unwrap(), second, own));
        let used = shares.lock();
        assert!(used.by_user.is_empty() && used.all == 0, "{used:?}");
    }
}
