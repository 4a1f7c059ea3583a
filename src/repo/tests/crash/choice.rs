//! What a disk may have kept of a file's content, and choices between such possibilities.

use std::collections::BTreeSet;

use super::disk::{Content, Id};

/// The unit in which content is lost or kept, in bytes.
const BLOCK: usize = 4096;

/// Every content that may be found in a file whose first version is durable and whose
/// other versions are not.
pub fn mixtures(versions: &[Content]) -> Vec<Content> {
    const STALE: [u8; BLOCK] = [0xdb; BLOCK];
    let [durable, rest @ ..] = versions else {
        unreachable!("there is one")
    };
    if rest.is_empty() {
        return vec![durable.clone()];
    }
    let sizes = versions.iter().map(|version| version.len());
    let largest = sizes.clone().max().unwrap();
    let smallest = sizes.clone().min().unwrap();
    let between = (1..).map(|n| n * BLOCK).take_while(|&size| size < largest);
    let sizes: BTreeSet<usize> = sizes
        .chain(between.filter(|&size| size > smallest))
        .collect();
    let block = |version: &Content, n: usize| {
        let mut bytes = version[(n * BLOCK).min(version.len())..].to_vec();
        bytes.resize(BLOCK, 0);
        bytes
    };
    let blocks: Vec<BTreeSet<Vec<u8>>> = (0..largest.div_ceil(BLOCK))
        .map(|n| {
            let stale = (n * BLOCK >= durable.len()).then(|| STALE.to_vec());
            let all = versions.iter().map(|version| block(version, n));
            all.chain(stale).collect()
        })
        .collect();
    let mut all = BTreeSet::new();
    for size in sizes {
        let mut contents = vec![Vec::new()];
        for options in &blocks[..size.div_ceil(BLOCK)] {
            let with = |content: Vec<u8>| {
                let longer = move |block: &Vec<u8>| [&content[..], block].concat();
                options.iter().map(longer).collect::<Vec<_>>()
            };
            contents = contents.into_iter().flat_map(with).collect();
        }
        all.extend(contents.into_iter().map(|mut content| {
            content.truncate(size);
            content
        }));
    }
    all.into_iter().map(Content::from).collect()
}

/// Shows one option of each choice, in all combinations, or in `most` of them: those in
/// which all but one option are the first or the last, and random ones. Returns whether
/// those were all.
pub fn every_choice<T>(
    choices: &[(Id, Vec<T>)],
    most: usize,
    random: &mut Random,
    mut show: impl FnMut(&[&T]),
) -> bool {
    let all = choices
        .iter()
        .try_fold(1_usize, |all, (_, options)| all.checked_mul(options.len()));
    let complete = all.is_some_and(|all| all <= most);
    let number = if complete { all.unwrap_or(0) } else { most };
    let corners = choices.len() * 4;
    for n in 0..number {
        let mut rest = n;
        let chosen: Vec<&T> = choices
            .iter()
            .enumerate()
            .map(|(at, (_, options))| {
                let any = random.below(options.len());
                let chosen = match n {
                    _ if complete => rest % options.len(),
                    _ if n >= corners || n / 4 == at => any,
                    _ if n % 2 == 0 => 0,
                    _ => options.len() - 1,
                };
                rest /= options.len();
                &options[chosen]
            })
            .collect();
        show(&chosen);
    }
    complete
}

/// Every subset of this many things, one bit for each; of many things those that keep the
/// first ones, and some others. And whether those are all.
pub fn subsets(things: usize, most: usize, random: &mut Random) -> (Vec<u64>, bool) {
    const MANY: usize = 7;
    if things <= MANY {
        return ((0..1 << things).collect(), true);
    }
    let first = (0..=things).map(|kept| (1 << kept) - 1);
    let others = (0..(most / 10).min(500))
        .map(|_| random.below(1 << 31) as u64 & ((1 << things.min(31)) - 1));
    (first.chain(others).collect(), false)
}

/// Numbers that look random and follow from a seed (xorshift64*).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        high as usize % bound
    }
}
