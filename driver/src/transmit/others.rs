//! Frames that are not plain: chains, frames of other pools, and those that ask for more than a
//! checksum. Each is brought into what the ring can hold, and pushed for itself.

use std::ptr::NonNull;
use std::sync::Arc;

use virtroupe_wire::{Buffer, DropReason, Offload};

use super::linear::{Needs, gather, segments};
use super::{OTHER, TransmitQueue, most_segments};
use crate::frame::{Frame, NET_HEADER};
use crate::pool::Pool;
use crate::ring::indirect::{DIRECT_SEGMENTS, IndirectTable};
use crate::ring::{DESC_F_INDIRECT, DESC_F_NEXT, Ring};

impl<R: Ring> TransmitQueue<R> {
    /// Pushes frames of every kind.
    #[cold]
    pub(super) fn submit_others(&mut self, pool: &mut Pool, burst: &mut Vec<Frame>) {
        let fits = self.count_fitting(burst, pool);
        for mut frame in burst.drain(..fits) {
            if self.push_plain(pool, std::slice::from_mut(&mut frame)) == 1 {
                std::mem::forget(frame);
                continue;
            }
            let length = frame.len() as u64;
            match self.push_other(frame, pool) {
                Ok(()) => {
                    self.counters.frames += 1;
                    self.counters.bytes += length;
                }
                Err(reason) => self.counters.drops.add(reason, 1),
            }
        }
    }

    /// How many frames from the front have descriptors.
    fn count_fitting(&self, burst: &[Frame], pool: &mut Pool) -> usize {
        let mut room = self.room();
        let mut slots = pool.ensure(burst.len().saturating_mul(2));
        let mut count = 0;
        for frame in burst {
            let needs = self.needs(frame);
            slots = slots.saturating_sub(needs.copies);
            let in_table = self.wants_table(needs.segments) && slots > 0;
            slots -= usize::from(in_table);
            let descriptors = match needs.segments {
                // It will be dropped: it must not wait for a ring that is never long enough.
                many if many > self.most_segments() => 0,
                _ if in_table => 1,
                few => few,
            };
            if descriptors > room {
                break;
            }
            room -= descriptors;
            count += 1;
        }
        count
    }

    fn most_segments(&self) -> usize {
        most_segments(self.size())
    }

    fn wants_table(&self, segments: usize) -> bool {
        self.indirect && segments > DIRECT_SEGMENTS
    }

    fn needs(&self, frame: &Frame) -> Needs {
        Needs::of(frame, self.most_segments(), |segment| self.sees(segment))
    }

    /// The frame itself if the device can see all of it, else a chain with copies in the pool of
    /// what it can not see.
    ///
    /// # Errors
    /// `PoolEmpty` if the pool has no slot, `TooBig` if the frame exceeds the longest chain.
    fn in_sight(&mut self, mut frame: Frame, pool: &mut Pool) -> Result<Frame, DropReason> {
        let needs = self.needs(&frame);
        if needs.segments > self.most_segments() {
            return Err(DropReason::TooBig);
        }
        self.counters.copied += u64::from(needs.copies > 0);
        if needs.is_linear {
            return gather(&frame, pool);
        }
        if needs.copies == 0 && needs.segments == segments(&frame) {
            return Ok(frame);
        }
        let bring = |segment: Frame, pool: &mut Pool| {
            if self.sees(&segment) {
                Ok(segment)
            } else {
                gather(&segment, pool)
            }
        };
        let mut tail = frame.take_tail();
        let mut whole = bring(frame, pool)?;
        while let Some(mut segment) = tail {
            tail = segment.take_tail();
            // Devices may refuse an empty buffer.
            if !segment.head().is_empty() {
                whole.append(bring(segment, pool)?);
            }
        }
        Ok(whole)
    }

    /// Whether the frame lies in the memory that was mapped for the device.
    fn sees(&self, frame: &Frame) -> bool {
        // SAFETY: the home lives while the frame is out.
        frame
            .home()
            .is_some_and(|home| Arc::ptr_eq(unsafe { home.as_ref() }.memory(), &self.memory))
    }

