//! Segments from the network: who gets them, and what answers those that nobody gets.

use super::{Entry, Reply, Run, TcpEngine, context};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::tcp::connection::Refusal;
use crate::tcp::flow::Flow;
use crate::tcp::header::{HeaderOptions, TcpFlags, TcpHeader, Timestamps};
use crate::tcp::payload::SharedPayload;
use crate::tcp::segment::{Handled, Segment};
use crate::tcp::sequence::SeqNumber;
use crate::time::Instant;

/// What a reset that answers a segment must know of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    flags: TcpFlags,
    sequence: SeqNumber,
    acknowledgment: SeqNumber,
    /// Sequence numbers that it takes.
    length: u32,
}

impl Answered {
    pub(super) fn new<B: Buffer>(segment: &Handled<'_, B>) -> Self {
        let TcpHeader {
            flags,
            sequence,
            acknowledgment,
            ..
        } = *segment.header;
        let length = segment.payload.len() as u32
            + u32::from(flags.contains(TcpFlags::SYN))
            + u32::from(flags.contains(TcpFlags::FIN));
        Answered {
            flags,
            sequence,
            acknowledgment,
            length,
        }
    }
}

impl<B: Buffer, S: SharedPayload> TcpEngine<B, S> {
    /// Handles a burst of segments, which leave `burst`.
    ///
    /// Their connections are looked for first: none of that depends on the others, so that the
    /// processor waits for the memory of many connections at once. A burst of the flow that was
    /// found last is spared that.
    pub fn receive(&mut self, now: Instant, burst: &mut Vec<Segment<B>>) {
        let mut runs = std::mem::take(&mut self.runs);
        self.split(burst, &mut runs);
        self.look_up(burst, &mut runs);
        let mut next = runs.iter();
        let mut run = next.next();
        let mut known_hash = None;
        for (position, segment) in burst.drain(..).enumerate() {
            if let Some(Run { first, hash, index }) = run
                && *first == position
            {
                // Whether it is still so is looked at again.
                self.last_found = index.unwrap_or(self.last_found);
                known_hash = Some(*hash);
                run = next.next();
            }
            self.handle(now, segment, known_hash);
        }
        runs.clear();
        self.runs = runs;
    }

    /// Where the flow of a burst changes, and the hashes of those flows.
    fn split(&self, burst: &[Segment<B>], runs: &mut Vec<Run>) {
        let mut last: Option<&Flow> = self.connections.at(self.last_found).map(|it| &it.flow);
        for (first, segment) in burst.iter().enumerate() {
            if last != Some(&segment.flow) {
                last = Some(&segment.flow);
                runs.push(Run {
                    first,
                    hash: self.secrets.table_hash(&segment.flow),
                    index: None,
                });
            }
        }
    }

    /// Finds the connections of a burst, and reads from all parts of them that a segment needs:
    /// short loops, so that the processor runs ahead over many connections.
    fn look_up(&self, burst: &[Segment<B>], runs: &mut [Run]) {
        for run in &mut *runs {
            if let Some(segment) = burst.get(run.first)
                && let Some(Entry::Connection(index)) = self.find_hashed(run.hash, &segment.flow)
            {
                run.index = Some(index);
            }
        }
        let mut read = 0;
        for index in runs.iter().filter_map(|run| run.index) {
            if let Some(connection) = self.connections.at(index) {
                read ^= connection.touch() ^ self.agenda.timers.touch(index);
            }
        }
        std::hint::black_box(read);
    }

    /// Handles one segment.
    pub fn receive_one(&mut self, now: Instant, segment: Segment<B>) {
        self.handle(now, segment, None);
    }

    /// Handles one segment, of whose flow the hash may be known.
    fn handle(&mut self, now: Instant, segment: Segment<B>, known_hash: Option<u64>) {
        self.counters.rx_segments += 1;
        let Segment {
            flow,
            mut header,
            payload,
            ecn,
            merged,
        } = segment;
        let segment = Handled {
            flow: &flow,
            header: &mut header,
            payload,
            ecn,
            merged,
        };
        let answered = Answered::new(&segment);
        let result = if self.is_at(self.last_found, &flow) {
            self.receive_for(now, self.last_found, segment)
        } else {
            let hash = known_hash.unwrap_or_else(|| self.secrets.table_hash(&flow));
            match self.find_hashed(hash, &flow) {
                Some(Entry::Connection(index)) => {
                    self.last_found = index;
                    self.receive_for(now, index, segment)
                }
                Some(Entry::HalfOpen(index)) => self.receive_half_open(now, hash, index, segment),
                Some(Entry::TimeWait(index)) => self.receive_time_wait(now, hash, index, segment),
                None => self.receive_stranger(now, hash, segment),
            }
        };
        match result {
            Ok(()) => self.counters.accepted += 1,
            Err(refusal) => {
                self.drops.add(refusal.reason, 1);
                if refusal.reset {
                    self.reset(flow, &answered);
                }
            }
        }
    }

    /// Whether `flow` is that of the connection at `index`.
    #[inline]
    fn is_at(&self, index: u32, flow: &Flow) -> bool {
        let connection = self.connections.at(index);
        connection.is_some_and(|it| it.is_attached && it.flow == *flow)
    }

