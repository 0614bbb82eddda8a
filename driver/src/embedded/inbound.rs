//! From a backend into the receive ring of the driver.

use std::collections::VecDeque;
use std::io;

use virtroupe_wire::Instant;

use super::backend::{Delivery, Packet, Port};
use super::header::NetHeader;
use super::offloads::{Scratch, header_for_driver, is_taken_by_driver};
use super::ring::{Chain, Ring, RingFault, Segment};
use super::stats::EmbeddedStats;
use crate::features::FeatureBits;

/// One step of a pair's way in.
pub(super) struct Inbound<'a> {
    pub(super) ring: &'a mut Ring,
    /// Memory for the chains of one frame.
    pub(super) chains: &'a mut Vec<Chain>,
    /// Pieces of a frame that the driver does not take whole, and that find no buffer yet.
    pub(super) pieces: &'a mut VecDeque<Packet>,
    /// Memory in which they are cut.
    pub(super) scratch: &'a mut Scratch,
    pub(super) features: FeatureBits,
    pub(super) link_up: bool,
    pub(super) stats: &'a mut EmbeddedStats,
    /// Set if the driver posts too few buffers.
    pub(super) starved: bool,
    /// Set if the driver broke the rules of the ring.
    pub(super) fault: Option<RingFault>,
}

