//! Who asks: with which ids and rights, and what is new of theirs (DESIGN 13.1).

pub(in crate::fs) mod admission;
pub(in crate::fs) mod credentials;
pub(in crate::fs) mod new_mode;
pub(in crate::fs) mod umask;
