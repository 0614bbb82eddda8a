//! Randomness of one host, all from one seed, and the keyed hashing of its tables.

use std::hash::{BuildHasher, Hasher};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A stream of numbers that nobody outside can predict without the seed.
#[derive(Debug)]
pub(super) struct Random {
    stream: ChaCha8Rng,
    /// Numbers that were drawn at once; those from `next` on are not used yet.
    ids: [u16; IDS],
    next: usize,
}

/// Numbers of 16 bits that are drawn at once.
const IDS: usize = 64;

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random {
            stream: ChaCha8Rng::seed_from_u64(seed),
            ids: [0; IDS],
            next: IDS,
        }
    }

    /// A number of 16 bits, as for IP identifications. Never zero, which some receivers take
    /// for "not set".
    #[inline(always)]
    pub(super) fn id(&mut self) -> u16 {
        loop {
            match self.ids.get(self.next) {
                Some(0) => self.next += 1,
                Some(id) => {
                    self.next += 1;
                    return *id;
                }
                None => self.draw(),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn draw(&mut self) {
        let mut bytes = [[0; 2]; IDS];
        self.stream.fill_bytes(bytes.as_flattened_mut());
        self.ids = bytes.map(u16::from_le_bytes);
        self.next = 0;
    }

    /// A number from 0 to `bound` - 1, or 0 if `bound` is 0. The bias is below 2^-32.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (self.stream.next_u64() % u64::from(bound.max(1))) as u32
    }

    /// A hasher with a key of its own.
    pub(super) fn hasher(&mut self) -> KeyedHash {
        KeyedHash {
            key: [self.stream.next_u64(), self.stream.next_u64()],
        }
    }
}

/// SipHash over a secret in front of each key: who does not know the secret can not choose
/// addresses that collide.
#[derive(Debug, Clone)]
pub(super) struct KeyedHash {
    key: [u64; 2],
}

impl BuildHasher for KeyedHash {
    type Hasher = std::hash::DefaultHasher;

    fn build_hasher(&self) -> Self::Hasher {
        let mut hasher = std::hash::DefaultHasher::new();
        let [first, second] = self.key;
        hasher.write_u64(first);
        hasher.write_u64(second);
        hasher
    }
}
