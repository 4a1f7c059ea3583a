//! What the looks of each user at all sessions have found (DESIGN 13.2): see `links`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::repo::SessionName;
use crate::sys::Statx;

/// How many files are remembered for one user, and for how many users at a time.
const FILES: usize = 256;
const USERS: usize = 64;

/// Two changes in this time may have one time of change: the clocks of filesystems
/// are as coarse as a second.
const COARSE: Duration = Duration::from_secs(2);

/// What they have found.
#[derive(Debug, Default)]
pub(in crate::fs) struct Links {
    by_user: Mutex<HashMap<u32, Arc<Mutex<Looks>>>>,
}

/// Held by the one request of a user that looks.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Oldest first.
    known: VecDeque<Known>,
}

/// What is known of a file.
#[derive(Debug)]
pub(super) struct Known {
    id: u64,
    times: Times,
    /// When these times were seen first.
    since: Instant,
    /// Where it is a checkpoint.
    pub(super) session: Option<SessionName>,
    /// Whether that is so for as long as the times are the same.
    pub(super) is_sure: bool,
}

/// The times of change of a file and of the repository's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times([(i64, u32); 2]);

impl Links {
    pub(super) fn of(&self, user: u32) -> Arc<Mutex<Looks>> {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if by_user.len() >= USERS && !by_user.contains_key(&user) {
            by_user.retain(|_, looks| Arc::strong_count(looks) > 1);
        }
        by_user.entry(user).or_default().clone()
    }
}

impl Looks {
    pub(super) fn find(&self, id: u64, times: Times) -> Option<&Known> {
        let mut known = self.known.iter();
        known.find(|known| known.id == id && known.times == times)
    }

    /// A look that began at this time has found the checkpoint in this session, or
    /// nowhere.
    pub(super) fn note(
        &mut self,
        id: u64,
        times: Times,
        began: Instant,
        session: Option<SessionName>,
    ) {
        let since = self.find(id, times).map_or(began, |known| known.since);
        self.known.retain(|known| known.id != id);
        if self.known.len() >= FILES {
            self.known.pop_front();
        }
        self.known.push_back(Known {
            id,
            times,
            since,
            session,
            is_sure: began.duration_since(since) >= COARSE,
        });
    }
}

impl Times {
    pub(super) fn new(file: &Statx, root: &Statx) -> Self {
        Self([file, root].map(|stat| (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn rule_13_2_what_a_look_has_found_is_sure_once_the_clock_has_gone_on() {
        let mut looks = Looks::default();
        let start = Instant::now();
        let times = |changed| Times([(changed, 0), (1, 0)]);
        let is_sure = |looks: &Looks, changed| looks.find(7, times(changed)).unwrap().is_sure;
        looks.note(7, times(1), start, None);
        assert!(
            !is_sure(&looks, 1),
            "a change in the same moment is not seen"
        );
        looks.note(7, times(1), start + COARSE / 2, None);
        assert!(!is_sure(&looks, 1));
        looks.note(7, times(1), start + COARSE, None);
        assert!(is_sure(&looks, 1));
        assert!(looks.find(7, times(2)).is_none(), "it has changed");
        looks.note(7, times(2), start + COARSE, None);
        assert!(!is_sure(&looks, 2));
        for id in 0..2 * FILES as u64 {
            looks.note(id, times(1), start, None);
        }
        assert_eq!(looks.known.len(), FILES);
    }

    #[test]
    fn rule_13_3_users_who_do_not_look_are_forgotten() {
        let links = Links::default();
        let looking = links.of(7);
        for user in 100..1000 {
            drop(links.of(user));
        }
        assert!(links.by_user.lock().unwrap().len() <= USERS);
        assert!(Arc::ptr_eq(&looking, &links.of(7)));
    }
}
