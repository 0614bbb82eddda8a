//! Randomness of one host, all from one seed, and the keyed hashing of its tables.

use std::hash::{BuildHasher, Hasher};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A stream of numbers that nobody outside can predict without the seed.
#[derive(Debug)]
pub(super) struct Random {
    stream: ChaCha8Rng,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random {
            stream: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The identification of an IPv4 packet. One that no router may fragment needs none, and has
    /// 0, as with Linux (RFC 6864, section 4.1); others have a number at random, but not 0.
    #[inline(always)]
    pub(super) fn identification(&mut self, dont_fragment: bool) -> u16 {
        match dont_fragment {
            true => 0,
            false => self.not_zero(),
        }
    }

    #[inline(never)]
    fn not_zero(&mut self) -> u16 {
        loop {
            match self.stream.next_u32() as u16 {
                0 => continue,
                id => return id,
            }
        }
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
