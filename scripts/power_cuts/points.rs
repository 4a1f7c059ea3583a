//! The moments at which the power is cut, and what the disk keeps then.

use crate::disk::{Entry, pieces};
use crate::random::Random;

/// One cut. All writes before the last flush are there; of the writes after
/// it, those that `kept` chooses.
#[derive(Clone, Debug)]
pub struct Point {
    /// So many entries are there in any case.
    pub covered: usize,
    /// The cut is before this entry.
    pub cut: usize,
    pub kept: Kept,
}

/// What is kept of the writes that no flush has covered.
#[derive(Clone, Debug)]
pub enum Kept {
    Nothing,
    /// Chosen by chance, from this seed.
    Some(u64),
}

/// For each flush, the disk as it stood there: with nothing of what was
/// written later. That may have been any moment up to the next flush; the
/// last of them is the one with the most acknowledged saves.
fn at_flushes(entries: &[Entry]) -> Vec<Point> {
    let is_flush = |(_, entry): &(usize, &Entry)| matches!(entry, Entry::Flush);
    let flushes: Vec<_> = entries.iter().enumerate().filter(is_flush).collect();
    let next = flushes.iter().skip(1).map(|(i, _)| *i);
    let ends = next.chain([entries.len()]);
    let both = flushes.iter().zip(ends);
    both.map(|((flush, _), end)| Point {
        covered: flush + 1,
        cut: end,
        kept: Kept::Nothing,
    })
    // Nothing was written before the next one: the same disk, to be tried there.
    .filter(|point| point.covered < point.cut || point.cut == entries.len())
    .collect()
}

/// Cuts to be tried, in the order of time: at every flush, and as many between
/// flushes; or `limit` of them, half of either kind.
pub fn choose(entries: &[Entry], limit: Option<usize>, random: &mut Random) -> Vec<Point> {
    let mut points = at_flushes(entries);
    let number = limit.unwrap_or(2 * points.len());
    while points.len() > number / 2 {
        let one = random.below(points.len() as u64) as usize;
        points.swap_remove(one);
    }
    let mut covered = 0;
    let mut writes = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        match entry {
            Entry::Flush => covered = i + 1,
            Entry::Write(..) => writes.push((covered, i + 1)),
        }
    }
    while points.len() < number && !writes.is_empty() {
        let (covered, cut) = writes[random.below(writes.len() as u64) as usize];
        points.push(Point {
            covered,
            cut,
            kept: Kept::Some(random.next()),
        });
    }
    points.sort_by_key(|point| (point.cut, point.covered));
    points
}

impl Point {
    /// The pieces of uncovered writes that are kept, in order.
    pub fn kept<'a>(&self, entries: &'a [Entry]) -> Vec<(u64, &'a [u8])> {
        let Kept::Some(seed) = self.kept else {
            return Vec::new();
        };
        let mut random = Random::new(seed);
        let writes: Vec<_> = entries[self.covered..self.cut]
            .iter()
            .filter_map(|entry| match entry {
                Entry::Write(offset, data) => Some((*offset, &data[..])),
                Entry::Flush => None,
            })
            .collect();
        if writes.is_empty() {
            return Vec::new();
        }
        // What disks do: lose a few, keep a few, go by the order or not, tear
        // or not.
        let way = random.below(8);
        let one = random.below(writes.len() as u64) as usize;
        let mut kept = Vec::new();
        for (i, (offset, data)) in writes.into_iter().enumerate() {
            let by_piece = match way {
                0 => Some(2),
                1 => Some(8),
                _ => None,
            };
            let is_kept = match way {
                2 => random.below(2) == 0,
                3 => random.below(8) != 0,
                4 => i == one,
                5 => i != one,
                // In order, and the last one torn.
                6 => i <= one,
                _ => true,
            };
            for piece in pieces(offset, data) {
                let is_torn = way == 6 && i == one && random.below(2) == 0;
                let is_lost = by_piece.is_some_and(|n| random.below(n) == 0) || is_torn;
                if is_kept && !is_lost {
                    kept.push(piece);
                }
            }
        }
        kept
    }
}