    /// Sends any other frame: its chain, and what the device sees only of a copy. There are
    /// enough descriptors.
    #[cold]
    fn push_other(&mut self, frame: Frame, pool: &mut Pool) -> Result<(), DropReason> {
        let offload = frame.offload().for_length(frame.len());
        let mut frame = self.in_sight(frame, pool)?;
        let header = self.write_header(&mut frame, &offload)?;
        let count = segments(&frame);
        let table = self.wants_table(count).then(|| pool.take()).flatten();
        // A pool that had to give its last slot to a copy has none for a table.
        if table.is_none() && count > self.room() {
            return Err(DropReason::RingFull);
        }
        let head = match table {
            Some(slot) => self.push_indirect(&frame, header, slot, pool),
            None => self.push_chain(&frame, header),
        };
        let head = head.ok_or(DropReason::RingFull)?;
        if let Some(other) = self.others.get_mut(usize::from(head)) {
            other.frame = Some(frame);
            other.table = table;
            if table.is_some() {
                // The table itself takes the place of the one that the descriptor stands for.
                other.in_table = count;
                self.further_slots += count;
            }
        }
        self.occupy(head);
        Ok(())
    }

    /// Writes one descriptor for each segment. There are as many.
    fn push_chain(&mut self, frame: &Frame, header: NonNull<u8>) -> Option<u16> {
        let head = self.free.take()?;
        let mut id = head;
        let mut part = (header, frame.head().len() as u32 + NET_HEADER as u32);
        let mut tail = frame.tail();
        while let Some(segment) = tail {
            let Some(next) = self.free.take() else { break };
            self.write_part(head, id, part, Some(next));
            self.link(id, Some(next));
            part = (segment.data(), segment.head().len() as u32);
            id = next;
            tail = segment.tail();
        }
        self.write_part(head, id, part, None);
        self.link(id, None);
        Some(head)
    }

    /// Writes one descriptor for a table of all segments in `slot`.
    fn push_indirect(
        &mut self,
        frame: &Frame,
        header: NonNull<u8>,
        slot: u32,
        pool: &Pool,
    ) -> Option<u16> {
        let id = self.free.take()?;
        let address = pool.slot_address(slot);
        // SAFETY: `slot` was taken from the pool for this table; `release_other` gives it back.
        let mut table = unsafe { IndirectTable::in_slot(address) };
        let mut part = (header, frame.head().len() as u32 + NET_HEADER as u32);
        let mut tail = frame.tail();
        loop {
            let is_last = tail.is_none();
            table.push::<R>(self.device_address(part.0), part.1, is_last);
            let Some(segment) = tail else { break };
            part = (segment.data(), segment.head().len() as u32);
            tail = segment.tail();
        }
        let (address, length) = (self.device_address(address), table.length());
        self.ring
            .write_descriptor(id, id, address, length, DESC_F_INDIRECT, 0);
        self.link(id, None);
        Some(id)
    }

    /// Makes the chain that starts at `head` available; its frame is in `others`.
    fn occupy(&mut self, head: u16) {
        if let Some(entry) = self.slots.get_mut(usize::from(head)) {
            *entry = OTHER;
        }
        self.chains += 1;
        self.ring.push_avail(head);
    }

    /// Writes the virtio-net header that asks for `offload`. What the device does not take was
    /// done before, by [`TransmitOffloads::carry_out`].
    fn write_header(
        &self,
        frame: &mut Frame,
        offload: &Offload,
    ) -> Result<NonNull<u8>, DropReason> {
        let written = match offload.is_none() {
            true => frame.clear_net_header(),
            false => {
                let header = self.offloads.header(offload, frame.head());
                frame.write_net_header(header.ok_or(DropReason::Malformed)?)
            }
        };
        written.ok_or(DropReason::RingFull)
    }

    #[inline]
    fn device_address(&self, address: NonNull<u8>) -> u64 {
        (address.as_ptr() as u64).wrapping_add(self.iova_offset)
    }

    #[inline]
    fn write_part(&mut self, head: u16, id: u16, part: (NonNull<u8>, u32), next: Option<u16>) {
        let address = self.device_address(part.0);
        let flags = if next.is_some() { DESC_F_NEXT } else { 0 };
        self.ring
            .write_descriptor(head, id, address, part.1, flags, next.unwrap_or(0));
    }

    fn link(&mut self, id: u16, next: Option<u16>) {
        if let Some(other) = self.others.get_mut(usize::from(id)) {
            other.next = next;
        }
    }
}
