//! The two queues of a pair, each over a ring of the format that was negotiated.
//!
//! The format is looked at once for each call, that is, for each burst; behind it everything is
//! compiled for the one format.

use std::sync::Arc;

use crate::features::FeatureBits;
use crate::frame::Frame;
use crate::memory::DmaMemory;
use crate::pool::Pool;
use crate::receive::{ReceiveCounters, ReceiveQueue};
use crate::ring::Violation;
use crate::ring::packed::PackedRing;
use crate::ring::split::SplitRing;
use crate::transmit::{TransmitCounters, TransmitQueue};
use crate::transport::RingLayout;

/// A receive queue on either format.
pub(crate) enum AnyReceiveQueue {
    /// Section 2.7.
    Split(ReceiveQueue<SplitRing>),
    /// Section 2.8.
    Packed(ReceiveQueue<PackedRing>),
}

/// A transmit queue on either format.
pub(crate) enum AnyTransmitQueue {
    /// Section 2.7.
    Split(TransmitQueue<SplitRing>),
    /// Section 2.8.
    Packed(TransmitQueue<PackedRing>),
}

macro_rules! on_either {
    ($any:expr, $queue:ident => $call:expr) => {
        match $any {
            Self::Split($queue) => $call,
            Self::Packed($queue) => $call,
        }
    };
}

impl AnyReceiveQueue {
    /// The queue on the ring at `layout`; `None` if that does not fit the format or the memory.
    pub(crate) fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        iova_offset: u64,
        features: FeatureBits,
    ) -> Option<Self> {
        if features.contains(FeatureBits::RING_PACKED) {
            ReceiveQueue::new(memory, layout, iova_offset, features).map(Self::Packed)
        } else {
            ReceiveQueue::new(memory, layout, iova_offset, features).map(Self::Split)
        }
    }

    #[inline]
    pub(crate) fn harvest(
        &mut self,
        pool: &mut Pool,
        burst: &mut Vec<Frame>,
        limit: usize,
        reserve: usize,
    ) -> Result<usize, Violation> {
        on_either!(self, queue => queue.harvest(pool, burst, limit, reserve))
    }

    #[inline]
    pub(crate) fn refill(&mut self, pool: &mut Pool, reserve: usize) -> bool {
        on_either!(self, queue => queue.refill(pool, reserve))
    }

    pub(crate) fn fill(&mut self, pool: &mut Pool, reserve: usize) -> bool {
        on_either!(self, queue => queue.fill(pool, reserve))
    }

    pub(crate) fn has_work(&self) -> bool {
        on_either!(self, queue => queue.has_work())
    }

    pub(crate) fn request_interrupt(&mut self) {
        on_either!(self, queue => queue.request_interrupt());
    }

    pub(crate) fn suppress_interrupts(&mut self) {
        on_either!(self, queue => queue.suppress_interrupts());
    }

    pub(crate) fn reclaim_all(&mut self, pool: &mut Pool) {
        on_either!(self, queue => queue.reclaim_all(pool));
    }

    pub(crate) fn counters(&self) -> &ReceiveCounters {
        on_either!(self, queue => &queue.counters)
    }
}

impl AnyTransmitQueue {
    /// As [`AnyReceiveQueue::new`].
    pub(crate) fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        iova_offset: u64,
        features: FeatureBits,
    ) -> Option<Self> {
        if features.contains(FeatureBits::RING_PACKED) {
            TransmitQueue::new(memory, layout, iova_offset, features).map(Self::Packed)
        } else {
            TransmitQueue::new(memory, layout, iova_offset, features).map(Self::Split)
        }
    }

    #[inline]
    pub(crate) fn prepare(&mut self, frames: usize) {
        on_either!(self, queue => queue.prepare(frames));
    }

    #[inline]
    pub(crate) fn submit(&mut self, pool: &mut Pool, burst: &mut Vec<Frame>) -> bool {
        on_either!(self, queue => queue.submit(pool, burst))
    }

    #[inline]
    pub(crate) fn reclaim(&mut self, pool: &mut Pool) -> Result<usize, Violation> {
        on_either!(self, queue => queue.reclaim(pool))
    }

    #[inline]
    pub(crate) fn size(&self) -> usize {
        on_either!(self, queue => queue.size())
    }

    #[inline]
    pub(crate) fn room(&self) -> usize {
        on_either!(self, queue => queue.room())
    }

    #[inline]
    pub(crate) fn further_slots(&self) -> usize {
        on_either!(self, queue => queue.further_slots())
    }

    pub(crate) fn outstanding(&self) -> usize {
        on_either!(self, queue => queue.outstanding())
    }

    pub(crate) fn has_work(&self) -> bool {
        on_either!(self, queue => queue.has_work())
    }

    pub(crate) fn request_interrupt(&mut self) {
        on_either!(self, queue => queue.request_interrupt());
    }

    pub(crate) fn suppress_interrupts(&mut self) {
        on_either!(self, queue => queue.suppress_interrupts());
    }

    pub(crate) fn reclaim_all(&mut self, pool: &mut Pool) -> usize {
        on_either!(self, queue => queue.reclaim_all(pool))
    }

    pub(crate) fn counters(&self) -> &TransmitCounters {
        on_either!(self, queue => &queue.counters)
    }
}
