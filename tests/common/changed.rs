//! Outside input, cut and mixed at random: for unit tests, which try with it what
//! `tests/fuzz` tries guided by coverage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends with the first surprise"
)]

use std::fs;
use std::path::Path;

use random::{Random as Numbers, any_seed};

#[path = "random.rs"]
mod random;

/// How many changed texts of each kind are tried.
pub const TRIES: usize = 20_000;

/// The texts from which a target of `tests/fuzz` starts.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    let mut paths: Vec<_> = fs::read_dir(dir.join(target))
        .expect("the seeds of the target")
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds of {target}");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Tries the seeds of a target unchanged, and then changed.
pub fn try_changed(target: &str, tries: usize, property: impl Fn(&[u8])) {
    let seeds = seeds(target);
    for seed in &seeds {
        property(seed);
    }
    let mut random = Random::new();
    for _ in 0..tries {
        let seed = &seeds[random.below(seeds.len())];
        property(&random.changed(seed));
    }
    println!("{target}: {} cases", seeds.len() + tries);
}

/// The source of random changes.
pub struct Random(Numbers);

impl Random {
    /// Its seed is printed, so that a run can be repeated.
    pub fn new() -> Self {
        let seed = any_seed();
        println!("seed {seed}");
        Self(Numbers::new(seed))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0.below(limit as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        const TELLING: &[u8] = b"\0\n\t :-()\\/0379afx\xff\xc3";
        if self.below(2) == 0 {
            TELLING[self.below(TELLING.len())]
        } else {
            self.below(256) as u8
        }
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.byte()).collect()
    }

    /// A text with a few changes.
    pub fn changed(&mut self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(text.len() + 1);
            let end = (at + self.below(12)).min(text.len());
            match self.below(5) {
                0 => text.truncate(at),
                1 => drop(text.drain(at..end)),
                2 => drop(text.splice(at..end, self.bytes(8))),
                // A number that is too long for any type.
                3 => drop(text.splice(at..at, *b"99999999999999999999")),
                _ => {
                    let piece = text[at..end].to_vec();
                    let to = self.below(text.len() + 1);
                    drop(text.splice(to..to, piece));
                }
            }
        }
        text
    }
}
