//! Contents that tell whether they are whole, which session they are of and
//! how old they are.

use crate::random::Random;

/// Begins every content.
const MAGIC: u64 = u64::from_le_bytes(*b"powercut");
const HEAD: usize = 48;
const TAIL: usize = 16;
/// Longest piece of noise, and how many places it may begin at.
const LONGEST: usize = 256 << 10;
const STARTS: u64 = 1 << 16;

/// What one content says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The session that it was saved in.
    pub session: u64,
    /// Of the saves of this session, counted from 1.
    pub counter: u64,
    /// Where the noise in the middle begins.
    pub start: u64,
    /// Length of the noise, in bytes.
    pub len: u64,
    /// The version of its attributes: which save has set them, and the owner.
    pub attributes: u64,
}

/// Makes contents and reads them.
pub struct Contents {
    noise: Vec<u8>,
}

impl Contents {
    pub fn new() -> Self {
        // The same in all processes.
        let mut random = Random::new(0x5eed);
        let words = (LONGEST as u64 + STARTS) / 8;
        let noise = (0..words).flat_map(|_| random.next().to_le_bytes());
        Self {
            noise: noise.collect(),
        }
    }

    /// A label for a save: lengths of less than a block, of a few, and of many.
    pub fn label(session: u64, counter: u64, random: &mut Random) -> Label {
        let longest = 1 << (4 + random.below(13));
        let len = match random.below(40) {
            0 => random.below(LONGEST as u64),
            _ => random.below(longest),
        };
        let start = random.below(STARTS);
        Label {
            session,
            counter,
            start,
            len,
            attributes: 0,
        }
    }

    pub fn head(label: Label) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let words = [
            MAGIC,
            label.session,
            label.counter,
            label.start,
            label.len,
            label.attributes,
        ];
        for (place, word) in head.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        head
    }

    pub fn tail(label: Label) -> [u8; TAIL] {
        let mut tail = [0; TAIL];
        tail[..8].copy_from_slice(&label.counter.to_le_bytes());
        tail[8..].copy_from_slice(&(!label.session).to_le_bytes());
        tail
    }

    /// Where the tail of such a content begins.
    pub fn tail_at(label: Label) -> u64 {
        HEAD as u64 + label.len
    }

    pub fn make(&self, label: Label) -> Vec<u8> {
        let start = label.start as usize;
        let mut bytes = Self::head(label).to_vec();
        bytes.extend_from_slice(&self.noise[start..start + label.len as usize]);
        bytes.extend_from_slice(&Self::tail(label));
        bytes
    }

    /// The label of a content that is whole, else what is wrong with it.
    pub fn read(&self, bytes: &[u8]) -> Result<Label, String> {
        let number = |i: usize| {
            let word = bytes.get(8 * i..8 * i + 8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?))
        };
        let numbers: Option<Vec<u64>> = (0..HEAD / 8).map(number).collect();
        let Some(&[MAGIC, session, counter, start, len, attributes]) = numbers.as_deref() else {
            let first = &bytes[..bytes.len().min(16)];
            return Err(format!(
                "{} bytes that begin with {first:02x?}",
                bytes.len()
            ));
        };
        let label = Label {
            session,
            counter,
            start,
            len,
            attributes,
        };
        if start >= STARTS || len > LONGEST as u64 {
            return Err(format!("a head that nobody wrote: {label:?}"));
        }
        let whole = self.make(label);
        if whole == bytes {
            return Ok(label);
        }
        let differs = whole.iter().zip(bytes).position(|(a, b)| a != b);
        Err(format!(
            "{} of {} bytes of {label:?}, the first wrong one at {differs:?}",
            bytes.len(),
            whole.len()
        ))
    }
}