impl Inbound<'_> {
    /// Delivers at most `limit` frames of `port`, behind what waits. Returns how much was done.
    ///
    /// # Errors
    /// When the backend is gone.
    pub(super) fn receive(
        &mut self,
        port: &mut dyn Port,
        now: Instant,
        limit: usize,
    ) -> io::Result<usize> {
        match self.ring.has_available() {
            Ok(true) => {}
            Ok(false) => {
                self.starved = true;
                return Ok(0);
            }
            Err(fault) => {
                self.fault = Some(fault);
                return Ok(0);
            }
        }
        let waiting = self.pieces.len();
        self.deliver_pieces();
        let delivered = waiting - self.pieces.len();
        if !self.pieces.is_empty() {
            return Ok(delivered);
        }
        let received = port.receive(now, limit, &mut |header, frame| self.deliver(header, frame));
        Ok(delivered + received?)
    }

    #[inline(always)]
    fn deliver(&mut self, header: &NetHeader, frame: &[u8]) -> Delivery {
        if !self.pieces.is_empty() {
            return Delivery::NoBuffer;
        }
        if header.is_plain_transmit() || is_taken_by_driver(header, frame, self.features) {
            return self.write(header, frame);
        }
        self.cut(header, frame);
        Delivery::Taken
    }

    /// Does what `header` asks for, and delivers what comes of it.
    #[inline(never)]
    fn cut(&mut self, header: &NetHeader, frame: &[u8]) {
        let mut packet = self.scratch.copy(header, frame);
        let outcome = self.scratch.carry_out(&mut packet);
        self.scratch.give(packet);
        if outcome.is_some() {
            self.pieces.extend(self.scratch.take_finished());
            self.deliver_pieces();
        } else {
            self.stats.from_backend.add(frame.len());
            self.stats.undoable.add(frame.len());
        }
    }

    /// Delivers the pieces for which there are buffers.
    fn deliver_pieces(&mut self) {
        while let Some(piece) = self.pieces.pop_front() {
            if self.write(&piece.header, &piece.bytes) == Delivery::NoBuffer {
                self.pieces.push_front(piece);
                return;
            }
            self.scratch.give(piece);
        }
    }

    /// Writes a frame that the driver takes as it is, and counts it.
    #[inline(always)]
    fn write(&mut self, header: &NetHeader, frame: &[u8]) -> Delivery {
        let written = match self.link_up {
            true => self.scatter(header, frame),
            false => Ok(Scattered::LinkDown),
        };
        let counter = match written {
            Ok(Scattered::Delivered) => &mut self.stats.to_driver,
            Ok(Scattered::TooLong) => &mut self.stats.no_room,
            Ok(Scattered::LinkDown) => &mut self.stats.link_down_to_driver,
            Ok(Scattered::NoBuffer) => {
                self.stats.no_buffer += 1;
                self.starved = true;
                return Delivery::NoBuffer;
            }
            Err(error) => {
                self.fault = Some(error);
                return Delivery::NoBuffer;
            }
        };
        counter.add(frame.len());
        self.stats.from_backend.add(frame.len());
        Delivery::Taken
    }

    /// Writes `frame` into the next receive buffer, or where buffers are merged (MRG_RXBUF,
    /// section 5.1.6.4) into as many as it needs.
    #[inline(always)]
    fn scatter(&mut self, header: &NetHeader, frame: &[u8]) -> Result<Scattered, RingFault> {
        let ring = &mut *self.ring;
        let Some(chain) = self.chains.first_mut() else {
            return Ok(Scattered::NoBuffer);
        };
        if !ring.take(chain)? {
            return Ok(Scattered::NoBuffer);
        }
        let needed = NetHeader::LENGTH + frame.len();
        if room(chain)? < needed {
            return self.merge(header, frame);
        }
        // Without MRG_RXBUF it is 1 as well (section 5.1.6.4.1).
        let header = header_for_driver(header, self.features, 1).to_bytes();
        match chain.writable() {
            [part, ..] if part.length >= needed => {
                if !ring.memory().write_behind(part.offset, &header, frame) {
                    return Err(RingFault::Address);
                }
                ring.complete(chain, u32::try_from(needed).unwrap_or(u32::MAX));
            }
            _ => fill(ring, chain, &mut [&header, frame])?,
        }
        Ok(Scattered::Delivered)
    }

    /// Writes `frame` into several buffers, of which the first is taken already.
    #[inline(never)]
    fn merge(&mut self, header: &NetHeader, frame: &[u8]) -> Result<Scattered, RingFault> {
        let merges = self.features.contains(FeatureBits::MRG_RXBUF);
        let (ring, chains) = (&mut *self.ring, &mut *self.chains);
        let needed = NetHeader::LENGTH + frame.len();
        let first = chains.first();
        let mut capacity = first.map_or(0, Chain::writable_bytes);
        let mut descriptors = first.map_or(0, |chain| chain.descriptors);
        let mut count = 1;
        while capacity < needed {
            if chains.len() == count {
                chains.push(Chain::default());
            }
            let Some(chain) = chains.get_mut(count) else {
                break;
            };
            // A buffer may have several descriptors. A frame that the buffers can never hold must
            // not block those behind it.
            let never = !merges || descriptors >= ring.size();
            if never || !ring.take(chain)? {
                for chain in chains.iter().take(count).rev() {
                    ring.give_back(chain);
                }
                return Ok(match never {
                    true => Scattered::TooLong,
                    false => Scattered::NoBuffer,
                });
            }
            capacity += room(chain)?;
            descriptors = descriptors.saturating_add(chain.descriptors);
            count += 1;
        }
        let num_buffers = u16::try_from(count).map_err(|_| RingFault::Buffer)?;
        let header = header_for_driver(header, self.features, num_buffers).to_bytes();
        let mut parts: [&[u8]; 2] = [&header, frame];
        for chain in chains.iter().take(count) {
            fill(ring, chain, &mut parts)?;
        }
        Ok(Scattered::Delivered)
    }
}

/// What became of a frame for the driver.
enum Scattered {
    Delivered,
    NoBuffer,
    TooLong,
    LinkDown,
}

/// The bytes that a receive buffer holds; all of it is to be written, and the header fits.
fn room(chain: &Chain) -> Result<usize, RingFault> {
    let room = chain.writable_bytes();
    if !chain.readable().is_empty() || room < NetHeader::LENGTH {
        return Err(RingFault::Buffer);
    }
    Ok(room)
}

/// Fills `chain` from `parts`, which keep what it does not hold, and marks it used.
fn fill(ring: &mut Ring, chain: &Chain, parts: &mut [&[u8]; 2]) -> Result<(), RingFault> {
    let mut written = 0;
    for segment in chain.writable() {
        let Segment {
            mut offset,
            mut length,
        } = *segment;
        for part in &mut *parts {
            let (now, later) = part.split_at(part.len().min(length));
            if !ring.memory().write(offset, now) {
                return Err(RingFault::Address);
            }
            *part = later;
            offset += now.len();
            length -= now.len();
            written += now.len();
        }
    }
    ring.complete(chain, u32::try_from(written).unwrap_or(u32::MAX));
    Ok(())
}

#[cfg(test)]
mod tests;
