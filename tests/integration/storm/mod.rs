//! Many processes that save and read at the same time (DESIGN 2.1 to 2.4, 2.8, I1): none
//! of them ever sees anything but one whole checkpoint.
//!
//! `SESSIONFS_STORM_SECONDS` says how long each storm lasts.

mod content;
mod mapping;
mod reading;
mod saving;
mod worker;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use crate::common::observe::descriptors;
use crate::common::{Backing, Mount, shell, times, wait_until};
use content::Content;
use worker::Worker;

on_each_filesystem!(
    i1_a_storm_of_all_ways_of_saving_and_reading,
    i1_a_storm_on_one_session,
    i1_a_storm_on_one_session_without_passthrough,
    i1_a_storm_on_64_sessions,
    rule_2_4_bash_reads_back_what_it_has_just_saved,
    rule_2_4_dash_reads_back_what_it_has_just_saved,
);

/// Each with a thread that saves and one that reads.
const PROCESSES: usize = 6;

/// The test that is the body of a process where all do the same.
const WORKER: &str = "worker_of_the_storm";

fn i1_a_storm_of_all_ways_of_saving_and_reading(backing: Backing) {
    storm(backing, &[], 1, "worker_with_ways_of_its_own");
}

fn i1_a_storm_on_one_session(backing: Backing) {
    storm(backing, &[], 1, WORKER);
}

fn i1_a_storm_on_one_session_without_passthrough(backing: Backing) {
    storm(backing, &["--no-passthrough"], 1, WORKER);
}

fn i1_a_storm_on_64_sessions(backing: Backing) {
    storm(backing, &[], 64, WORKER);
}

/// A storm of processes whose body is the test `body`.
fn storm(backing: Backing, options: &[&str], sessions: usize, body: &str) {
    let mount = Mount::with(backing, options);
    let content = Content::new();
    let sessions: Vec<_> = (0..sessions)
        .map(|number| mount.session(number.to_string()))
        .collect();
    for session in &sessions {
        fs::write(session.file(), content.of(7, 1000)).unwrap();
        fs::create_dir(session.on_mount.join(saving::ELSEWHERE)).unwrap();
        content.check(&fs::read(session.file()).unwrap());
    }
    // Processes that keep replaced checkpoints open for a moment are not counted.
    let before = descriptors(mount.pid())
        .into_iter()
        .filter(|path| !path.starts_with(mount.disk.path()) || *path == mount.repository)
        .count();

    let workers: Vec<_> = (0..PROCESSES)
        .map(|number| {
            Command::new(std::env::current_exe().unwrap())
                .args([
                    &format!("storm::{body}"),
                    "--exact",
                    "--ignored",
                    "--nocapture",
                ])
                .envs(worker::environment(number, &mount, sessions.len()))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    // All must have ended before one is judged.
    let outputs: Vec<_> = workers
        .into_iter()
        .map(|worker| worker.wait_with_output().unwrap())
        .collect();
    for output in outputs {
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{complaint}");
        let report = said.lines().find(|line| line.starts_with(worker::REPORT));
        println!("{}", report.unwrap_or_else(|| panic!("{said}{complaint}")));
    }

    for session in &sessions {
        fs::remove_dir(session.on_mount.join(saving::ELSEWHERE)).unwrap();
        assert_eq!(session.names(), ["session"]);
        let last = fs::read(session.checkpoint()).unwrap();
        content.check(&last);
        assert!(fs::read(session.file()).unwrap() == last);
    }
    mount.assert_nothing_leaked(before);
}

/// All save and read in one way.
#[test]
#[ignore = "a process of the storm, started by the tests of it"]
fn worker_of_the_storm() {
    Worker::new().run(&saving::WAYS[..1], &reading::WAYS[..1]);
}

/// Every thread has ways of its own to save or to read, which it uses in turn.
#[test]
#[ignore = "a process of the storm, started by the tests of it"]
fn worker_with_ways_of_its_own() {
    let worker = Worker::new();
    let savers: Vec<_> = worker.share_of(saving::WAYS).collect();
    let readers: Vec<_> = worker.share_of(reading::WAYS).collect();
    worker.run(&savers, &readers);
}

#[test]
fn rule_2_1_a_reader_is_asked_for_its_size_after_another_has_closed() {
    let mount = Mount::new(Backing::Here);
    let session = mount.session("a");
    fs::write(session.file(), "old").unwrap();
    let reader = File::open(session.file()).unwrap();
    drop(File::open(session.file()).unwrap());
    fs::write(session.file(), "newer").unwrap();
    // The thread that looks out for watchers, and the files kept for opens without a
    // path, must not show its size to other programs either.
    wait_until("only the reader keeps the old checkpoint", || {
        let replaced = descriptors(mount.pid())
            .iter()
            .filter(|path| path.to_string_lossy().ends_with("/session (deleted)"))
            .count();
        assert!(replaced > 0, "the reader has lost its checkpoint");
        replaced == 3
    });
    assert_eq!(reader.metadata().unwrap().len(), 3);
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
