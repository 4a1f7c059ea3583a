//! What is counted and reported about a mount (DESIGN 2.3, I5).

pub(in crate::fs) mod activity;
pub(in crate::fs) mod contents;
pub(in crate::fs) mod statistics;
