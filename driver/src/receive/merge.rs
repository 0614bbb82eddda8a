//! Mergeable receive buffers (virtio 1.3, section 5.1.6.3.2): one frame in several slots.
//!
//! Negotiated only where a frame may exceed a slot (by the MTU, or by large receive), because it
//! makes the device write into each header, and us read it.

use virtroupe_wire::{Buffer, DropReason};

use super::header::{net_header, num_buffers};
use super::{BUFFER_LENGTH, BUFFER_START, ReceiveQueue};
use crate::frame::{Frame, NET_HEADER, SLOT_DATA};
use crate::pool::Pool;
use crate::ring::split::Used;
use crate::ring::{Ring, Violation};

/// The longest frame that is believed: the largest IP packet behind an Ethernet header with a
/// VLAN tag. That of IPv6 does not count its own header. It bounds the chain that one frame becomes.
pub(crate) const LONGEST: u32 = 65_535 + 40 + 18;

/// The most buffers that a frame may span. All but the last must be full (section 5.1.6.4.1), so the
/// longest needs 31; four times as many are for devices that use them badly. It bounds the segments of
/// the chain, which bytes alone would not, and so what handling one frame can cost.
const MOST_BUFFERS: u16 = 4 * (LONGEST + NET_HEADER as u32).div_ceil(BUFFER_LENGTH) as u16;

/// The longest frame that a ring of `size` can be sure to take: half of it is always posted.
pub(crate) fn longest_merged_frame(size: u16) -> usize {
    let half = usize::from(size / 2) * BUFFER_LENGTH as usize;
    half.saturating_sub(NET_HEADER).min(LONGEST as usize)
}

/// What the pool can do for the frames of one harvest.
struct Supply<'a> {
    pool: &'a mut Pool,
    /// Slots that it can still replace in the ring.
    replaceable: usize,
    copied: bool,
}

impl Supply<'_> {
    /// The frame of a used slot, or a copy of it if the pool can not replace the slot.
    fn segment(&mut self, slot: u32, start: u16, length: u16) -> Frame {
        let mut frame = self.pool.frame_of(slot, start, length);
        match self.replaceable.checked_sub(1) {
            Some(rest) => self.replaceable = rest,
            None => {
                self.copied = true;
                frame.move_to_heap();
            }
        }
        frame
    }
}

impl<R: Ring> ReceiveQueue<R> {
    /// As [`harvest`](Self::harvest), for frames in one or several buffers each.
    #[inline(never)]
    pub(super) fn harvest_merged(
        &mut self,
        pool: &mut Pool,
        burst: &mut Vec<Frame>,
        limit: usize,
        reserve: usize,
    ) -> Result<usize, Violation> {
        let mut pending = self.ring.used_pending(self.outstanding())?;
        if pending == 0 {
            return Ok(0);
        }
        let owed = usize::from(self.free.len()) + reserve;
        let wanted = owed + usize::from(pending);
        let mut supply = Supply {
            replaceable: pool.ensure(wanted).saturating_sub(owed),
            pool,
            copied: false,
        };
        let (mut taken, mut bytes) = (0, 0);
        let mut result = Ok(());
        while taken < limit
            && pending > 0
            && let Some(used) = self.ring.used_at(0)
        {
            match self.take_merged(used, &mut supply, &mut pending) {
                Ok((frame, length)) => {
                    match frame {
                        Ok(frame) => burst.push(frame),
                        Err(reason) => self.counters.drops.add(reason, 1),
                    }
                    taken += 1;
                    bytes += u64::from(length);
                    self.counters.copied += u64::from(std::mem::take(&mut supply.copied));
                }
                Err(violation) => {
                    result = Err(violation);
                    break;
                }
            }
        }
        self.counters.frames += taken as u64;
        self.counters.bytes += bytes;
        result.map(|()| taken)
    }

    /// The slot and the length of the buffer that `used` tells of, and moves past it.
    fn take_one(&mut self, used: Used, shortest: usize) -> Result<(u32, u16), Violation> {
        let buffer = self.take_used(used, 0, shortest)?;
        self.free.give_run(1);
        self.ring.advance_used(1, 1);
        Ok(buffer)
    }

    /// The frame whose first buffer `first` tells of, or why it is dropped; and its length. All its
    /// buffers must be used: a device shows them at once (section 5.1.6.4.1).
    fn take_merged(
        &mut self,
        first: Used,
        supply: &mut Supply<'_>,
        pending: &mut u16,
    ) -> Result<(Result<Frame, DropReason>, u32), Violation> {
        let (slot, length) = self.take_one(first, NET_HEADER)?;
        let buffers = num_buffers(supply.pool, slot);
        let header = match self.offloads.is_none() {
            true => None,
            false => net_header(supply.pool, slot),
        };
        let mut total = u32::from(length) - NET_HEADER as u32;
        // From here on the slot comes home with the frame, whatever becomes of it.
        let mut frame = supply.segment(slot, SLOT_DATA, total as u16);
        let mut used = 1;
        let missing = |used| Violation::MergedBuffers { buffers, used };
        if buffers == 0 || buffers > *pending {
            return Err(missing(used.max(*pending)));
        }
        if buffers > MOST_BUFFERS {
            let most = MOST_BUFFERS;
            return Err(Violation::MergedCount { buffers, most });
        }
        let mut last = &mut frame;
        while used < buffers {
            let next = self.ring.used_at(0).ok_or(missing(used))?;
            let (slot, length) = self.take_one(next, 1)?;
            used += 1;
            last = last.set_tail(supply.segment(slot, BUFFER_START as u16, length));
            total += u32::from(length);
            if total > LONGEST {
                return Err(Violation::MergedLength {
                    length: total,
                    longest: LONGEST,
                });
            }
        }
        *pending -= buffers;
        let judge = |header| self.offloads.judge(&header, &frame, total);
        let frame = match header.map(judge).transpose()? {
            Some(Err(reason)) => Err(reason),
            Some(Ok(offload)) => {
                frame.set_offload(offload);
                Ok(frame)
            }
            None => Ok(frame),
        };
        Ok((frame, total))
    }
}
