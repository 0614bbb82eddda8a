//! Maps from names of the engine.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map from names of connections. They are looked up several times for each event.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Hashes a name, which is an index that the engine gives out, with its generation: peers can not
/// choose them, so this needs no key.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

/// 2^64 divided by the golden ratio: spreads neighbouring numbers (Knuth, volume 3, section 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(SPREAD);
    }

    /// The upper half of the product is the better one; a map uses both ends.
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::Hash;

    use super::*;

    #[test]
    fn neighbouring_names_are_spread_over_a_table() {
        let places: HashSet<u64> = (0..1024u32)
            .map(|index| {
                let mut hasher = IdHasher::default();
                (index, 7u32).hash(&mut hasher);
                hasher.finish() % 1024
            })
            .collect();
        // As many as a random function would fill: 1 - 1/e of them.
        assert!(places.len() > 600, "{}", places.len());
    }
}
