//! Contents that show whether they are whole.

use crate::common::random::Random;

/// Contents that show whether they are whole: the length, the start of the rest in a
/// table of noise, and the rest.
pub struct Content {
    noise: Vec<u8>,
}

impl Content {
    const HEAD: usize = 16;

    pub fn new() -> Self {
        // The same in all processes.
        let mut random = Random::new(0x5eed);
        let noise = (0..3 << 17).flat_map(|_| random.next().to_le_bytes());
        Self {
            noise: noise.collect(),
        }
    }

    pub fn of(&self, seed: u64, len: usize) -> Vec<u8> {
        if len < Self::HEAD {
            return vec![len as u8; len];
        }
        let start = (seed % (1 << 20)) as usize;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        bytes.extend_from_slice(&seed.to_le_bytes());
        bytes.extend_from_slice(&self.noise[start..start + len - Self::HEAD]);
        bytes
    }

    /// A random content of up to 1 MiB; short and long ones are equally likely.
    pub fn any(&self, random: &mut Random) -> Vec<u8> {
        let longest = 1 << random.below(21);
        self.of(random.next(), 1 + random.below(longest) as usize)
    }

    pub fn check(&self, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "an empty file was read");
        let seed = bytes.get(8..16).map_or(0, |seed| {
            u64::from_le_bytes(seed.try_into().expect("8 bytes"))
        });
        assert!(bytes.len() <= 1 << 20, "{} bytes", bytes.len());
        let whole = self.of(seed, bytes.len());
        let differs = whole.iter().zip(bytes).position(|(a, b)| a != b);
        assert!(
            differs.is_none(),
            "a torn checkpoint of {} bytes: wrong at {differs:?}, begins with {:?}",
            bytes.len(),
            &bytes[..bytes.len().min(Self::HEAD)],
        );
    }
}
