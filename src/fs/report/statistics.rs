//! Statistics of the saves of a mount. The errors of one user displace none of another
//! (DESIGN 13.3).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::repo::{Session, SessionName};
use crate::sys;

/// Of how many sessions the last error is remembered. Beyond that the oldest error goes
/// of the user with the most.
const MOST_ERRORS: usize = 1000;

/// Counts of saves since the mount was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Saves {
    /// Acknowledged.
    pub done: u64,
    /// Not made, because a process that had written was killed.
    pub abandoned: u64,
    /// Not made for another reason.
    pub failed: u64,
}

/// Why the last save of a session was not made. It is forgotten at the next successful
/// save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When it failed.
    pub at: SystemTime,
    /// The errno, whether or not a caller got it.
    pub errno: i32,
}

/// How long saves take: upper bounds for a part of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    /// Half of them took at most this long.
    pub p50: Duration,
    /// 90 of 100.
    pub p90: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// All.
    pub max: Duration,
}

/// The counts and the last errors of a mount.
#[derive(Debug, Default)]
pub(in crate::fs) struct Statistics {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    saves: Saves,
    durations: Histogram,
    /// With the user whose session it is.
    errors: BTreeMap<SessionName, (u32, LastError)>,
}

impl Statistics {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a save, which took this long.
    pub(in crate::fs) fn saved(&self, session: &SessionName, took: Duration) {
        log::debug!("{session}: saved, in {took:.1?}");
        let mut inner = self.lock();
        inner.saves.done += 1;
        inner.durations.add(took);
        inner.errors.remove(session);
    }

    /// Counts a save that was abandoned.
    pub(in crate::fs) fn abandoned(&self, session: &Session) {
        let owner = owner_of(session);
        let mut inner = self.lock();
        inner.saves.abandoned += 1;
        inner.note(owner, session.name(), libc::ECANCELED);
    }

    /// Counts a save that failed.
    pub(in crate::fs) fn failed(&self, session: &Session, errno: i32) {
        let owner = owner_of(session);
        let mut inner = self.lock();
        inner.saves.failed += 1;
        inner.note(owner, session.name(), errno);
    }

    /// Whether the last save of a session failed with this error: a program that tries
    /// again and again is logged only once.
    pub(in crate::fs) fn has_failed_so(&self, session: &SessionName, errno: i32) -> bool {
        let inner = self.lock();
        inner
            .errors
            .get(session)
            .is_some_and(|(_, last)| last.errno == errno)
    }

    pub(in crate::fs) fn saves(&self) -> Saves {
        self.lock().saves
    }

    pub(in crate::fs) fn latencies(&self) -> Latencies {
        self.lock().durations.latencies()
    }

    pub(in crate::fs) fn errors(&self) -> Vec<(SessionName, LastError)> {
        let inner = self.lock();
        let errors = inner.errors.iter();
        errors
            .map(|(name, (_, error))| (name.clone(), error.clone()))
            .collect()
    }
}

impl Inner {
    fn note(&mut self, owner: u32, session: &SessionName, errno: i32) {
        let error = LastError {
            at: SystemTime::now(),
            errno,
        };
        self.errors.insert(session.clone(), (owner, error));
        if self.errors.len() > MOST_ERRORS
            && let Some(most) = self.owner_of_most()
            && let Some(oldest) = (self.errors.iter())
                .filter(|(_, (owner, _))| *owner == most)
                .min_by_key(|(_, (_, error))| error.at)
                .map(|(name, _)| name.clone())
        {
            self.errors.remove(&oldest);
        }
    }

    fn owner_of_most(&self) -> Option<u32> {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for (owner, _) in self.errors.values() {
            *counts.entry(*owner).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(owner, _)| owner)
    }
}

/// The owner of a session's directory.
fn owner_of(session: &Session) -> u32 {
    sys::fstat(session.dir()).map_or(u32::MAX, |stat| stat.stx_uid)
}

/// Steps for each doubling: a bound is at most an eighth too high.
const STEPS: u32 = 8;

/// Counts of durations by their size in microseconds.
#[derive(Debug, Default)]
struct Histogram {
    counts: Vec<u64>,
    max: Duration,
}

