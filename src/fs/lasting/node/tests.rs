//! Nodes without a mount.

use super::*;

#[test]
fn rule_2_16_a_checkpoint_does_not_go_over_to_a_session_that_gets_the_number_of_its_own() {
    const SESSION: u64 = 7;
    const CHECKPOINT: u64 = 8;
    let nodes = Nodes::default();
    let session = |handle| {
        let identity = Identity {
            birth: 1,
            handle: Some(handle),
        };
        nodes.remember(
            SESSION,
            ROOT,
            OsStr::new("a.session"),
            Role::Session,
            identity,
        );
    };
    let name = OsStr::new("session");
    let identity = Identity::default();
    session(1);
    nodes.remember(CHECKPOINT, SESSION, name, Role::Checkpoint, identity);
    assert!(nodes.follow(CHECKPOINT, None));
    assert_eq!(nodes.session(CHECKPOINT), Some(SESSION));
    assert_eq!(nodes.follows(CHECKPOINT), Some(SESSION));
    assert_eq!(nodes.exact_session(CHECKPOINT), Some(nodes.exact(SESSION)));
    session(2);
    assert_eq!(nodes.session(CHECKPOINT), None);
    assert_eq!(nodes.follows(CHECKPOINT), None);
    assert_ne!(nodes.exact_session(CHECKPOINT), Some(nodes.exact(SESSION)));
    nodes.became_checkpoint(CHECKPOINT, SESSION);
    assert_eq!(nodes.session(CHECKPOINT), Some(SESSION));
}
