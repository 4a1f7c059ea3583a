//! A sequence of steps, done on a mount and by the model, and compared step by step. One
//! that differs is made as short as possible.

use std::fmt::Write as _;

use super::chance::Random;
use super::real::Real;
use super::reference::{Model, Rules};
use super::step::{DESCRIPTORS, SESSIONS, Session, Step};
use crate::common::Mount;

/// After how many steps all of the mount is looked at.
const LOOK: usize = 8;

/// What is compared on the way. A look at the mount is a lookup, an open and a read,
/// which must neither hide nor repair anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// What the step has touched, after every step.
    Many,
    /// Only the repository and the sizes of what is open after every step.
    Few,
}

/// A sequence that differs.
pub struct Difference {
    pub steps: Vec<Step>,
    pub looks: Looks,
    /// The difference after the last step.
    pub what: String,
}

impl Difference {
    /// A text for finding the reason.
    pub fn in_words(&self) -> String {
        let mut words = String::from("the mount is not as the model after\n");
        for step in &self.steps {
            let _ = writeln!(words, "    {step:?}");
        }
        let _ = write!(words, "{:?} looks:\n{}", self.looks, self.what);
        words
    }
}

/// A sequence that runs on both.
struct Comparison<'a> {
    model: Model,
    real: Real<'a>,
    looks: Looks,
    done: Vec<Step>,
}

impl<'a> Comparison<'a> {
    fn new(mount: &'a Mount, rules: Rules, looks: Looks) -> Self {
        Self {
            model: Model::new(rules),
            real: Real::new(mount),
            looks,
            done: Vec::new(),
        }
    }

    fn step(&mut self, step: Step, is_last: bool) -> Result<(), String> {
        if self.model.leaves_open(step) {
            return Ok(());
        }
        self.done.push(step);
        let (expected, found) = (self.model.run(step), self.real.run(step));
        if expected != found {
            return Err(format!("expected {expected:?}\nfound    {found:?}"));
        }
        let on_mount = if is_last || self.done.len().is_multiple_of(LOOK) {
            (0..SESSIONS).collect()
        } else if self.looks == Looks::Many {
            touched(step)
        } else {
            Vec::new()
        };
        let expected = self.model.view(&on_mount);
        match self.real.view(&on_mount) {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(format!("expected {expected:?}\nfound    {found:?}")),
            Err(e) => Err(format!("expected {expected:?}\nfound    {e}")),
        }
    }
}

/// The sessions that a step names.
fn touched(step: Step) -> Vec<Session> {
    match step {
        Step::Mkdir(s)
        | Step::Rmdir(s)
        | Step::Open(_, s, _)
        | Step::OpenFile(_, s, ..)
        | Step::Truncate(s, _)
        | Step::Unlink(s)
        | Step::UnlinkFile(s, _)
        | Step::BreakLock(s)
        | Step::DirectSave(s, ..)
        | Step::DirectUnlink(s)
        | Step::ForeignLock(s) => vec![s],
        Step::RenameSession(s, t)
        | Step::RenameFile(s, _, t, _)
        | Step::RenameOnto(s, _, t)
        | Step::RenameAway(s, t, _)
        | Step::RenameCheckpoint(s, t) => vec![s, t],
        // The session is not known here: all of them.
        Step::Close(_) | Step::Sync(_) => (0..SESSIONS).collect(),
        Step::Dup(..) | Step::Read(..) | Step::Write(..) | Step::Seek(..) | Step::SetLen(..) => {
            vec![0]
        }
    }
}

/// Does this many random steps, and closes everything.
pub fn by_chance(
    mount: &Mount,
    random: &mut Random,
    count: usize,
    rules: Rules,
) -> Result<(), Difference> {
    let looks = if random.below(2) == 0 {
        Looks::Many
    } else {
        Looks::Few
    };
    let mut comparison = Comparison::new(mount, rules, looks);
    for number in 0..count + DESCRIPTORS {
        let step = match number.checked_sub(count) {
            Some(descriptor) => Step::Close(descriptor),
            None => random.step(&comparison.model),
        };
        let is_last = number + 1 == count + DESCRIPTORS;
        if let Err(what) = comparison.step(step, is_last) {
            return Err(Difference {
                steps: comparison.done,
                looks,
                what,
            });
        }
    }
    Ok(())
}

/// Does these steps, up to the first difference.
pub fn in_order(
    mount: &Mount,
    steps: &[Step],
    looks: Looks,
    rules: Rules,
) -> Result<(), Difference> {
    let mut comparison = Comparison::new(mount, rules, looks);
    for (number, step) in steps.iter().enumerate() {
        if let Err(what) = comparison.step(*step, number + 1 == steps.len()) {
            let steps = comparison.done;
            return Err(Difference { steps, looks, what });
        }
    }
    Ok(())
}

/// Leaves out steps as long as the rest still differs.
pub fn shrink(mount: &Mount, mut difference: Difference, rules: Rules) -> Difference {
    let mut piece = difference.steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let mut is_shorter = false;
        while at < difference.steps.len() {
            let mut fewer = difference.steps.clone();
            fewer.drain(at..(at + piece).min(fewer.len()));
            match in_order(mount, &fewer, difference.looks, rules) {
                Err(still) => {
                    difference = still;
                    is_shorter = true;
                }
                Ok(()) => at += piece,
            }
        }
        if piece > 1 {
            piece = piece.div_ceil(2);
        } else if !is_shorter {
            return difference;
        }
    }
}