impl Histogram {
    fn add(&mut self, duration: Duration) {
        let step = step_of(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.max = self.max.max(duration);
    }

    fn latencies(&self) -> Latencies {
        let all: u64 = self.counts.iter().sum();
        let within = |percent: u64| {
            let wanted = (all * percent).div_ceil(100);
            let mut counted = 0;
            let step = self.counts.iter().position(|count| {
                counted += count;
                counted >= wanted
            });
            let bound = step.map_or(0, bound_of);
            Duration::from_micros(bound).min(self.max)
        };
        Latencies {
            p50: within(50),
            p90: within(90),
            p99: within(99),
            max: self.max,
        }
    }
}

/// The step in which a number of microseconds is counted.
fn step_of(micros: u64) -> usize {
    let Some(doubling) = micros.checked_ilog2().filter(|&n| n >= 3) else {
        return micros as usize;
    };
    let within = (micros >> (doubling - 3)) & u64::from(STEPS - 1);
    ((doubling - 2) * STEPS) as usize + within as usize
}

/// The largest number of microseconds that is counted in a step.
fn bound_of(step: usize) -> u64 {
    let step = step as u64;
    let (doubling, within) = (step / u64::from(STEPS), step % u64::from(STEPS));
    if doubling == 0 {
        return within;
    }
    let next = u128::from(u64::from(STEPS) + within + 1) << (doubling - 1);
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]
mod tests {
    use super::*;
    use crate::repo::Repository;

    const ANN: u32 = 61001;
    const BOB: u32 = 61002;

    #[test]
    fn a_bound_is_the_largest_number_of_its_step() {
        for micros in (0..5000).chain([u64::MAX / 2, u64::MAX - 1, u64::MAX]) {
            let bound = bound_of(step_of(micros));
            assert!(bound >= micros, "{micros}: {bound}");
            assert!(bound - micros <= micros / 8, "{micros}: {bound}");
            assert_eq!(step_of(bound), step_of(micros));
            if bound < u64::MAX {
                assert_eq!(step_of(bound + 1), step_of(micros) + 1);
            }
        }
    }

    #[test]
    fn percentiles_count_all_saves() {
        let statistics = Statistics::default();
        let name = SessionName::from_id("a").unwrap();
        assert_eq!(statistics.latencies(), Latencies::default());
        for millis in 1..=100 {
            statistics.saved(&name, Duration::from_millis(millis));
        }
        let latencies = statistics.latencies();
        let about = |duration: Duration, millis: u64| {
            let exact = Duration::from_millis(millis);
            assert!(
                duration >= exact && duration <= exact * 9 / 8,
                "{duration:?}"
            );
        };
        about(latencies.p50, 50);
        about(latencies.p90, 90);
        about(latencies.p99, 99);
        assert_eq!(latencies.max, Duration::from_millis(100));
        assert_eq!(statistics.saves().done, 100);
    }

    #[test]
    fn an_error_is_remembered_until_the_next_good_save_of_the_session() {
        let statistics = Statistics::default();
        let name = |id: &str| SessionName::from_id(id).unwrap();
        let note = |owner, id: &str, errno| statistics.lock().note(owner, &name(id), errno);
        note(ANN, "a", libc::ENOSPC);
        note(ANN, "b", libc::ECANCELED);
        statistics.saved(&name("a"), Duration::ZERO);
        let errors = statistics.errors();
        let [(session, error)] = &errors[..] else {
            panic!("{errors:?}");
        };
        assert_eq!((session, error.errno), (&name("b"), libc::ECANCELED));
        for n in 0..2 * MOST_ERRORS {
            note(BOB, &n.to_string(), libc::EIO);
        }
        let errors = statistics.errors();
        assert_eq!(errors.len(), MOST_ERRORS);
        // Another user's is not pushed out.
        assert!(errors.iter().any(|(session, _)| *session == name("b")));
        let last = name(&(2 * MOST_ERRORS - 1).to_string());
        assert!(errors.iter().any(|(session, _)| *session == last));
        assert!(errors.iter().all(|(session, _)| *session != name("0")));
    }

    #[test]
    fn saves_are_counted_by_what_became_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let session = Repository::new(dir.path()).create("t-").unwrap();
        let statistics = Statistics::default();
        statistics.failed(&session, libc::ENOSPC);
        assert!(statistics.has_failed_so(session.name(), libc::ENOSPC));
        statistics.abandoned(&session);
        statistics.saved(session.name(), Duration::ZERO);
        let saves = statistics.saves();
        assert_eq!((saves.done, saves.abandoned, saves.failed), (1, 1, 1));
        assert!(statistics.errors().is_empty());
    }
}
