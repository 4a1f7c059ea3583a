//! The tests of the built program: one module for each subject, in one binary, which
//! builds in a fraction of the time of fifty.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod allow_other;
mod attributes;
mod background;
mod backing_fails;
mod bad_input;
mod big_directories;
mod close_rule;
mod commands;
mod copies;
mod crowd;
mod daemon;
mod direct_saves;
mod doctor;
mod documentation;
mod exec;
mod exit_statuses;
mod failing_disk;
mod file_types;
mod first_use;
mod flock;
mod frozen;
mod full_disk;
mod hostile;
mod killed_daemon;
mod killed_writers;
mod kin;
mod limits;
mod listing;
mod little_memory;
mod logs;
mod missing;
mod missing_calls;
mod model;
mod monitoring;
mod mount_options;
mod mounting;
mod moved_sessions;
mod names;
mod other_entries;
mod other_homes;
mod other_tools;
mod out_of_memory;
mod overlay;
mod own_writer;
mod passthrough;
mod pathless;
mod permissions;
mod progress;
mod races;
mod ranges;
mod replacing;
mod rights;
mod saving_commands;
mod semantics;
mod shares;
mod sharing;
mod space;
mod status;
mod stopping;
mod storm;
mod terminal;
mod untidy;
mod users;
mod watching;
mod ways_of_saving;
mod writers;
