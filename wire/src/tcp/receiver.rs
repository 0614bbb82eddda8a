//! The receiving half of a connection: what arrived, what is missing, and how much more we take
//! (RFC 9293, section 3.3.1: the receive sequence variables).

use std::collections::VecDeque;

use super::reassembly::{Range, Reassembly};
use super::sequence::{Origin, SeqNumber};
use super::spare;
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::time::{Instant, Span};

/// A payload up to this length is copied behind the one before it, if that has room, so that
/// short segments do not hold a whole buffer each.
const COPY: usize = 256;

/// Pieces that may wait out of order, beyond what their memory allows.
const MOST_PIECES: usize = 16_384;

/// Where no FIN is: no stream is that long.
const NOWHERE: u64 = u64::MAX;

/// The receiving half. Positions count as [`Origin`] says.
#[derive(Debug)]
pub(crate) struct Receiver<B> {
    pub(crate) origin: Origin,
    /// The first position that has not arrived (RCV.NXT).
    pub(crate) next: u64,
    /// The first position that the peer may not send: RCV.NXT + RCV.WND. It never moves back.
    pub(crate) edge: u64,
    /// In order, for the application.
    pub(crate) queue: VecDeque<B>,
    out_of_order: Option<Box<Reassembly<B>>>,
    /// Bytes of memory in `queue`.
    queue_memory: usize,
    /// Bytes of memory that received data may hold, for now.
    buffer: usize,
    /// Where the FIN is; `NOWHERE` before it arrives.
    fin: u64,
    /// What arrived again, to be reported once (RFC 2883).
    pub(crate) duplicate: Option<Range>,
    /// Bytes that the application took since `round`, a round trip ago at most.
    taken: usize,
    round: Instant,
}

impl<B: Buffer> Receiver<B> {
    /// A half that has seen nothing.
    pub(crate) fn new(buffer: usize) -> Self {
        Receiver {
            origin: Origin(SeqNumber(0)),
            next: Origin::SYN,
            edge: Origin::SYN,
            queue: VecDeque::new(),
            out_of_order: None,
            queue_memory: 0,
            buffer,
            fin: NOWHERE,
            duplicate: None,
            taken: 0,
            round: Instant::ZERO,
        }
    }

    /// The peer's SYN is numbered `initial`.
    pub(crate) fn begin(&mut self, initial: SeqNumber) {
        self.origin = Origin(initial);
        self.next = Origin::SYN + 1;
        // What the window field of a SYN can say: it is not scaled (RFC 7323, section 2.2).
        self.edge = self.next + self.free().min(u16::MAX.into());
    }

    /// Bytes of memory that received data hold.
    pub(crate) fn memory(&self) -> usize {
        let waiting = self.out_of_order.as_ref().map_or(0, |queue| queue.memory());
        self.queue_memory + waiting
    }

    /// Pieces that wait out of order.
    pub(crate) fn pieces(&self) -> usize {
        self.out_of_order.as_ref().map_or(0, |queue| queue.pieces())
    }

    /// Whether something waits out of order.
    pub(crate) fn has_gap(&self) -> bool {
        self.out_of_order.is_some()
    }

    /// Whether the whole stream of the peer has arrived.
    pub(crate) fn is_finished(&self) -> bool {
        self.next > self.fin
    }

    /// Whether what ends at `position` goes beyond the FIN that has arrived.
    pub(crate) fn is_behind_fin(&self, position: u64) -> bool {
        position > self.fin
    }

    /// The window that the peer knows of.
    pub(crate) fn window(&self) -> u64 {
        self.edge.saturating_sub(self.next)
    }

    /// Bytes that could be announced. What is announced is not taken back, so buffers that are
    /// much longer than their payload may take up to twice the limit.
    fn free(&self) -> u64 {
        self.buffer.saturating_sub(self.memory()) as u64
    }

    /// Where the edge may move: as far as memory allows, but not by less than a segment or half
    /// of the buffer (RFC 9293, section 3.8.6.2.2), and not back (section 3.8.6.2.1).
    pub(crate) fn movable_edge(&self, segment_size: u64) -> u64 {
        let edge = self.next + self.free();
        let least = segment_size.min(self.buffer as u64 / 2);
        match edge >= self.edge + least {
            true => edge,
            false => self.edge,
        }
    }

    /// Whether the peer should be told of a larger window at once: twice as large as it knows.
    pub(crate) fn wants_update(&self, segment_size: u64) -> bool {
        let window = self.movable_edge(segment_size) - self.next;
        self.movable_edge(segment_size) > self.edge && window >= 2 * self.window()
    }

