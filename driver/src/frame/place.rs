//! Where the bytes of a frame are, in one number.

/// From the lowest bit: the number of the slot or link, or the capacity of the heap block (28
/// bits), whether the slot is a long one (1), whether it is a link (1), whether there is an offload
/// (1), whether there is a tail (1), where the packet starts (16), and its length (16).
///
/// One number, because a frame is changed in part and moved whole: a load that spans a narrower
/// store just before it waits until that store has left the core.
#[derive(Clone, Copy)]
pub(super) struct Place(pub(super) u64);

impl Place {
    /// Above all numbers.
    pub(super) const LONG: u64 = 1 << 28;
    pub(super) const LINK: u64 = 1 << 29;
    pub(super) const OFFLOAD: u64 = 1 << 30;
    pub(super) const CHAINED: u64 = 1 << 31;
    /// What is set in anything but a single slot.
    pub(super) const NOT_SINGLE: u64 = Self::CHAINED | Self::LINK | Self::LONG;
    const START: u32 = 32;
    const LENGTH: u32 = 48;

    pub(super) fn new(slot: u32, start: u16, length: u16) -> Self {
        Place(u64::from(slot) | u64::from(start) << Self::START | u64::from(length) << Self::LENGTH)
    }

    #[inline(always)]
    pub(super) fn slot(self) -> u32 {
        self.0 as u32 & (Self::LONG as u32 - 1)
    }

    #[inline(always)]
    pub(super) fn start(self) -> usize {
        usize::from((self.0 >> Self::START) as u16)
    }

    #[inline(always)]
    pub(super) fn length(self) -> usize {
        (self.0 >> Self::LENGTH) as usize
    }

    /// Moves the start back by `count`, at most the start and what keeps the length in 16 bits.
    #[inline(always)]
    pub(super) fn grow_front(&mut self, count: usize) {
        let count = count as u64;
        self.0 = self
            .0
            .wrapping_sub(count << Self::START)
            .wrapping_add(count << Self::LENGTH);
    }

    /// Moves the start on by `count`, at most the length.
    #[inline(always)]
    pub(super) fn shrink_front(&mut self, count: usize) {
        let count = count as u64;
        self.0 = self
            .0
            .wrapping_add(count << Self::START)
            .wrapping_sub(count << Self::LENGTH);
    }

    #[inline(always)]
    pub(super) fn set_length(&mut self, length: usize) {
        self.0 = self.0 & ((1 << Self::LENGTH) - 1) | (length as u64) << Self::LENGTH;
    }
}
