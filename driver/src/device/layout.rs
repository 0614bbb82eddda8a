//! Where the parts of the queue pairs lie in the DMA memory.

use crate::features::FeatureBits;
use crate::pool::UnboundPool;
use crate::ring::{packed, split};
use crate::transport::RingLayout;

/// Bytes in a page: what different owners write to shares none.
const PAGE: usize = 4096;
/// Parts of a ring lie on pairs of cache lines of their own: processors fetch both.
const LINES: usize = 128;

/// The memory of one queue pair: receive ring, transmit ring, slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PairLayout {
    pub(super) receive: RingLayout,
    pub(super) transmit: RingLayout,
    /// Offset of the first slot.
    pub(super) slots: usize,
    /// Offset of the first byte behind the pair, at a page.
    pub(super) end: usize,
}

impl PairLayout {
    /// The pair that starts at offset `base`, with rings of `size` descriptors and `frames` slots.
    pub(super) fn new(features: FeatureBits, size: u16, frames: u32, base: usize) -> Self {
        let (receive, transmit_at) = ring(features, size, base);
        let (transmit, rings_end) = ring(features, size, transmit_at);
        let slots = rings_end.next_multiple_of(PAGE);
        PairLayout {
            receive,
            transmit,
            slots,
            end: slots + pool_bytes(frames),
        }
    }
}

/// Bytes of a pool of `frames` slots, in whole pages.
pub(super) fn pool_bytes(frames: u32) -> usize {
    UnboundPool::bytes(frames).next_multiple_of(PAGE)
}

/// A ring at `at`, and the first byte behind it.
fn ring(features: FeatureBits, size: u16, at: usize) -> (RingLayout, usize) {
    let parts = if features.contains(FeatureBits::RING_PACKED) {
        packed::part_sizes(size)
    } else {
        split::part_sizes(size)
    };
    let [descriptors, driver, device] = parts.map(|part| part.next_multiple_of(LINES));
    let layout = RingLayout {
        size,
        descriptors: at,
        driver: at + descriptors,
        device: at + descriptors + driver,
    };
    (layout, layout.device + device)
}
