//! The name `session`: what each caller sees of it, and what becomes of what it does with it
//! (DESIGN 2 and 4).

pub(in crate::fs) mod absence;
pub(in crate::fs) mod asker;
pub(in crate::fs) mod found;
pub(in crate::fs) mod hold;
pub(in crate::fs) mod kept_out;
pub(in crate::fs) mod opening;
pub(in crate::fs) mod pathless;
pub(in crate::fs) mod removal;
pub(in crate::fs) mod removals;
pub(in crate::fs) mod removing;
pub(in crate::fs) mod rename;
pub(in crate::fs) mod replaced;
pub(in crate::fs) mod sessions;
pub(in crate::fs) mod slot;
pub(in crate::fs) mod taken_back;
pub(in crate::fs) mod view;
pub(in crate::fs) mod walk;
pub(in crate::fs) mod watched;
pub(in crate::fs) mod writer;
