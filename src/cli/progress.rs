//! The progress of long work, shown on a terminal only.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::human;

/// Work that takes less shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// The time between two changes of the line.
const PAUSE: Duration = Duration::from_millis(100);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Sessions,
}

/// A line on standard error that shows the progress. It is removed when this value is
/// dropped.
#[derive(Debug)]
pub(super) struct Progress {
    doing: &'static str,
    unit: Unit,
    total: Option<u64>,
    /// When the line may change again; `None` if it is not shown.
    next: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// Work that begins now; `total` is the number of units, if it is known.
    pub(super) fn new(doing: &'static str, unit: Unit, total: Option<u64>) -> Self {
        // A dumb terminal cannot remove a line.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_seen = std::io::stderr().is_terminal() && !is_dumb;
        Self {
            doing,
            unit,
            total: total.filter(|total| *total > 0),
            next: is_seen.then(|| Instant::now() + PATIENCE),
            is_shown: false,
        }
    }

    /// Work whose progress is not shown.
    pub(super) fn hidden(doing: &'static str, unit: Unit) -> Self {
        Self {
            next: None,
            ..Self::new(doing, unit, None)
        }
    }

    /// Shows nothing if `other`, the input or output of the work, is a terminal.
    pub(super) fn unless_on(self, other: &impl IsTerminal) -> Self {
        let next = self.next.filter(|_| !other.is_terminal());
        Self { next, ..self }
    }

    /// Reports how many units are done.
    pub(super) fn at(&mut self, done: u64) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + PAUSE);
        self.is_shown = true;
        // Whatever is written next overwrites this line.
        print(&format!("{}\x1b[K\r", self.line(done)));
    }

    fn line(&self, done: u64) -> String {
        let amount = |n| match self.unit {
            Unit::Bytes => human::size(n),
            Unit::Sessions => n.to_string(),
        };
        let unit = match self.unit {
            Unit::Bytes => "",
            Unit::Sessions => " sessions",
        };
        let doing = self.doing;
        match self.total {
            Some(total) => {
                let percent = u128::from(done) * 100 / u128::from(total);
                let (done, total) = (amount(done), amount(total));
                format!("{doing}: {done} of {total}{unit} ({percent} %)")
            }
            None => format!("{doing}: {}{unit}", amount(done)),
        }
    }

    /// Removes the line, before another one is written.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            print("\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn print(text: &str) {
    // There is nowhere to report an error.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_the_work_is() {
        let line = |unit, total, done| Progress::new("saving", unit, total).line(done);
        assert_eq!(
            line(Unit::Bytes, Some(2 << 20), 1 << 20),
            "saving: 1.0 MiB of 2.0 MiB (50 %)"
        );
        assert_eq!(line(Unit::Bytes, None, 5), "saving: 5 B");
        assert_eq!(
            line(Unit::Sessions, Some(3), 2),
            "saving: 2 of 3 sessions (66 %)"
        );
        assert_eq!(line(Unit::Sessions, Some(0), 0), "saving: 0 sessions");
        let huge = line(Unit::Bytes, Some(u64::MAX), u64::MAX);
        assert!(huge.len() < 79, "{huge}");
    }
}
