//! One process of a storm: a thread that saves and one that reads.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::PROCESSES;
use super::content::Content;
use super::reading::{self, Look};
use super::saving::{self, Save};
use crate::common::Mount;
use crate::common::random::{Random, any_seed};

/// Where a worker finds the mount, how many sessions, and which one it is.
const PLACE: &str = "SESSIONFS_STORM_PLACE";
const SESSIONS: &str = "SESSIONFS_STORM_SESSIONS";
const NUMBER: &str = "SESSIONFS_STORM_NUMBER";
const SECONDS: &str = "SESSIONFS_STORM_SECONDS";

/// The default length of a storm, in seconds.
const DEFAULT_SECONDS: f64 = 0.8;

/// What a worker prints when it has done its part.
pub const REPORT: &str = "a worker has done its part: ";

/// How often every way must have succeeded at least.
const FEWEST_SAVES: usize = 3;
const FEWEST_READS: usize = 10;

/// The first comer gets the slot: a slow way is given more time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The environment that gives a worker its part.
pub fn environment(number: usize, mount: &Mount, sessions: usize) -> [(&str, OsString); 3] {
    [
        (PLACE, mount.mountpoint.clone().into()),
        (SESSIONS, sessions.to_string().into()),
        (NUMBER, number.to_string().into()),
    ]
}

/// One process of a storm.
pub struct Worker {
    place: PathBuf,
    sessions: u64,
    number: usize,
    end: Instant,
    content: Content,
}

impl Worker {
    /// The part that the environment says.
    pub fn new() -> Self {
        let text = |name| std::env::var(name).expect("started by a storm");
        let seconds = std::env::var(SECONDS).map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
        Self {
            place: text(PLACE).into(),
            sessions: text(SESSIONS).parse().unwrap(),
            number: text(NUMBER).parse().unwrap(),
            end: Instant::now() + Duration::from_secs_f64(seconds),
            content: Content::new(),
        }
    }

    /// Those of all ways that only this process uses.
    pub fn share_of<T: Copy>(&self, ways: &[T]) -> impl Iterator<Item = T> {
        ways.iter().copied().skip(self.number).step_by(PROCESSES)
    }

    /// Saves and reads in these ways, until the time is over.
    pub fn run(&self, savers: &[saving::Way], readers: &[reading::Way]) {
        let (saves, reads) = std::thread::scope(|scope| {
            let saver = scope.spawn(|| self.save(savers));
            let reader = scope.spawn(|| self.read(readers));
            (saver.join().unwrap(), reader.join().unwrap())
        });
        println!("\n{REPORT}{saves:?} {reads:?}");
    }

    fn directory(&self, random: &mut Random) -> PathBuf {
        let number = random.below(self.sessions);
        self.place.join(format!("{number}.session"))
    }

    /// How often each way has saved.
    fn save(&self, ways: &[saving::Way]) -> BTreeMap<&str, usize> {
        let mut random = Random::new(any_seed());
        let mut saves: BTreeMap<_, _> = ways.iter().map(|way| (way.name, 0)).collect();
        for way in ways.iter().cycle() {
            let fewest = saves.values().min().copied().unwrap_or_default();
            if Instant::now() > self.end && fewest >= FEWEST_SAVES {
                break;
            }
            let directory = self.directory(&mut random);
            let own = self.number.to_string();
            while !way.save(&mut Save {
                directory: &directory,
                own: &own,
                content: &self.content,
                random: &mut random,
            }) {
                let waited = Instant::now().saturating_duration_since(self.end);
                assert!(waited < PATIENCE, "{}: always refused", way.name);
                std::thread::sleep(Duration::from_micros(random.below(2000)));
            }
            *saves.entry(way.name).or_default() += 1;
        }
        saves
    }

    /// How often each way has read.
    fn read(&self, ways: &[reading::Way]) -> BTreeMap<&str, usize> {
        let mut random = Random::new(any_seed());
        let mut reads: BTreeMap<_, _> = ways.iter().map(|(name, _)| (*name, 0)).collect();
        for (name, read) in ways.iter().cycle() {
            let fewest = reads.values().min().copied().unwrap_or_default();
            if Instant::now() > self.end && fewest >= FEWEST_READS {
                break;
            }
            let directory = self.directory(&mut random);
            let own = self.number.to_string();
            let bytes = read(&mut Look {
                directory: &directory,
                own: &own,
                random: &mut random,
            });
            let bytes = bytes.unwrap_or_else(|e| panic!("{name}: {e}"));
            self.content.check(&bytes);
            *reads.entry(*name).or_default() += 1;
        }
        reads
    }
}
