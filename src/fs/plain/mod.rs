//! Everything in a session but its checkpoint: an ordinary directory (DESIGN 2.13).

pub(in crate::fs) mod entries;
pub(in crate::fs) mod links;
pub(in crate::fs) mod looks;
pub(in crate::fs) mod passthrough;
pub(in crate::fs) mod ranges;
