//! What a connection sends next (RFC 9293, sections 3.7.4, 3.8.6 and 3.10.2).

use super::{Connection, Context};
use crate::buffer::Buffer;
use crate::tcp::header::{HeaderOptions, TcpFlags};
use crate::tcp::pacing::{self, Pace};
use crate::tcp::payload::SharedPayload;
use crate::tcp::reassembly::Range;
use crate::tcp::recovery::{Frto, Mode, TailProbe};
use crate::tcp::segment::Outgoing;
use crate::tcp::sequence::Origin;
use crate::tcp::state::TcpState;
use crate::tcp::timers::Timer;
use crate::time::{Instant, Span};

/// The ECN field of a packet whose sender understands marks (RFC 3168, section 5).
const ECN_CAPABLE: u8 = 2;

/// Whether something is sent for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    New,
    /// New, in one segment that is longer than others.
    PathProbe,
    Again,
}

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// Fills `out` with the next segment to send; false if there is none now.
    pub(crate) fn emit(&mut self, cx: &mut Context<'_>, out: &mut Outgoing<S>) -> bool {
        out.payload.clear();
        out.segment_size = 0;
        out.flow = self.flow;
        out.dscp_ecn = self.options.dscp << 2;
        if std::mem::take(&mut self.wanted.reset) {
            self.write_reset(cx, out);
            return true;
        }
        if self.state == TcpState::Closed {
            return false;
        }
        out.header.options = self.header_options(cx.now);
        if let Some((range, kind)) = self.next_range(&out.header.options, cx) {
            self.write_range(range, kind, cx, out);
            return true;
        }
        let sequence = if std::mem::take(&mut self.wanted.keepalive) {
            cx.counters.keepalive_probes += 1;
            // RFC 9293, section 3.8.4: outside of the window, so that it must be answered.
            self.send.una - 1
        } else if self.wanted.ack && self.state != TcpState::SynSent {
            self.send.nxt
        } else {
            return false;
        };
        cx.counters.acks_sent += 1;
        self.write_header(sequence, TcpFlags::ACK, cx, out);
        true
    }

    /// What to send that takes sequence numbers: lost bytes first, then a probe, then new ones.
    fn next_range(
        &mut self,
        options: &HeaderOptions,
        cx: &mut Context<'_>,
    ) -> Option<(Range, Kind)> {
        // Nothing but a SYN before the connection is open.
        if self.send.nxt == Origin::SYN {
            return Some((SYN, Kind::New));
        }
        let capacity = self.capacity(options);
        if let Frto::New(until) = self.recovery.frto {
            if let Some(range) = self.next_question(until, capacity, cx) {
                return Some((range, Kind::New));
            }
            if self.recovery.frto != Frto::Off {
                return None;
            }
        }
        if let Some(range) = self.next_lost(capacity, cx) {
            return Some((range, Kind::Again));
        }
        if !self.state.is_synchronized() {
            return None;
        }
        if std::mem::take(&mut self.wanted.window_probe) && self.send.board.is_empty() {
            return self.window_probe(capacity, cx);
        }
        if std::mem::take(&mut self.wanted.tail_probe) {
            return self.tail_probe(capacity, cx);
        }
        if self.narrow.is_some()
            && let Some(range) = self.next_path_probe(options.length() as u64, cx.now)
        {
            return Some((range, Kind::PathProbe));
        }
        let range = self.next_new(capacity, cx)?;
        Some((range, Kind::New))
    }

    /// Payload bytes that a segment with these options may have.
    fn capacity(&self, options: &HeaderOptions) -> u64 {
        let mss = u64::from(self.peer_mss.min(self.path_mss));
        mss.saturating_sub(options.length() as u64).max(1)
    }

    /// Bytes that congestion allows to send now. At least one segment may always be under way.
    pub(super) fn congestion_room(&self, capacity: u64) -> u64 {
        match self.in_flight() {
            0 => self.congestion_window().max(capacity),
            in_flight => self.congestion_window().saturating_sub(in_flight),
        }
    }

    /// The longest piece that is sent at once: one segment, or many that are split later.
    fn longest(capacity: u64, cx: &Context<'_>) -> u64 {
        (u64::from(cx.most_payload) / capacity * capacity).max(capacity)
    }

    /// New bytes that ask whether a timeout was needless, up to `until` (RFC 5682, section 3, step
    /// 2b). Behind them, what counts as lost waits for the answer.
    fn next_question(&mut self, until: u64, capacity: u64, cx: &Context<'_>) -> Option<Range> {
        if self.send.nxt >= until {
            return None;
        }
        let range = self.next_new(capacity, cx);
        if range.is_none() && self.send.nxt <= self.recovery.high {
            // There is nothing to ask with.
            self.recovery.frto = Frto::Off;
        }
        range.map(|range| Range {
            end: range.end.min(range.start + capacity),
            ..range
        })
    }

    /// The next bytes to send again.
    fn next_lost(&mut self, capacity: u64, cx: &Context<'_>) -> Option<Range> {
        let lost = self.send.board.first_lost()?;
        if lost.start == Origin::SYN {
            return Some(SYN);
        }
        let room = self.congestion_room(capacity);
        if room < capacity.min(lost.end - lost.start) {
            self.is_window_limited = true;
            return None;
        }
        let whole = (room / capacity).max(1) * capacity;
        let length = Self::longest(capacity, cx).min(whole);
        let mut end = lost.end.min(lost.start + length);
        // A window that shrank is respected, except for its probe, the first segment.
        let probe = match lost.start == self.send.una {
            true => capacity,
            false => 0,
        };
        end = end.min(self.send.una + self.send.window.max(probe));
        // A short segment, as that which probed a closed window, takes with it what was written
        // since (RFC 9293, section 3.7.4: to fill segments).
        if end == self.send.nxt && self.state.is_synchronized() {
            let fitting = lost.start + capacity.min(room);
            let window = self.send.una + self.send.window;
            end = end.max(fitting.min(window).min(self.send.end()));
        }
        (end > lost.start).then_some(Range {
            start: lost.start,
            end,
        })
    }

    /// The next new bytes, as far as the peer's window, congestion, silly window avoidance (RFC
    /// 9293, section 3.8.6.2.1) and Nagle's algorithm (section 3.7.4) allow.
    fn next_new(&mut self, capacity: u64, cx: &Context<'_>) -> Option<Range> {
        let want = self.send.end() - self.send.nxt;
        if want == 0 {
            self.is_window_limited = false;
            return None;
        }
        self.restart_after_idle(cx.now);
        let usable = self.send.usable_window().min(want);
        let room = self.congestion_room(capacity);
        if room < usable.min(capacity) {
            self.is_window_limited = true;
            return None;
        }
        self.is_window_limited = room < usable;
        let paced = self.pace_room(capacity, cx.now)?;
        let longest = Self::longest(capacity, cx).min(paced);
        let mut length = usable.min(room).min(longest);
        let is_all = length == want;
        if length >= capacity && !is_all {
            length = length / capacity * capacity;
        }
        let is_worth_it = length >= capacity
            || (is_all && (self.options.nodelay || self.send.is_quiet() || self.send.is_finished))
            || (!is_all && length > 0 && length >= self.send.most_window / 2);
        if !is_worth_it {
            self.wait_for_window(cx.now);
            return None;
        }
        Some(Range {
            start: self.send.nxt,
            end: self.send.nxt + length,
        })
    }

    /// Bytes that the pace allows to send now: at least a segment. `None`: none before a time for
    /// which a timer is set.
    #[inline]
    fn pace_room(&mut self, capacity: u64, now: Instant) -> Option<u64> {
        match self.pacer.left() {
            0 if !self.options.pacing || self.rtt.smoothed() < pacing::LEAST_RTT => Some(u64::MAX),
            // A FIN alone takes no time on the path.
            0 if self.send.nxt >= self.send.queue.end() => Some(u64::MAX),
            0 => self.begin_quantum(capacity, now),
            left => Some(left.max(capacity)),
        }
    }

    fn begin_quantum(&mut self, capacity: u64, now: Instant) -> Option<u64> {
        if self.send.una <= Origin::SYN + 1 {
            // The initial window leaves at once (RFC 6928): nothing else tells what the path takes.
            return Some(u64::MAX);
        }
        let window = self.congestion_window();
        let is_slow_start = window < self.congestion.get().slow_start_threshold() / 2;
        let pace = Pace {
            window: window.max(self.in_flight()),
            rtt: self.rtt.smoothed(),
            gain: if is_slow_start { 200 } else { 120 },
        };
        let quantum = self.pacer.begin(now, pace, capacity);
        quantum
            .inspect_err(|release| self.timers.set(Timer::Pace, *release))
            .ok()
    }

    /// Nothing may be sent into the window as it is. If nothing is under way either, nothing
    /// would tell that it has opened: ask in time (RFC 9293, section 3.8.6.1).
    fn wait_for_window(&mut self, now: Instant) {
        if self.send.board.is_empty() && !self.timers.is_set(Timer::Retransmit) {
            self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
        }
        if self.send.board.is_empty() && !self.timers.is_set(Timer::User) {
            self.timers.set(Timer::User, now + self.user_timeout);
        }
    }

    /// After a while without sending, the window is no measure of the path (RFC 5681, section
    /// 4.1).
    fn restart_after_idle(&mut self, now: Instant) {
        if self.send.board.is_empty() && now.span_since(self.last_sent) > self.rtt.timeout() {
            self.congestion.get_mut().on_idle();
            self.last_sent = now;
        }
    }

    /// At least a byte, whatever the window.
    fn window_probe(&mut self, capacity: u64, cx: &mut Context<'_>) -> Option<(Range, Kind)> {
        let want = self.send.end() - self.send.nxt;
        let length = self.send.usable_window().clamp(1, capacity).min(want);
        if length == 0 {
            return None;
        }
        cx.counters.window_probes += 1;
        let range = Range {
            start: self.send.nxt,
            end: self.send.nxt + length,
        };
        Some((range, Kind::New))
    }

    /// A tail loss probe: new data if there is some, else the last segment again (RFC 8985,
    /// section 7.3).
    fn tail_probe(&mut self, capacity: u64, cx: &mut Context<'_>) -> Option<(Range, Kind)> {
        let want = self.send.end() - self.send.nxt;
        let length = want.min(self.send.usable_window()).min(capacity);
        let (range, kind) = match length {
            0 => (self.send.board.last(capacity)?, Kind::Again),
            length => {
                let range = Range {
                    start: self.send.nxt,
                    end: self.send.nxt + length,
                };
                (range, Kind::New)
            }
        };
        cx.counters.tail_probes += 1;
        self.recovery.tail_probe = Some(TailProbe {
            end: self.send.nxt.max(range.end),
            is_retransmission: kind == Kind::Again,
        });
        Some((range, kind))
    }

    /// Sends `range`, with the options that are in `out`, and keeps account of it.
    fn write_range(
        &mut self,
        range: Range,
        kind: Kind,
        cx: &mut Context<'_>,
        out: &mut Outgoing<S>,
    ) {
        let capacity = match kind {
            Kind::PathProbe => range.end - range.start,
            Kind::New | Kind::Again => self.capacity(&out.header.options),
        };
        let data_end = range.end.min(self.send.queue.end());
        let data_start = range.start.max(Origin::SYN + 1);
        if data_start < data_end {
            self.send.queue.read(data_start, data_end, &mut out.payload);
        }
        let length = data_end.saturating_sub(data_start);
        let mss = capacity as u16;
        if length > capacity {
            out.segment_size = mss;
        }
        // What probes a closed window carries neither ECT nor CWR (RFC 3168, section 6.1.6).
        let is_probe = range.end > self.send.una + self.send.window;
        let is_new = kind != Kind::Again && !is_probe;
        if is_new && length > 0 && self.negotiated.ecn {
            out.dscp_ecn |= ECN_CAPABLE;
        }
        let flags = self.flags_of(range, data_end, is_new, length);
        match kind {
            Kind::New | Kind::PathProbe => {
                self.pacer.on_sent(length);
                self.send.board.sent(range, mss, cx.now);
                self.send.nxt = range.end;
            }
            Kind::Again => {
                let sent_before = Range {
                    start: range.start,
                    end: range.end.min(self.send.nxt),
                };
                self.send.board.resent(sent_before, mss, cx.now);
                self.count_resent(sent_before.end - sent_before.start, capacity, cx.now);
                if range.end > self.send.nxt {
                    let new = Range {
                        start: self.send.nxt,
                        end: range.end,
                    };
                    self.send.board.sent(new, mss, cx.now);
                    self.send.nxt = range.end;
                }
                self.retransmits = self.retransmits.saturating_add(1);
                cx.counters.retransmits += 1;
                cx.counters.retransmitted_bytes += length;
            }
        }
        if self.recovery.mode == Mode::Recovery {
            self.recovery.on_sent(range.end - range.start);
        }
        self.last_sent = cx.now;
        cx.counters.tx_bytes += length;
        self.arm_after_sending(range, kind, cx.now);
        self.write_header(range.start, flags, cx, out);
    }

    fn arm_after_sending(&mut self, range: Range, kind: Kind, now: Instant) {
        if !self.timers.is_set(Timer::Retransmit) || range.start == self.send.una {
            self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
        }
        if !self.timers.is_set(Timer::User) {
            self.timers.set(Timer::User, now + self.user_timeout);
        }
        if kind != Kind::Again {
            self.arm_tail_probe(now);
        }
    }

    /// Sets the time of a tail loss probe (RFC 8985, section 7.2).
    pub(super) fn arm_tail_probe(&mut self, now: Instant) {
        let is_wanted = self.negotiated.sack
            && self.recovery.mode == Mode::Open
            && self.recovery.tail_probe.is_none()
            && self.send.board.sacked() == 0
            && self.send.window > 0
            && self.rtt.is_measured();
        if !is_wanted {
            return self.timers.clear(Timer::TailProbe);
        }
        let mut timeout = self.rtt.smoothed().times(2) + LEAST_PROBE_DELAY;
        if self.send.nxt - self.send.una <= self.segment_size() {
            // The peer may wait for a second segment before it acknowledges.
            timeout = timeout + MOST_ACK_DELAY;
        }
        let at = (now + timeout).min(self.timers.get(Timer::Retransmit));
        self.timers.set(Timer::TailProbe, at);
    }
}

/// The SYN.
const SYN: Range = Range {
    start: Origin::SYN,
    end: Origin::SYN + 1,
};

/// What is added to two round trips before a tail loss probe, so that on a short path a peer that
/// was not scheduled for a moment is not probed.
const LEAST_PROBE_DELAY: Span = Span::from_millis(2);

/// How long a peer may delay an acknowledgment (RFC 8985, section 7.2: WCDelAckT).
const MOST_ACK_DELAY: Span = Span::from_millis(200);
