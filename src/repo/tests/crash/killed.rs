//! A process is killed, another one goes on, and then the power is cut.

use std::cell::Cell;

use super::operations::without_repository;
use super::{ALL_WAYS, Operation, Promise, check, record};
use crate::repo::Repository;
use crate::repo::tests::name;
use crate::sys::{Errno, fault};

/// I2: a session that was created is there, even if another process made the directories
/// of the repository and was killed at any point.
#[test]
fn i2_create_after_one_who_was_killed_in_making_the_repository() {
    let mut images = 0;
    for killed_at in 0.. {
        let was_killed = Cell::new(false);
        let operation = Operation {
            name: "create after one who was killed",
            ways: &ALL_WAYS[..1],
            setup: without_repository,
            prepare: &|sandbox| {
                // No call of the killed process is made from here on.
                let plan = move |n, _| (n >= killed_at).then_some(Errno::IO);
                let other = Repository::new(sandbox.repository.path());
                let made = fault::with(Box::new(plan), || other.root.get_or_make());
                was_killed.set(made.is_err());
            },
            steps: &[|sandbox| {
                let created = sandbox.repository.create_named(&name("t"), 0o755);
                created.map(drop)
            }],
            promise: Promise::Nothing,
        };
        let done = record(&operation, ALL_WAYS[0], None);
        let count = check(&operation, ALL_WAYS[0], &done);
        let count = count.unwrap_or_else(|found| panic!("killed at call {killed_at}: {found}"));
        images += count.images;
        if !was_killed.get() {
            assert!(killed_at > 10, "all calls: {killed_at}");
            break;
        }
    }
    println!("killed at any call: {images} images");
}
