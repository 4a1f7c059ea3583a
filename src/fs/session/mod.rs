//! The name `session` (DESIGN 2 and 4): what each caller sees under it, and what its
//! operations on it do.
//!
//! | file | subject | rules |
//! |---|---|---|
//! | `view` | what the name leads to, for one caller | 2.8, 2.12, 2.17 |
//! | `sessions`, `slot` | one object for each session in use; one writer at a time | 2.8 |
//! | `writer` | an open for writing, from its first change to its last close | 2.2 to 2.6, 5 |
//! | `opening` | how an open for writing gets its writer | 4 |
//! | `threads`, `hold`, `found`, `walk`, `turns` | one object for each calling thread | 2.1, 2.11, 4, 13.3 |
//! | `pathless` | the same for an open that walks no path | 2.14 |
//! | `rename`, `taken_back` | renames and links to and from the name | 2.11 |
//! | `removal`, `removals`, `removing`, `remover` | removals, which are deferred first | 2.12 |
//! | `kept_out` | saves that are not made by a writer | 2.8, 2.11 |
//! | `absence` | a session without a checkpoint | 2.12 |
//! | `replaced`, `watched` | checkpoints that a save has replaced | 2.1 |

pub(in crate::fs) mod absence;
pub(in crate::fs) mod found;
pub(in crate::fs) mod hold;
pub(in crate::fs) mod kept_out;
pub(in crate::fs) mod opening;
pub(in crate::fs) mod pathless;
pub(in crate::fs) mod removal;
pub(in crate::fs) mod removals;
pub(in crate::fs) mod remover;
pub(in crate::fs) mod removing;
pub(in crate::fs) mod rename;
pub(in crate::fs) mod replaced;
pub(in crate::fs) mod sessions;
pub(in crate::fs) mod slot;
pub(in crate::fs) mod taken_back;
pub(in crate::fs) mod threads;
pub(in crate::fs) mod turns;
pub(in crate::fs) mod view;
pub(in crate::fs) mod walk;
pub(in crate::fs) mod watched;
pub(in crate::fs) mod writer;
