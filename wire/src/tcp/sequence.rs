//! Sequence numbers and windows (RFC 9293, section 3.4; RFC 7323, section 2).
//!
//! On the wire a sequence number has 32 bits and wraps. Inside, the engine counts with 64-bit
//! positions, which do not wrap within the life of a connection: `Origin` translates.

use std::ops::Add;

/// A sequence number as a header carries it. Its order is modulo 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Whether `self` comes before `other`: less than 2^31 before it.
    pub const fn is_before(self, other: SeqNumber) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// The signed distance from `other` to `self`.
    pub const fn distance(self, other: SeqNumber) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }
}

impl Add<u32> for SeqNumber {
    type Output = SeqNumber;

    fn add(self, count: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_add(count))
    }
}

/// How far a window field is shifted: 0 to 14 (RFC 7323, section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowScale(u8);

impl WindowScale {
    /// The largest shift.
    pub const MAX: WindowScale = WindowScale(14);

    /// A shift of `shift` bits; more than 14 counts as 14 (RFC 7323, section 2.3).
    pub const fn new(shift: u8) -> Self {
        match shift {
            0..=14 => WindowScale(shift),
            _ => Self::MAX,
        }
    }

    /// The shift in bits.
    pub const fn shift(self) -> u8 {
        self.0
    }

    /// The least scale with which a window of `bytes` can be announced.
    pub const fn for_window(bytes: u64) -> Self {
        let mut shift = 0;
        while shift < 14 && bytes >> shift > u16::MAX as u64 {
            shift += 1;
        }
        WindowScale(shift)
    }

    /// The window in bytes that a field means.
    pub const fn window(self, field: u16) -> u64 {
        (field as u64) << self.0
    }

    /// The field that announces at most `bytes`.
    pub const fn field(self, bytes: u64) -> u16 {
        let scaled = bytes >> self.0;
        if scaled > u16::MAX as u64 {
            u16::MAX
        } else {
            scaled as u16
        }
    }
}

/// Where one direction of a connection starts: translates between numbers and positions.
///
/// The SYN is at position [`Origin::SYN`], the first byte of data behind it, and the FIN behind
/// the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin(pub(crate) SeqNumber);

impl Origin {
    /// The position of the SYN. Not zero, so that numbers before it have positions too.
    pub(crate) const SYN: u64 = 1 << 32;

    /// The number at `position`.
    #[inline]
    pub(crate) const fn number(self, position: u64) -> SeqNumber {
        SeqNumber(self.0.0.wrapping_add(position as u32))
    }

    /// The position of `number` that is nearest to `near`, which is not below [`Origin::SYN`].
    #[inline]
    pub(crate) const fn position(self, number: SeqNumber, near: u64) -> u64 {
        let distance = number.distance(self.number(near));
        near.saturating_add_signed(distance as i64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_is_found_again_from_anywhere_near(
            origin in any::<u32>(),
            position in Origin::SYN..Origin::SYN * 8,
            distance in -0x7fff_ffff_i64..0x7fff_ffff,
        ) {
            let origin = Origin(SeqNumber(origin));
            let near = position.saturating_add_signed(distance).max(Origin::SYN);
            prop_assert_eq!(origin.position(origin.number(position), near), position);
        }

        #[test]
        fn a_window_is_never_announced_larger_than_it_is(bytes in 0_u64..1 << 30, shift in 0_u8..20) {
            let scale = WindowScale::new(shift);
            let announced = scale.window(scale.field(bytes));
            prop_assert!(announced <= bytes);
            let fitting = WindowScale::for_window(bytes);
            prop_assert!(bytes - fitting.window(fitting.field(bytes)) < 1 << fitting.shift());
        }
    }

    #[test]
    fn numbers_are_ordered_across_the_wrap() {
        let last = SeqNumber(u32::MAX);
        assert!(last.is_before(last + 1));
        assert!(!(last + 1).is_before(last));
        assert_eq!((last + 5).distance(last), 5);
        assert_eq!(Origin(last).number(Origin::SYN + 1), SeqNumber(0));
    }
}