    /// Handles a segment of a connection.
    pub(super) fn receive_for(
        &mut self,
        now: Instant,
        index: u32,
        segment: Handled<'_, B>,
    ) -> Result<(), Refusal> {
        let mut cx = context(
            now,
            &self.config,
            self.most_payload,
            self.memory,
            &mut self.counters,
        );
        let Some(connection) = self.connections.at_mut(index) else {
            return Err(DropReason::NoSocket.into());
        };
        let before = connection.receive.memory();
        let result = connection.on_segment(segment, &mut cx);
        self.memory = (self.memory + connection.receive.memory()).saturating_sub(before);
        if self.agenda.enter(now, index, connection, true) {
            self.settle(now, index);
        }
        result
    }

    /// Handles a segment of a connection in TIME-WAIT (RFC 9293, section 3.10.7.4; RFC 6191).
    fn receive_time_wait(
        &mut self,
        now: Instant,
        hash: u64,
        index: u32,
        segment: Handled<'_, B>,
    ) -> Result<(), Refusal> {
        let Some(record) = self.time_wait.at(index).copied() else {
            return Err(DropReason::NoSocket.into());
        };
        let flags = segment.header.flags;
        if flags.contains(TcpFlags::RST) {
            // RFC 1337, section 4: TIME-WAIT is not cut short.
            return Err(DropReason::BadFlags.into());
        }
        let is_syn = flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK);
        let is_opening = is_syn && !flags.contains(TcpFlags::FIN);
        // A SYN cookie could not be numbered behind the old connection.
        let has_room = self.half_open.len() < self.config.half_open;
        if is_opening
            && has_room
            && record.admits(segment.header)
            && let Some(listener) = self.listeners.find(segment.flow)
        {
            self.remove_time_wait(index);
            return self.receive_syn(now, hash, listener, &segment, Some(record.behind()));
        }
        let number = segment.header.sequence;
        let is_fin = flags.contains(TcpFlags::FIN);
        if segment.payload.is_empty() && !flags.contains(TcpFlags::SYN) && !is_fin {
            let ahead = number.distance(record.theirs);
            let is_within = (0..=i32::from(u16::MAX)).contains(&ahead);
            let record = self.time_wait.at_mut(index);
            // Not acceptable. Two sides that disagree do not answer each other for ever.
            if is_within || !record.is_some_and(|record| record.may_answer(now)) {
                return Ok(());
            }
        }
        if is_fin && number + segment.payload.len() as u32 + 1 == record.theirs {
            // The peer has not seen our last acknowledgment.
            let until = now + self.config.time_wait_time;
            self.time_wait_timers.disarm(index);
            self.time_wait_timers.arm(now, index, until);
        }
        let timestamps = record.recent.map(|echo| Timestamps {
            value: self.timestamp(now, &record.flow),
            echo,
        });
        // Nothing can come any more, so no window is kept.
        self.acknowledge(record.flow, record.ours, record.theirs, 0, timestamps)?;
        Err(DropReason::OutOfWindow.into())
    }

    /// Our timestamp for a flow.
    pub(super) fn timestamp(&self, now: Instant, flow: &Flow) -> u32 {
        let offset = self.secrets.timestamp_offset(flow);
        crate::tcp::connection::clock(now).wrapping_add(offset)
    }

    /// Answers with what is sent and expected, outside of a connection.
    pub(super) fn acknowledge(
        &mut self,
        flow: Flow,
        ours: SeqNumber,
        theirs: SeqNumber,
        window: u16,
        timestamps: Option<Timestamps>,
    ) -> Result<(), Refusal> {
        let header = TcpHeader {
            source_port: flow.local_port(),
            destination_port: flow.remote_port(),
            sequence: ours,
            acknowledgment: theirs,
            flags: TcpFlags::ACK,
            window,
            options: HeaderOptions {
                timestamps,
                ..HeaderOptions::default()
            },
            ..TcpHeader::default()
        };
        self.reply(flow, header, 0)
    }

    /// Puts an answer outside of a connection into the queue.
    ///
    /// # Errors
    /// `RateLimited` if too many wait.
    pub(super) fn reply(&mut self, flow: Flow, header: TcpHeader, dscp: u8) -> Result<(), Refusal> {
        if self.replies.len() >= self.config.replies {
            return Err(DropReason::RateLimited.into());
        }
        self.replies.push_back(Reply {
            flow,
            header,
            dscp_ecn: dscp << 2,
        });
        Ok(())
    }

    /// Answers a segment that fits nowhere by a reset (RFC 9293, section 3.10.7.1). If too many
    /// answers wait, it is not answered.
    fn reset(&mut self, flow: Flow, answered: &Answered) {
        if answered.flags.contains(TcpFlags::RST) {
            return;
        }
        let (sequence, acknowledgment, flags) = match answered.flags.contains(TcpFlags::ACK) {
            true => (answered.acknowledgment, SeqNumber(0), TcpFlags::RST),
            false => {
                let flags = TcpFlags::RST.with(TcpFlags::ACK);
                (SeqNumber(0), answered.sequence + answered.length, flags)
            }
        };
        let reset = TcpHeader {
            source_port: flow.local_port(),
            destination_port: flow.remote_port(),
            sequence,
            acknowledgment,
            flags,
            ..TcpHeader::default()
        };
        if self.reply(flow, reset, 0).is_ok() {
            self.counters.resets_sent += 1;
        }
    }
}
