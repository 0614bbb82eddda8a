//! A segment has arrived: the checks of RFC 9293, section 3.10.7.4, in their order, as RFC 5961
//! and RFC 7323 changed them.

use super::{Connection, Context, Owner, Refusal};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::tcp::header::TcpFlags;
use crate::tcp::payload::SharedPayload;
use crate::tcp::reassembly::Range;
use crate::tcp::segment::Handled;
use crate::tcp::sequence::{Origin, SeqNumber};
use crate::tcp::state::{TcpError, TcpState};
use crate::tcp::timers::Timer;
use crate::time::{Instant, Span};

/// A timestamp older than this says nothing (RFC 7323, section 5.5).
const RECENT_LIFETIME: Span = Span::from_secs(24 * 24 * 3600);

/// What an ECN field says: congestion was experienced (RFC 3168, section 5).
const CONGESTION_EXPERIENCED: u8 = 3;

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// Handles a segment.
    ///
    /// # Errors
    /// Why it is not acted upon. It may be answered all the same.
    pub(crate) fn on_segment(
        &mut self,
        mut segment: Handled<'_, B>,
        cx: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        match self.state {
            TcpState::SynSent => return self.on_answer(segment, cx),
            TcpState::Closed => return Err(Refusal::reset(DropReason::SocketClosed)),
            _ => {}
        }
        let is_answer = self.take_syn_of_simultaneous_open(&mut segment);
        self.check_timestamp(&segment, cx)?;
        let number = segment.header.sequence;
        let start = self.check_sequence(&mut segment, cx)?;
        let flags = segment.header.flags;
        if flags.contains(TcpFlags::RST) {
            return self.on_reset(number, cx);
        }
        if flags.contains(TcpFlags::SYN) {
            // RFC 5961, section 4.2: whatever its number.
            self.challenge(cx);
            return Err(DropReason::BadFlags.into());
        }
        if !flags.contains(TcpFlags::ACK) {
            return Err(DropReason::BadFlags.into());
        }
        self.remember_timestamp(&segment, number, cx.now);
        if is_answer {
            // Its window is not scaled, as that of any SYN (RFC 7323, section 2.2).
            segment.header.flags = flags.with(TcpFlags::SYN);
        }
        self.on_acknowledgment(&segment, start, cx)?;
        self.last_received = cx.now;
        self.keepalives = 0;
        if let Some(option) = segment.header.options.user_timeout {
            self.learn_user_timeout(option, cx.now);
        }
        if self.negotiated.ecn {
            self.on_ecn(flags, segment.ecn, segment.payload.is_empty());
        }
        // An urgent pointer is ignored: urgent data is data (RFC 6093, section 4).
        self.on_text(segment, cx).map_err(Refusal::from)
    }

    /// A SYN-ACK may answer our SYN although the peer's SYN came first: then it is only an
    /// acknowledgment (RFC 9293, section 3.5, figure 7).
    /// Whether this is one.
    fn take_syn_of_simultaneous_open(&self, segment: &mut Handled<'_, B>) -> bool {
        let header = &mut *segment.header;
        let is_answer = self.state == TcpState::SynReceived
            && header.flags.contains(TcpFlags::SYN.with(TcpFlags::ACK))
            && header.sequence == self.receive.origin.0;
        if is_answer {
            header.flags = TcpFlags(header.flags.0 & !TcpFlags::SYN.0);
            header.sequence = header.sequence + 1;
        }
        is_answer
    }

    /// Protection against old segments (RFC 7323, section 5.3, R1).
    fn check_timestamp(
        &mut self,
        segment: &Handled<'_, B>,
        cx: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let flags = segment.header.flags;
        // A RST is not checked (section 5.2), and a SYN is answered whatever it has (RFC 5961,
        // section 4.2).
        let is_exempt = flags.contains(TcpFlags::RST) || flags.contains(TcpFlags::SYN);
        if !self.negotiated.timestamps || is_exempt {
            return Ok(());
        }
        let Some(timestamps) = segment.header.options.timestamps else {
            // Section 3.2: a segment without one is dropped silently.
            return Err(DropReason::OldTimestamp.into());
        };
        let is_old = SeqNumber(timestamps.value).is_before(SeqNumber(self.recent));
        if is_old && cx.now.span_since(self.recent_at) < RECENT_LIFETIME {
            match segment.payload.is_empty() {
                true => self.challenge(cx),
                false => self.wanted.ack = true,
            }
            return Err(DropReason::OldTimestamp.into());
        }
        Ok(())
    }

    /// Whether a segment is acceptable (RFC 9293, section 3.10.7.4, first check). Returns where
    /// it begins, after cutting off what lies outside of the window.
    fn check_sequence(
        &mut self,
        segment: &mut Handled<'_, B>,
        cx: &mut Context<'_>,
    ) -> Result<u64, Refusal> {
        let flags = segment.header.flags;
        let is_fin = flags.contains(TcpFlags::FIN);
        let length = segment.payload.len() as u64;
        let (next, edge) = (self.receive.next, self.receive.edge);
        let start = self.receive.origin.position(segment.header.sequence, next);
        let end = start + length + u64::from(is_fin) + u64::from(flags.contains(TcpFlags::SYN));
        let is_within = start < edge || start == next;
        let is_acceptable = match end - start {
            // A peer that has filled our window acknowledges from its edge.
            0 if !flags.contains(TcpFlags::RST) => (next..=edge).contains(&start),
            0 => start >= next && is_within,
            _ => end > next && is_within,
        };
        if !is_acceptable {
            if !flags.contains(TcpFlags::RST) {
                self.refuse(
                    Range {
                        start,
                        end: start + length,
                    },
                    cx,
                );
            }
            return Err(DropReason::OutOfWindow.into());
        }
        if start < next && length > 0 {
            self.receive.duplicate = Some(Range {
                start,
                end: next.min(start + length),
            });
            segment.payload.trim_front((next - start) as usize);
            segment.header.sequence = segment.header.sequence + (next - start) as u32;
        }
        let start = start.max(next);
        if end > edge && length > 0 {
            // Data into a closed window is a probe: it is acknowledged, not taken.
            self.wanted.ack = true;
            segment
                .payload
                .truncate(edge.saturating_sub(start) as usize);
            segment.header.flags = TcpFlags(flags.0 & !TcpFlags::FIN.0);
        }
        Ok(start)
    }

    /// Answers a segment outside of the window with what we expect. Data is always answered,
    /// since its sender waits for that; other segments within a limit, so that two sides that
    /// disagree do not acknowledge each other for ever.
    fn refuse(&mut self, data: Range, cx: &mut Context<'_>) {
        if data.start == data.end {
            return self.challenge(cx);
        }
        self.wanted.ack = true;
        if data.end <= self.receive.next && data.start >= Origin::SYN {
            self.receive.duplicate = Some(data);
        }
    }

    /// A reset (RFC 5961, section 3.2): believed if it is exactly what we expect.
    fn on_reset(&mut self, number: SeqNumber, cx: &mut Context<'_>) -> Result<(), Refusal> {
        if number != self.receive.origin.number(self.receive.next) {
            self.challenge(cx);
            return Err(DropReason::OutOfWindow.into());
        }
        cx.counters.resets_received += 1;
        let has_everything = self.send.una >= self.send.queue.end();
        let error = match self.state {
            TcpState::SynReceived => Some(TcpError::Refused),
            // RFC 9293, section 3.10.7.4: nobody is told. The peer has only forgotten the connection,
            // or its TIME-WAIT, before it had our FIN.
            TcpState::Closing | TcpState::LastAck if has_everything => None,
            _ => Some(TcpError::Reset),
        };
        self.end(error);
        Ok(())
    }

    /// Remembers the timestamp to echo (RFC 7323, section 4.3).
    fn remember_timestamp(&mut self, segment: &Handled<'_, B>, number: SeqNumber, now: Instant) {
        // Where it began as it was sent: what was trimmed since is no matter here.
        let start = self.receive.origin.position(number, self.ack_sent);
        if let Some(timestamps) = segment.header.options.timestamps
            && self.negotiated.timestamps
            && start <= self.ack_sent
        {
            self.recent = timestamps.value;
            self.recent_at = now;
        }
    }

    /// The receiver's side of ECN (RFC 3168, section 6.1.3).
    fn on_ecn(&mut self, flags: TcpFlags, ecn: u8, is_empty: bool) {
        if flags.contains(TcpFlags::CWR) {
            self.echo_congestion = false;
        }
        if ecn == CONGESTION_EXPERIENCED && !is_empty {
            // A sender slows down in a round trip only if it learns of this at once.
            self.wanted.ack |= !self.echo_congestion;
            self.echo_congestion = true;
        }
    }

    /// The text of a segment and its FIN (RFC 9293, section 3.10.7.4, seventh and eighth).
    ///
    /// # Errors
    /// Why the text is not taken.
    pub(super) fn on_text(
        &mut self,
        segment: Handled<'_, B>,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let is_fin = segment.header.flags.contains(TcpFlags::FIN);
        let length = segment.payload.len() as u64;
        if (length == 0 && !is_fin) || self.state == TcpState::Closed {
            return Ok(());
        }
        if !self.state.can_receive() {
            // The peer has finished already: a FIN again is acknowledged again.
            self.wanted.ack = true;
            return Ok(());
        }
        let near = self.receive.next;
        let start = self.receive.origin.position(segment.header.sequence, near);
        if length > 0 {
            if self.owner == Owner::Nobody {
                // Nobody will read it, and the peer should know (RFC 9293, section 3.6.1).
                self.abort();
                return Err(DropReason::SocketClosed);
            }
            self.take_data(segment, start, cx)?;
        }
        if is_fin {
            self.receive.finish_at(start + length)?;
        }
        if self.receive.take_fin() {
            self.on_fin(cx);
        } else if is_fin {
            self.wanted.ack = true;
        }
        Ok(())
    }

    /// Puts data where it belongs, and decides when to acknowledge it (RFC 9293, section
    /// 3.8.6.3; RFC 5681, section 4.2).
    fn take_data(
        &mut self,
        segment: Handled<'_, B>,
        start: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let Handled {
            payload, merged, ..
        } = segment;
        let length = payload.len() as u64;
        if self.receive.is_behind_fin(start + length) {
            return Err(DropReason::OutOfWindow);
        }
        let before = self.receive.next;
        let had_gap = self.receive.has_gap();
        let taken = self.receive.insert(start, payload, cx.is_memory_full);
        if taken.is_err() || had_gap || self.receive.has_gap() {
            self.wanted.ack = true;
        }
        taken?;
        let in_order = self.receive.next - before;
        if in_order > 0 {
            self.readiness.readable = true;
            cx.counters.rx_bytes += in_order;
        }
        let of_sender = match merged {
            0 | 1 => length,
            merged => length.div_ceil(merged.into()),
        };
        let longest = of_sender.min(self.path_mss.into()) as u16;
        self.longest_received = self.longest_received.max(longest);
        // A merged segment counts as all that it was made of.
        let full = length / u64::from(self.longest_received.max(1));
        self.unacknowledged_segments = self.unacknowledged_segments.saturating_add(full as u16);
        if self.unacknowledged_segments >= 2 {
            self.wanted.ack = true;
        } else {
            self.delay_ack(cx.now);
        }
        Ok(())
    }

    /// Acknowledges in time, if nothing that is sent before does.
    fn delay_ack(&mut self, now: Instant) {
        if self.options.ack_delay.is_zero() {
            self.wanted.ack = true;
        } else if !self.timers.is_set(Timer::DelayedAck) {
            let at = now + self.options.ack_delay;
            self.timers.set(Timer::DelayedAck, at);
        }
    }

    /// The peer has finished, and all that it sent has arrived.
    fn on_fin(&mut self, cx: &Context<'_>) {
        let is_open = self.state == TcpState::Established && self.owner != Owner::Nobody;
        if is_open && cx.delays_end_acks && !self.wanted.ack {
            self.delay_ack(cx.now);
        } else {
            self.wanted.ack = true;
        }
        self.readiness.readable = true;
        self.state = match self.state {
            TcpState::SynReceived | TcpState::Established => TcpState::CloseWait,
            TcpState::FinWait1 => TcpState::Closing,
            TcpState::FinWait2 => TcpState::TimeWait,
            state => state,
        };
    }
}
