//! Many processes that save and read at the same time (DESIGN 2.1 to 2.4,
//! 2.8, I1): nobody ever sees anything but one whole checkpoint.
//!
//! `SESSIONFS_STORM_SECONDS` says how long each storm lasts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::observe::descriptors;
use common::tools::close;
use common::{Backing, Mount, shell, times, wait_until};

on_each_filesystem!(
    i1_a_storm_on_one_session,
    i1_a_storm_on_one_session_without_passthrough,
    i1_a_storm_on_64_sessions,
    rule_2_4_bash_reads_back_what_it_has_just_saved,
    rule_2_4_dash_reads_back_what_it_has_just_saved,
);

/// Each with a thread that saves and one that reads.
const PROCESSES: usize = 6;

/// The test that is the body of a process of the storm.
const WORKER: &str = "worker_of_the_storm";

/// Where a worker finds the mount, and how many sessions.
const PLACE: &str = "SESSIONFS_STORM_PLACE";
const SESSIONS: &str = "SESSIONFS_STORM_SESSIONS";
const SECONDS: &str = "SESSIONFS_STORM_SECONDS";

fn i1_a_storm_on_one_session(backing: Backing) {
    storm(backing, &[], 1);
}

fn i1_a_storm_on_one_session_without_passthrough(backing: Backing) {
    storm(backing, &["--no-passthrough"], 1);
}

fn i1_a_storm_on_64_sessions(backing: Backing) {
    storm(backing, &[], 64);
}

fn storm(backing: Backing, options: &[&str], sessions: usize) {
    let mount = Mount::with(backing, options);
    let content = Content::new();
    let sessions: Vec<_> = (0..sessions)
        .map(|number| mount.session(number.to_string()))
        .collect();
    for session in &sessions {
        fs::write(session.file(), content.of(7, 1000)).unwrap();
        content.check(&fs::read(session.file()).unwrap());
    }
    // Those that hold replaced checkpoints for a moment are not counted.
    let before = descriptors(mount.pid())
        .into_iter()
        .filter(|path| !path.starts_with(mount.disk.path()) || *path == mount.repository)
        .count();

    let workers: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args([WORKER, "--exact", "--ignored", "--nocapture"])
                .env(PLACE, &mount.mountpoint)
                .env(SESSIONS, sessions.len().to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    // All have to end before one is judged.
    let outputs: Vec<_> = workers
        .into_iter()
        .map(|worker| worker.wait_with_output().unwrap())
        .collect();
    for output in outputs {
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{complaint}");
        let count = |what: &str| -> usize {
            said.lines()
                .find_map(|line| line.split_once(what)?.1.parse().ok())
                .unwrap_or_else(|| panic!("a worker did not report: {said}{complaint}"))
        };
        assert!(count("saves: ") >= 5, "{said}");
        assert!(count("reads: ") >= 20, "{said}");
    }

    for session in &sessions {
        assert_eq!(session.names(), ["session"]);
        let last = fs::read(session.checkpoint()).unwrap();
        content.check(&last);
        assert!(fs::read(session.file()).unwrap() == last);
    }
    mount.assert_nothing_leaked(before);
}

#[test]
#[ignore = "a worker of the storm, started by the tests of it"]
fn worker_of_the_storm() {
    let place = PathBuf::from(std::env::var_os(PLACE).expect("started by a storm"));
    let sessions = std::env::var(SESSIONS).unwrap().parse().unwrap();
    let seconds = std::env::var(SECONDS).map_or(3.0, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let content = Content::new();
    std::thread::scope(|scope| {
        let saver = scope.spawn(|| save(&content, &place, sessions, end));
        let reader = scope.spawn(|| read(&content, &place, sessions, end));
        println!("\nsaves: {}", saver.join().unwrap());
        println!("reads: {}", reader.join().unwrap());
    });
}

#[test]
fn rule_2_1_a_reader_is_asked_for_its_size_after_another_has_closed() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let reader = File::open(session.file()).unwrap();
    drop(File::open(session.file()).unwrap());
    fs::write(session.file(), "newer").unwrap();
    wait_until("only the reader keeps the old checkpoint", || {
        let replaced = descriptors(mount.pid())
            .iter()
            .filter(|path| path.to_string_lossy().ends_with("/session (deleted)"))
            .count();
        assert!(replaced > 0, "the reader has lost its checkpoint");
        replaced == 1
    });
    assert_eq!(reader.metadata().unwrap().len(), 3);
}

fn file(place: &Path, random: &mut Random, sessions: u64) -> PathBuf {
    let number = random.below(sessions);
    place.join(format!("{number}.session/session"))
}

/// Saves until the time is over; the number of saves.
fn save(content: &Content, place: &Path, sessions: u64, end: Instant) -> usize {
    let mut random = Random::new();
    let mut saves = 0;
    // The slot goes to whoever comes first: a slow one is given more time.
    let patience = end + Duration::from_secs(60);
    while Instant::now() < end || saves < 5 && Instant::now() < patience {
        let path = file(place, &mut random, sessions);
        let mut writer = match File::create(&path) {
            Err(e) if e.kind() == ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_micros(random.below(2000)));
                continue;
            }
            other => other.unwrap_or_else(|e| panic!("open {} to save: {e}", path.display())),
        };
        let longest = 1 << random.below(21);
        let bytes = content.of(random.next(), 1 + random.below(longest) as usize);
        let piece = 1 + random.below(bytes.len() as u64) as usize;
        for piece in bytes.chunks(piece.max(bytes.len() / 8)) {
            writer.write_all(piece).expect("write");
        }
        assert_eq!(writer.metadata().expect("fstat").len(), bytes.len() as u64);
        if random.below(4) == 0 {
            writer.sync_all().expect("fsync");
        }
        close(writer).expect("close");
        saves += 1;
    }
    saves
}

