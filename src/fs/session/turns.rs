//! The order in which what is remembered for threads is forgotten: a bound for each
//! kind of it, a share of that for each user (DESIGN 13.3), and a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is remembered of one kind, oldest first.
#[derive(Debug)]
pub(in crate::fs) struct Turns {
    capacity: usize,
    rounds: u64,
    by_age: BTreeMap<u64, Turn>,
    by_user: HashMap<u32, BTreeSet<u64>>,
    last: u64,
}

#[derive(Debug)]
struct Turn {
    key: u64,
    user: u32,
    since: u64,
}

impl Turns {
    /// At the most `capacity` at a time, and each for so many rounds.
    pub(in crate::fs) fn new(capacity: usize, rounds: u64) -> Self {
        Self {
            capacity,
            rounds,
            by_age: BTreeMap::new(),
            by_user: HashMap::new(),
            last: 0,
        }
    }

    /// Something of this user is remembered under this key from this round on.
    /// Answers its number.
    pub(in crate::fs) fn begin(&mut self, key: u64, user: u32, round: u64) -> u64 {
        self.last += 1;
        let number = self.last;
        let since = round;
        self.by_age.insert(number, Turn { key, user, since });
        self.by_user.entry(user).or_default().insert(number);
        number
    }

    /// It is forgotten.
    pub(in crate::fs) fn end(&mut self, number: u64) {
        let Some(turn) = self.by_age.remove(&number) else {
            return;
        };
        if let Some(of_user) = self.by_user.get_mut(&turn.user) {
            of_user.remove(&number);
            if of_user.is_empty() {
                self.by_user.remove(&turn.user);
            }
        }
    }

    /// The key of what is to go, if there is more than the capacity: the oldest of
    /// the user with most, whose others leave no room.
    pub(in crate::fs) fn beyond(&self) -> Option<u64> {
        if self.by_age.len() <= self.capacity {
            return None;
        }
        let most = self.by_user.values().max_by_key(|of_user| of_user.len())?;
        Some(self.by_age.get(most.first()?)?.key)
    }

    /// The key of the oldest, if its time is over in this round.
    pub(in crate::fs) fn late(&self, round: u64) -> Option<u64> {
        let (_, oldest) = self.by_age.first_key_value()?;
        (round - oldest.since >= self.rounds).then_some(oldest.key)
    }

    /// All keys, oldest first.
    pub(in crate::fs) fn keys(&self) -> impl Iterator<Item = u64> {
        self.by_age.values().map(|turn| turn.key)
    }

    /// How many there are.
    #[cfg(test)]
    pub(in crate::fs) fn len(&self) -> usize {
        debug_assert_eq!(
            self.by_age.len(),
            self.by_user.values().map(BTreeSet::len).sum::<usize>()
        );
        self.by_age.len()
    }

    #[cfg(test)]
    pub(in crate::fs) fn capacity(&self) -> usize {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_13_3_beyond_the_capacity_the_oldest_of_the_user_with_most_goes() {
        let mut turns = Turns::new(3, 1);
        let first = turns.begin(11, 1, 0);
        let second = turns.begin(21, 2, 0);
        let third = turns.begin(22, 2, 0);
        assert_eq!(turns.beyond(), None);
        let fourth = turns.begin(12, 1, 0);
        turns.end(fourth);
        let fifth = turns.begin(23, 2, 0);
        assert_eq!(turns.beyond(), Some(21));
        turns.end(second);
        assert_eq!(turns.beyond(), None);
        for number in [first, third, fifth] {
            turns.end(number);
        }
        assert!(turns.len() == 0 && turns.by_user.is_empty());
    }

    #[test]
    fn each_has_its_rounds() {
        let mut turns = Turns::new(3, 2);
        let older = turns.begin(1, 0, 5);
        turns.begin(2, 0, 6);
        assert_eq!(turns.late(6), None);
        assert_eq!(turns.late(7), Some(1));
        turns.end(older);
        assert_eq!(turns.late(7), None);
        assert_eq!(turns.late(8), Some(2));
        assert_eq!(turns.keys().collect::<Vec<_>>(), [2]);
    }
}
