//! What may be found after a power cut.

use std::fmt;

/// What is not as it was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Finding {
    /// The filesystem does not mount, or cannot be read.
    Unreadable,
    /// I2: an acknowledged save is not there.
    Lost,
    /// An acknowledged session is not there, or a removed one is.
    Misplaced,
    /// I1: `session` is no whole content.
    Torn,
    /// I4: partial data under another name, or a name that nobody gave.
    Debris,
    /// I4: the next save does not work.
    Stuck,
    /// 2.7, 13.1: a checkpoint has not the owner, mode, attributes and time that
    /// belong to its content.
    Mixed,
    /// 2.6, 2.8, 2.9: a save is there that was refused, or whose writer was killed.
    Unasked,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "unreadable",
            Self::Lost => "lost",
            Self::Misplaced => "misplaced",
            Self::Torn => "torn",
            Self::Debris => "debris",
            Self::Stuck => "stuck",
            Self::Mixed => "mixed",
            Self::Unasked => "unasked",
        })
    }
}
