//! The Internet checksum (RFC 1071), fast enough for every packet.
//!
//! The one's-complement sum does not depend on the byte order in which it is formed, so the
//! words are read low byte first, as most machines do, and only the result is turned round (RFC 1071,
//! section 2 B).

use std::net::{Ipv4Addr, Ipv6Addr};

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
    /// One's-complement sum of words, low byte first, modulo 2^64 - 1.
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
        let sum = u64::from(u32::from_le_bytes(source.octets()))
            + u64::from(u32::from_le_bytes(destination.octets()))
            + u64::from(u16::from_le_bytes([0, protocol]))
            + u64::from(length.swap_bytes());
        Checksum { sum, odd: false }
    }

    /// The checksum of the IPv6 pseudo-header (RFC 8200, section 8.1), for a transport packet of
    /// `length` bytes.
    pub fn pseudo_header_v6(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        length: u32,
    ) -> Self {
        let mut sum = Checksum::new();
        sum.add(&source.octets());
        sum.add(&destination.octets());
        sum.add(&length.to_be_bytes());
        sum.add(&[0, 0, 0, protocol]);
        sum
    }

    /// Adds `bytes`, which follow those added before.
    #[inline(always)]
    pub fn add(&mut self, bytes: &[u8]) {
        let part = sum(bytes);
        // Behind an odd number of bytes every word is turned round: times 2^8, modulo 2^64 - 1.
        let part = if self.odd { part.rotate_left(8) } else { part };
        self.sum = add(self.sum, part);
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// Adds numbers as [`sum_numbers`] does: whole words behind an even number of bytes.
    #[inline(always)]
    pub(crate) fn add_numbers(&mut self, numbers: impl IntoIterator<Item = u64>) {
        // Turning every word round is multiplying by 2^8, modulo 2^16 - 1.
        self.sum = add(self.sum, sum_numbers(numbers).rotate_left(8));
    }

    /// The checksum as a header carries it (the number, to be written big-endian).
    #[inline]
    pub fn finish(self) -> u16 {
        !fold(self.sum).swap_bytes()
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
    !fold(sum(bytes)).swap_bytes()
}

/// Whether `bytes`, which contain their own checksum, are intact.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    fold(sum(bytes)) == 0xffff
}

/// Whether an IPv4 header without options is intact: [`is_valid`] for its length.
#[inline]
pub fn is_header_valid(header: &[u8; 20]) -> bool {
    fold(sum_header(header)) == 0xffff
}

/// The checksum of an IPv4 header without options: [`checksum`] for its length.
#[inline]
pub fn header_checksum(header: &[u8; 20]) -> u16 {
    !fold(sum_header(header)).swap_bytes()
}

/// The one's-complement sum of numbers that were read high byte first, as 16-bit words, modulo
/// 2^64 - 1. [`sum_numbers`], [`is_valid_sum`] and [`finish_sum`] are for headers whose fields are
/// at hand as numbers: nothing has to be turned round or written to memory first.
#[inline(always)]
pub(crate) fn sum_numbers(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, add)
}

/// [`sum_numbers`] of bytes, the last of which is padded if their number is odd.
#[inline(always)]
pub(crate) fn sum_bytes(bytes: &[u8]) -> u64 {
    // Turning every word round is multiplying by 2^8, modulo 2^16 - 1.
    sum(bytes).rotate_left(8)
}

/// Whether what was summed, the checksum field among it, is intact: [`Checksum::is_valid`].
#[inline(always)]
pub(crate) const fn is_valid_sum(sum: u64) -> bool {
    /// Times 2^16 - 1 this is 1, modulo 2^64: it divides every multiple, and makes all others
    /// larger than any quotient.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const MOST: u64 = u64::MAX / 0xffff;
    // From 1 on: zero is only the sum over nothing but zeros, which lacks the checksum.
    sum.wrapping_mul(INVERSE).wrapping_sub(1) < MOST
}

/// The checksum over what was summed: [`Checksum::finish`].
#[inline(always)]
pub(crate) fn finish_sum(sum: u64) -> u16 {
    !fold(sum)
}

/// [`finish_sum`] as UDP wants it (RFC 768): zero is sent as all ones.
#[inline(always)]
pub(crate) fn finish_udp_sum(sum: u64) -> u16 {
    match fold(sum) {
        0xffff => 0xffff,
        sum => !sum,
    }
}

/// The checksum after one 16-bit word that it covers has changed (RFC 1624, equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The sum of `bytes` as words, low byte first, modulo 2^64 - 1 (a multiple of 2^16 - 1, so that
/// folding is right); an odd last byte is padded.
#[inline(always)]
fn sum(bytes: &[u8]) -> u64 {
    let (mut total, mut rest) = match bytes.len() {
        0..LONG => (0, bytes),
        _ => sum_blocks(bytes),
    };
    // Fewer than 128 bytes are left: each power of two fits once at most, and no loop is needed.
    add_front::<64>(&mut total, &mut rest);
    add_front::<32>(&mut total, &mut rest);
    add_front::<16>(&mut total, &mut rest);
    add_front::<8>(&mut total, &mut rest);
    let last = match bytes.last_chunk::<8>() {
        // The rest is the end of the last 8 bytes; two shifts, as one of 64 does not shift.
        Some(last) => u64::from_le_bytes(*last) >> 1 >> (63 - 8 * (rest.len() & 7)),
        None => sum_tail(rest),
    };
    add(total, last)
}

