//! SipHash-1-3 (Aumasson and Bernstein, 2012) over whole words: what the standard library's hasher
//! computes, which takes its input in any pieces and costs five times as much for a few words.

/// The state of a hash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SipHash {
    v: [u64; 4],
    /// Bytes that were put in.
    length: u64,
}

impl SipHash {
    /// A hash under a key.
    #[inline]
    pub(crate) const fn new([first, second]: [u64; 2]) -> Self {
        SipHash {
            v: [
                first ^ 0x736f_6d65_7073_6575,
                second ^ 0x646f_7261_6e64_6f6d,
                first ^ 0x6c79_6765_6e65_7261,
                second ^ 0x7465_6462_7974_6573,
            ],
            length: 0,
        }
    }

    /// Puts in eight bytes, the first of them the lowest.
    #[inline]
    pub(crate) fn word(&mut self, word: u64) {
        let [.., last] = &mut self.v;
        *last ^= word;
        self.round();
        let [first, ..] = &mut self.v;
        *first ^= word;
        self.length += 8;
    }

    /// The hash, after the last four bytes.
    #[inline]
    pub(crate) fn finish(mut self, tail: u32) -> u64 {
        self.word((self.length + 4) << 56 | u64::from(tail));
        let [_, _, third, _] = &mut self.v;
        *third ^= 0xff;
        (0..3).for_each(|_| self.round());
        let [first, second, third, fourth] = self.v;
        first ^ second ^ third ^ fourth
    }

    #[inline]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        c = c.wrapping_add(d);
        b = b.rotate_left(13) ^ a;
        d = d.rotate_left(16) ^ c;
        a = a.rotate_left(32).wrapping_add(d);
        c = c.wrapping_add(b);
        d = d.rotate_left(21) ^ a;
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The standard library's is SipHash-1-3 under a key of zeros.
        #[test]
        fn it_is_the_hash_of_the_standard_library(
            words in proptest::collection::vec(any::<u64>(), 0..6),
            tail in any::<u32>(),
        ) {
            let mut hash = SipHash::new([0; 2]);
            let mut expected = DefaultHasher::new();
            for word in words {
                hash.word(word);
                expected.write(&word.to_le_bytes());
            }
            expected.write(&tail.to_le_bytes());
            prop_assert_eq!(hash.finish(tail), expected.finish());
        }
    }

    #[test]
    fn it_depends_on_both_halves_of_the_key() {
        let of = |key| SipHash::new(key).finish(1);
        assert_ne!(of([0, 0]), of([1, 0]));
        assert_ne!(of([0, 0]), of([0, 1]));
    }
}
