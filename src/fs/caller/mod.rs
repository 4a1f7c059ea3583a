//! The caller of a request: its ids and rights, and the mode of files it makes (DESIGN
//! 13.1).

pub(in crate::fs) mod admission;
pub(in crate::fs) mod credentials;
pub(in crate::fs) mod new_mode;
pub(in crate::fs) mod umask;
