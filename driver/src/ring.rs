//! Virtqueues, the driver's side.
//!
//! `split` knows the memory format of one ring and nothing of packets. [`crate::receive`] and
//! [`crate::transmit`] put frames into it and keep the private shadow of what was posted, which
//! is what decides; what the device writes is only ever compared with it.

pub(crate) mod split;

/// The device broke the rules of the ring. The queue is unusable until the device is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The used index moved further than there are buffers outstanding.
    #[error("used index {used} is beyond the {outstanding} buffers outstanding since {last}")]
    UsedIndex {
        /// What the device wrote.
        used: u16,
        /// The index up to which used buffers were taken.
        last: u16,
        /// Number of buffers that the device holds.
        outstanding: u16,
    },
    /// A used entry names a descriptor that the device does not hold.
    #[error("used descriptor {0} is not outstanding")]
    UsedId(u32),
    /// A used length is shorter than the header or longer than the buffer.
    #[error("used length {length} is not within {shortest}..={longest}")]
    UsedLength {
        /// What the device wrote.
        length: u32,
        /// The length of the virtio-net header.
        shortest: u32,
        /// The length of the buffer.
        longest: u32,
    },
}