/// Adds the first `LENGTH` bytes of `rest`, a multiple of 8, if it has so many.
#[inline(always)]
fn add_front<const LENGTH: usize>(total: &mut u64, rest: &mut &[u8]) {
    if let Some((front, behind)) = rest.split_first_chunk::<LENGTH>() {
        let (words, _) = front.as_chunks::<8>();
        for word in words {
            *total = add(*total, u64::from_le_bytes(*word));
        }
        *rest = behind;
    }
}

/// The length in bytes from which it pays to add several words at once.
const LONG: usize = 128;

/// The sum of all whole blocks of 32 bytes, and the bytes behind them.
///
/// Each step adds two 32-bit words to each of four lanes of 64 bits, which overflow only after
/// 2^32 words: more than any slice that a packet is made of.
#[inline(never)]
fn sum_blocks(bytes: &[u8]) -> (u64, &[u8]) {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            let word = u64::from_le_bytes(*word);
            *lane += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    (lanes.iter().sum(), rest)
}

/// The sum of fewer than 8 bytes: as the start of a word of zeros.
#[inline]
fn sum_tail(bytes: &[u8]) -> u64 {
    let (four, rest) = match bytes.split_first_chunk::<4>() {
        Some((four, rest)) => (u32::from_le_bytes(*four), rest),
        None => (0, bytes),
    };
    let three = match *rest {
        [a, b, c] => u32::from_le_bytes([a, b, c, 0]),
        [a, b] => u32::from_le_bytes([a, b, 0, 0]),
        [a] => u32::from_le_bytes([a, 0, 0, 0]),
        _ => 0,
    };
    u64::from(four) + u64::from(three)
}

/// The sum of the 20 bytes of an IPv4 header without options, unrolled.
#[inline]
fn sum_header(bytes: &[u8; 20]) -> u64 {
    let (words, _) = bytes.as_chunks::<4>();
    let words = words
        .iter()
        .map(|word| u64::from(u32::from_le_bytes(*word)));
    words.sum()
}

/// One's-complement addition: the carry comes round to the front.
#[inline]
fn add(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    // After a carry the sum is at most 2^64 - 2.
    sum + u64::from(carry)
}

/// Folds the carries of `sum` back in until 16 bits are left.
#[inline]
fn fold(sum: u64) -> u16 {
    let (sum, carry) = ((sum >> 32) as u32).overflowing_add(sum as u32);
    // After a carry the sum is at most 2^32 - 2, and 2^16 - 2 below.
    let sum = sum + u32::from(carry);
    let (sum, carry) = ((sum >> 16) as u16).overflowing_add(sum as u16);
    sum + u16::from(carry)
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
    fn a_header_is_summed_like_any_bytes() {
        let mut header: [u8; 20] = std::array::from_fn(|index| (index * 13 + 200) as u8);
        assert_eq!(header_checksum(&header), plain(&header));
        header[10..12].fill(0);
        let sum = header_checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        assert!(is_header_valid(&header) && is_valid(&header));
    }

    #[test]
    fn numbers_are_summed_like_their_bytes() {
        let numbers = [0x4500_0000_0000_ffff, u64::MAX, 0x8000_0000_0000_0001, 7];
        let bytes = numbers.map(u64::to_be_bytes).concat();
        let sum = sum_numbers(numbers);
        assert_eq!(finish_sum(sum), plain(&bytes));
        assert_eq!(finish_sum(sum_bytes(&bytes)), plain(&bytes));
        assert!(is_valid_sum(sum_numbers([sum, plain(&bytes).into()])));
        for (sum, is_valid) in [
            (0, false),
            (1, false),
            (0xfffe, false),
            (0xffff, true),
            (0x1_0000, false),
            (0x1_fffe, true),
            (u64::MAX - 1, false),
            (u64::MAX, true),
        ] {
            assert_eq!(is_valid_sum(sum), is_valid, "{sum:#x}");
            assert_eq!(is_valid_sum(sum), fold(sum) == 0xffff, "{sum:#x}");
            assert_ne!(finish_udp_sum(sum), 0, "{sum:#x}");
            assert_eq!(
                finish_udp_sum(sum) % 0xffff,
                finish_sum(sum) % 0xffff,
                "{sum:#x}"
            );
        }
    }

    #[test]
    fn long_runs_of_ones_do_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(checksum(&bytes), plain(&bytes));
    }
}