    /// The peer's FIN is at `position`.
    ///
    /// # Errors
    /// `OutOfWindow` if it was elsewhere before: nothing follows a FIN.
    pub(crate) fn finish_at(&mut self, position: u64) -> Result<(), DropReason> {
        if self.fin != NOWHERE && self.fin != position {
            return Err(DropReason::OutOfWindow);
        }
        self.fin = position;
        Ok(())
    }

    /// Takes `payload`, which begins at `start`, not before `next`, and ends within the window.
    /// `is_full` says that no more memory may be held by what is out of order.
    ///
    /// # Errors
    /// `ReceiveBufferFull` if it holds too much memory.
    pub(crate) fn insert(
        &mut self,
        start: u64,
        payload: B,
        is_full: bool,
    ) -> Result<(), DropReason> {
        let memory = payload.memory();
        if start == self.next && self.out_of_order.is_none() {
            if self.queue_memory > self.buffer.saturating_mul(2) && payload.len() > COPY {
                return Err(DropReason::ReceiveBufferFull);
            }
            self.next += payload.len() as u64;
            return self.push(payload);
        }
        let is_next = start == self.next;
        // What is next makes room: it is what all others wait for.
        while is_next && self.memory() + memory > self.buffer.saturating_mul(2) {
            if !self
                .out_of_order
                .as_mut()
                .is_some_and(|queue| queue.give_up_last())
            {
                break;
            }
        }
        let most = self.buffer.saturating_mul(2);
        let is_over = self.memory() + memory > most || self.pieces() >= MOST_PIECES;
        if (is_over || is_full) && !is_next {
            return Err(DropReason::ReceiveBufferFull);
        }
        let queue = self
            .out_of_order
            .get_or_insert_with(|| Box::new(Reassembly::new()));
        let duplicate = queue.insert(start, payload);
        self.duplicate = self.duplicate.or(duplicate);
        self.take_in_order()
    }

    /// Moves what is in order now to the application.
    fn take_in_order(&mut self) -> Result<(), DropReason> {
        while let Some((payload, end)) = self
            .out_of_order
            .as_mut()
            .and_then(|queue| queue.take(self.next))
        {
            self.next = end;
            self.push(payload)?;
        }
        if self
            .out_of_order
            .as_ref()
            .is_some_and(|queue| queue.is_empty())
        {
            self.out_of_order = None;
        }
        Ok(())
    }

    /// Moves over the FIN, if it is next; whether it was.
    pub(crate) fn take_fin(&mut self) -> bool {
        let is_next = self.fin == self.next;
        if is_next {
            self.next += 1;
            self.edge = self.edge.max(self.next);
            self.out_of_order = None;
        }
        is_next
    }

    fn push(&mut self, payload: B) -> Result<(), DropReason> {
        if payload.len() <= COPY
            && let Some(last) = self.queue.back_mut()
            && !payload.is_chain()
            && last.len() + payload.len() <= u16::MAX.into()
        {
            let before = last.memory();
            if last.extend_from_slice(payload.head()) {
                self.queue_memory = self.queue_memory + last.memory() - before;
                return Ok(());
            }
        }
        self.queue_memory += payload.memory();
        self.queue.push_back(payload);
        Ok(())
    }

    /// Takes the next payload for the application. `rtt` is the round-trip time, if known; the
    /// buffer may grow to `most_buffer` bytes.
    pub(crate) fn take(&mut self, now: Instant, rtt: Span, most_buffer: usize) -> Option<B> {
        let payload = self.queue.pop_front()?;
        self.queue_memory = self.queue_memory.saturating_sub(payload.memory());
        self.taken = self.taken.saturating_add(payload.len());
        // An application that takes half of the buffer in a round trip could take more.
        if rtt > Span::ZERO && now.span_since(self.round) >= rtt {
            if self.taken > self.buffer / 2 {
                self.buffer = self.buffer.saturating_mul(2).min(most_buffer);
            }
            self.taken = 0;
            self.round = now;
        }
        Some(payload)
    }

    /// Whether there is something to announce by SACK.
    #[inline]
    pub(crate) fn has_blocks(&self) -> bool {
        self.duplicate.is_some() || self.has_gap()
    }

    /// What to announce by SACK: the duplicate first, once (RFC 2883, section 4), and what is
    /// out of order (RFC 2018, section 4).
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Range> + '_ {
        let waiting = self.out_of_order.iter().flat_map(|queue| queue.blocks());
        self.duplicate.into_iter().chain(waiting)
    }

    /// Gives back the memory of an empty queue.
    pub(crate) fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// Drops everything that was not taken.
    pub(crate) fn clear(&mut self) {
        spare::empty(&mut self.queue);
        self.queue_memory = 0;
        self.out_of_order = None;
    }
}