/// Reads until the time is over; the number of reads.
fn read(content: &Content, place: &Path, sessions: u64, end: Instant) -> usize {
    let mut random = Random::new();
    let mut reads = 0;
    let mut bytes = Vec::new();
    while Instant::now() < end || reads < 20 {
        let path = file(place, &mut random, sessions);
        let mut reader =
            File::open(&path).unwrap_or_else(|e| panic!("open {} to read: {e}", path.display()));
        let size = || reader.metadata().expect("fstat").len();
        let before = size();
        bytes.clear();
        let first = random.below(before + 1);
        (&reader).take(first).read_to_end(&mut bytes).expect("read");
        let between = size();
        reader.read_to_end(&mut bytes).expect("read");
        let after = reader.metadata().expect("fstat").len();
        let read = bytes.len() as u64;
        assert_eq!((before, between, after), (read, read, read), "sizes");
        content.check(&bytes);
        reads += 1;
    }
    reads
}

/// Contents that tell whether they are whole: the length, where the rest
/// begins in a table of noise, and the rest.
struct Content {
    noise: Vec<u8>,
}

impl Content {
    const HEAD: usize = 16;

    fn new() -> Self {
        // The same in all processes.
        let mut random = Random(0x5eed);
        let noise = (0..3 << 17).flat_map(|_| random.next().to_le_bytes());
        Self {
            noise: noise.collect(),
        }
    }

    fn of(&self, seed: u64, len: usize) -> Vec<u8> {
        if len < Self::HEAD {
            return vec![len as u8; len];
        }
        let start = (seed % (1 << 20)) as usize;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        bytes.extend_from_slice(&seed.to_le_bytes());
        bytes.extend_from_slice(&self.noise[start..start + len - Self::HEAD]);
        bytes
    }

    fn check(&self, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "an empty file was read");
        let seed = bytes.get(8..16).map_or(0, |seed| {
            u64::from_le_bytes(seed.try_into().expect("8 bytes"))
        });
        let whole = bytes.len() <= 1 << 20 && self.of(seed, bytes.len()) == bytes;
        assert!(whole, "a torn checkpoint of {} bytes", bytes.len());
    }
}

/// Numbers that are random enough (splitmix64).
struct Random(u64);

impl Random {
    fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(0))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn rule_2_4_bash_reads_back_what_it_has_just_saved(backing: Backing) {
    count_up("bash", backing);
}

fn rule_2_4_dash_reads_back_what_it_has_just_saved(backing: Backing) {
    count_up("dash", backing);
}

fn count_up(program: &str, backing: Backing) {
    let mount = Mount::new(backing);
    let session = mount.session("a");
    let rounds = times(10_000);
    let output = shell(
        program,
        &session.on_mount,
        &format!(
            "i=0
            while [ $i -lt {rounds} ]; do
                i=$((i + 1))
                echo $i > session || exit 1
                new=$(cat session) || exit 2
                [ \"$new\" = $i ] || {{ echo \"$new instead of $i\"; exit 3; }}
            done"
        ),
    );
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
    let last = format!("{rounds}\n");
    assert_eq!(fs::read_to_string(session.checkpoint()).unwrap(), last);
    assert_eq!(session.names(), ["session"]);
}
