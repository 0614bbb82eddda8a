//! From the transmit ring of the driver to a backend.

use virtroupe_wire::Instant;

use super::backend::{LentFrame, Packet, Port};
use super::memory::MOST_WRITTEN;
use super::offloads::Scratch;
use super::pair::{BURST, Queue};
use super::ring::{Chain, RingFault};
use super::stats::{Count, EmbeddedStats};
use super::steering::Steering;

use gathered::{gather, outline};

pub(super) use rules::Rules;

mod gathered;
mod rules;

/// One step of a pair's way out.
pub(super) struct Outbound<'a> {
    /// The number of the pair.
    pub(super) pair: u16,
    pub(super) queue: &'a mut Queue,
    /// Memory for the chain of one frame.
    pub(super) chain: &'a mut Chain,
    /// Memory for the frames.
    pub(super) burst: &'a mut [Packet],
    /// Memory in which frames are cut that the backend does not take whole.
    pub(super) scratch: &'a mut Scratch,
    pub(super) steering: &'a Steering,
    pub(super) rules: Rules,
    pub(super) stats: &'a mut EmbeddedStats,
    /// Frames that were taken from the ring.
    pub(super) taken: usize,
    /// Of these, how many are in `burst`, for the backend.
    pub(super) filled: usize,
}

impl Outbound<'_> {
    /// Gives at most one burst of frames to `port`. Returns how many were taken from the ring.
    ///
    /// # Errors
    /// When the driver broke the rules of the ring.
    pub(super) fn transmit(
        &mut self,
        port: &mut dyn Port,
        now: Instant,
    ) -> Result<usize, RingFault> {
        let outcome = match port.transmits_in_place() {
            true => self.lend(port, now),
            false => self.copy(),
        };
        // What was taken before a fault goes its way: every frame counted has a fate.
        if self.queue.publish() {
            self.stats.interrupts += 1;
        }
        self.pass_on(port, now);
        outcome.map(|()| self.taken)
    }

    /// Copies frames out of the driver's memory.
    fn copy(&mut self) -> Result<(), RingFault> {
        let ring = &mut self.queue.ring;
        while self.taken < BURST
            && let Some(packet) = self.burst.get_mut(self.filled)
            && ring.take(self.chain)?
        {
            let gathered = gather(ring.memory(), self.chain, self.rules.longest(), packet)?;
            self.taken += 1;
            let sent = self.rules.judge(gathered, &packet.header, self.stats);
            if sent.is_some() {
                self.steering.sent(&packet.bytes, self.pair);
                self.filled += 1;
            }
            ring.complete(self.chain, 0);
        }
        Ok(())
    }

    /// Has `port` take frames from where they lie.
    fn lend(&mut self, port: &mut dyn Port, now: Instant) -> Result<(), RingFault> {
        let ring = &mut self.queue.ring;
        while self.taken < BURST
            && let Some(packet) = self.burst.first_mut()
            && ring.take(self.chain)?
        {
            let (memory, longest) = (ring.memory(), self.rules.longest());
            let is_lent = self.chain.readable().len() <= MOST_WRITTEN;
            let gathered = match is_lent {
                true => outline(memory, self.chain, longest, packet)?,
                false => gather(memory, self.chain, longest, packet)?,
            };
            self.taken += 1;
            let sent = self.rules.judge(gathered, &packet.header, self.stats);
            if let Some(length) = sent.filter(|_| is_lent) {
                let frame = LentFrame::new(packet.header, memory, self.chain.readable());
                match port.transmit_in_place(now, &frame) {
                    true => self.stats.to_backend.add(length),
                    false => self.stats.backend_refused.add(length),
                }
            } else if sent.is_some() {
                // Behind those before it.
                send(port, now, std::slice::from_mut(packet), self.stats);
            }
            ring.complete(self.chain, 0);
        }
        Ok(())
    }

    /// Gives the backend what was copied, after the device has done what that can not.
    fn pass_on(&mut self, port: &mut dyn Port, now: Instant) {
        let burst = self.burst.get_mut(..self.filled).unwrap_or_default();
        if burst.is_empty() {
            return;
        }
        let is_left = |packet: &Packet, port: &dyn Port| {
            !packet.header.is_plain_transmit() && !port.takes(packet)
        };
        if !burst.iter().any(|packet| is_left(packet, port)) {
            send(port, now, burst, self.stats);
            return;
        }
        for packet in burst {
            if !is_left(packet, port) {
                self.scratch.keep(packet);
                continue;
            }
            let length = packet.bytes.len();
            let Some(pieces) = self.scratch.carry_out(packet) else {
                self.stats.violations.add(length);
                continue;
            };
            let finished = self.scratch.finished().iter().rev().take(pieces);
            let bytes: usize = finished.map(|piece| piece.bytes.len()).sum();
            self.stats.segments_added += Count {
                frames: pieces as u64 - 1,
                bytes: bytes.saturating_sub(length) as u64,
            };
        }
        let finished = self.scratch.finished();
        send(port, now, finished, self.stats);
        self.scratch.recycle();
    }
}

/// Gives a burst to the backend, and counts it.
fn send(port: &mut dyn Port, now: Instant, burst: &mut [Packet], stats: &mut EmbeddedStats) {
    let mut total = Count::default();
    for packet in burst.iter() {
        total.add(packet.bytes.len());
    }
    let refused = port.transmit(now, burst);
    stats.backend_refused += refused;
    stats.to_backend += Count {
        frames: total.frames.saturating_sub(refused.frames),
        bytes: total.bytes.saturating_sub(refused.bytes),
    };
}
