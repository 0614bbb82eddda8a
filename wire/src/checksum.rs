//! The Internet checksum (RFC 1071), fast enough for every packet.
//!
//! The one's-complement sum does not depend on the byte order in which it is formed, so the
//! words are read in the order of the machine and only the result is turned round (RFC 1071,
//! section 2 B).

use std::net::Ipv4Addr;

/// A running checksum over bytes that may come in several pieces.
///
/// ```
/// use virtroupe_wire::checksum::Checksum;
/// // The example of RFC 1071, section 3.
/// let mut whole = Checksum::new();
/// whole.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
/// assert_eq!(whole.finish(), !0xddf2);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum {
    /// One's-complement sum of 16-bit words in machine order; the carries are not yet folded.
    sum: u64,
    /// Whether an odd number of bytes has been added, so that the next is a low byte.
    odd: bool,
}

impl Checksum {
    /// The checksum of no bytes.
    #[inline]
    pub const fn new() -> Self {
        Checksum { sum: 0, odd: false }
    }

    /// The checksum of the IPv4 pseudo-header (RFC 768), for a transport packet of `length`
    /// bytes.
    #[inline]
    pub fn pseudo_header(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        length: u16,
    ) -> Self {
        let sum = u64::from(u32::from_ne_bytes(source.octets()))
            + u64::from(u32::from_ne_bytes(destination.octets()))
            + u64::from(u16::from_ne_bytes([0, protocol]))
            + u64::from(length.to_be());
        Checksum { sum, odd: false }
    }

    /// Adds `bytes`, which follow those added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let part = fold(sum(bytes));
        let part = if self.odd { part.swap_bytes() } else { part };
        // Cannot overflow: each call adds less than 2^16.
        self.sum += u64::from(part);
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// The checksum as a header carries it (the number, to be written big-endian).
    #[inline]
    pub fn finish(self) -> u16 {
        !u16::from_be(fold(self.sum))
    }

    /// Whether the bytes, the checksum field among them, are intact.
    #[inline]
    pub fn is_valid(self) -> bool {
        fold(self.sum) == 0xffff
    }
}

/// The checksum of `bytes`, as a header carries it.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    !u16::from_be(fold(sum(bytes)))
}

/// Whether `bytes`, which contain their own checksum, are intact.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    fold(sum(bytes)) == 0xffff
}

/// The checksum after one 16-bit word that it covers has changed (RFC 1624, equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The sum of `bytes` as words in machine order, carries kept; an odd last byte is padded.
///
/// Each step adds two 32-bit words to 64 bits, which overflow only after 2^32 words: more than
/// any slice that a packet is made of.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            let word = u64::from_ne_bytes(*word);
            *lane += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    let mut total = lanes.iter().sum::<u64>();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    total
        + match *rest {
            [a, b, c] => {
                u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, 0]))
            }
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            [a] => u64::from(u16::from_ne_bytes([a, 0])),
            _ => 0,
        }
}

/// Folds the carries of `sum` back in until 16 bits are left.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // The last step leaves at most 16 bits.
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, a word at a time.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn equals_the_definition_however_the_bytes_are_split(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0_usize..300, 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut pieces = Checksum::new();
            let mut start = 0;
            for cut in cuts {
                pieces.add(&bytes[start..cut]);
                start = cut;
            }
            prop_assert_eq!(pieces.finish(), plain(&bytes));
            prop_assert_eq!(checksum(&bytes), plain(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in any::<[u8; 20]>(), new in any::<u16>()) {
            bytes[0] = 0x45; // a sum over nothing but zeros has two representations
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[8], bytes[9]]);
            bytes[8..10].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes));
        }
    }

    #[test]
    fn long_runs_of_ones_do_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(checksum(&bytes), plain(&bytes));
    }
}
