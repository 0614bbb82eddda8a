//! An acknowledgment has arrived: what it tells about what was sent, and what follows for
//! retransmission and congestion (RFC 9293, section 3.10.7.4, fifth check; RFC 5681; RFC 6675;
//! RFC 8985).

use super::{Connection, Context, IDLE, Refusal};
use crate::buffer::Buffer;
use crate::drops::DropReason;
use crate::tcp::congestion::AckSample;
use crate::tcp::header::{TcpFlags, TcpHeader};
use crate::tcp::payload::SharedPayload;
use crate::tcp::reassembly::Range;
use crate::tcp::recovery::Mode;
use crate::tcp::rtt::MAX_TIMEOUT;
use crate::tcp::scoreboard::{Delivery, Newest};
use crate::tcp::segment::Handled;
use crate::tcp::sequence::Origin;
use crate::tcp::state::TcpState;
use crate::tcp::timers::Timer;
use crate::time::{Instant, Span};

/// Segments that arrive behind one that did not, until it counts as lost without having waited
/// (RFC 5681, section 3.2; RFC 8985, section 6.2, step 4).
const DUPLICATES: u64 = 3;

/// How much longer than by timestamps a round trip may have been.
const TIMESTAMP_TICK: Span = Span::from_millis(1);

/// The connection before an acknowledgment was handled.
#[derive(Debug, Clone, Copy)]
struct Before {
    una: u64,
    in_flight: u64,
    window: u64,
}

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// Handles the acknowledgment in a segment that begins at `start` and is acceptable.
    pub(super) fn on_acknowledgment(
        &mut self,
        segment: &Handled<'_, B>,
        start: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let header = &*segment.header;
        let ack = self
            .send
            .origin
            .position(header.acknowledgment, self.send.una);
        if self.state == TcpState::SynReceived {
            if ack <= Origin::SYN || ack > self.send.nxt {
                return Err(Refusal::reset(DropReason::BadAck));
            }
            self.finish_simultaneous_open(header, start, ack, cx);
        }
        // RFC 5961, section 5.2: neither more than was sent, nor older than any window.
        if ack > self.send.nxt || ack + self.send.most_window.max(1) < self.send.una {
            self.challenge(cx);
            return Err(DropReason::BadAck.into());
        }
        if self.expects_no_news(header, ack) {
            self.update_window(header, start, ack, cx.now);
            self.take_congestion_mark(header, cx);
            self.keep_waiting(cx.now);
        } else {
            self.take_news(segment, start, ack, cx);
        }
        Ok(())
    }

    /// Whether an acknowledgment can tell nothing but the window: all that was sent is acknowledged,
    /// and nothing else is waited for. So it is with each segment of a stream that only arrives.
    #[inline]
    fn expects_no_news(&self, header: &TcpHeader, ack: u64) -> bool {
        ack == self.send.una
            && self.send.is_quiet()
            && header.options.sack.as_slice().is_empty()
            && self.narrow.is_none()
            && self.recovery.is_over()
    }

    /// Takes in all that an acknowledgment tells.
    fn take_news(&mut self, segment: &Handled<'_, B>, start: u64, ack: u64, cx: &mut Context<'_>) {
        let header = &*segment.header;
        let before = Before {
            una: self.send.una,
            in_flight: self.send.board.in_flight(),
            window: self.send.window,
        };
        let delivery = self.take_delivery(header, ack, cx);
        if self.narrow.is_some() {
            self.finish_path_probe(cx.now);
        }
        if ack >= self.send.una {
            self.update_window(header, start, ack, cx.now);
        }
        let is_duplicate = ack == before.una
            && !self.send.is_quiet()
            && segment.payload.is_empty()
            && self.send.window == before.window
            && !header.flags.contains(TcpFlags::FIN);
        let is_delayed = self.answers_original(header);
        self.recover(&before, &delivery, (is_duplicate, is_delayed), cx);
        self.take_congestion_mark(header, cx);
        if self.send.una > before.una {
            self.on_progress(cx.now);
        } else {
            self.keep_waiting(cx.now);
        }
        if self.send.is_fin_acknowledged() {
            self.on_finish_acknowledged();
        }
    }

    /// Our SYN was acknowledged: `ack` is behind it.
    pub(super) fn acknowledge_syn(&mut self, ack: u64, now: Instant) {
        let mut delivery = Delivery::default();
        self.send
            .board
            .acknowledge(ack, now, self.rtt.least(), &mut delivery);
        self.send.una = ack;
        if let Some(rtt) = delivery.rtt {
            self.rtt.sample(rtt);
        }
        self.rtt.clear_backoff();
        self.timeouts_in_row = 0;
        self.timers.clear(Timer::Retransmit);
    }

    fn finish_simultaneous_open(
        &mut self,
        header: &TcpHeader,
        start: u64,
        ack: u64,
        cx: &mut Context<'_>,
    ) {
        let was_repeated = self.timeouts > 0;
        self.acknowledge_syn(ack.min(Origin::SYN + 1), cx.now);
        self.set_window(header, start, ack, cx.now);
        self.open(was_repeated, cx.now);
        cx.counters.opened += 1;
        self.readiness.connected = true;
    }

    /// Takes in what `header` says has arrived, in order and out of order.
    fn take_delivery(&mut self, header: &TcpHeader, ack: u64, cx: &mut Context<'_>) -> Delivery {
        let mut delivery = Delivery::default();
        let (now, least_rtt) = (cx.now, self.rtt.least());
        let una = self.send.una;
        if ack > una {
            self.send
                .board
                .acknowledge(ack, now, least_rtt, &mut delivery);
            self.send.queue.acknowledge(ack);
            self.send.una = ack;
            delivery.rtt = delivery.rtt.or_else(|| self.echoed_rtt(header, now));
        }
        if self.negotiated.sack && !header.options.sack.as_slice().is_empty() {
            self.take_blocks(header, ack, &mut delivery, cx);
        }
        delivery
    }

    /// Takes in what SACK blocks report.
    #[inline(never)]
    fn take_blocks(
        &mut self,
        header: &TcpHeader,
        ack: u64,
        delivery: &mut Delivery,
        cx: &mut Context<'_>,
    ) {
        let (now, least_rtt) = (cx.now, self.rtt.least());
        let mut blocks = [Range::default(); 4];
        for (range, block) in blocks.iter_mut().zip(header.options.sack.as_slice()) {
            range.start = self.send.origin.position(block.start, ack);
            range.end = self.send.origin.position(block.end, ack);
        }
        let [first, second, ..] = blocks;
        // RFC 2883, section 4: the first block may report a duplicate.
        let is_within = second.start <= first.start && first.end <= second.end;
        if first.end <= ack || is_within {
            self.on_duplicate_report(first, cx);
        }
        // In order, so that what was reported late does not look reordered.
        blocks.sort_unstable_by_key(|block| block.start);
        for block in blocks {
            if block.start < block.end && block.start >= ack && block.end <= self.send.nxt {
                let board = &mut self.send.board;
                board.sack(block, now, least_rtt, delivery);
            }
        }
    }

    /// The round-trip time by timestamps (RFC 7323, section 4): they tell apart what was sent
    /// again, but count in milliseconds, so that other samples are better.
    fn echoed_rtt(&self, header: &TcpHeader, now: Instant) -> Option<Span> {
        let timestamps = header.options.timestamps?;
        let ours = self.timestamps(now).value;
        let elapsed = Span::from_millis(ours.wrapping_sub(timestamps.echo).into());
        let is_plausible = self.negotiated.timestamps && elapsed <= MAX_TIMEOUT;
        is_plausible.then_some(elapsed + TIMESTAMP_TICK)
    }

    /// The peer reports that `range` arrived twice.
    fn on_duplicate_report(&mut self, range: Range, cx: &mut Context<'_>) {
        // Only what was sent in the last windows says something about the path now.
        if range.start >= range.end || range.end > self.send.nxt || range.start < Origin::SYN {
            return;
        }
        cx.counters.duplicates_reported += 1;
        match self.recovery.tail_probe {
            // RFC 8985, section 7.4.2: the probe arrived, and what it repeated too.
            Some(probe) if probe.is_retransmission && range.end == probe.end => {
                self.recovery.tail_probe = None;
            }
            _ => {
                self.recovery.on_duplicate(self.send.una, self.send.nxt);
                self.count_needless(range);
            }
        }
    }

    /// Takes the window from a segment, unless a later one told another (RFC 9293, section
    /// 3.10.7.4).
    fn update_window(&mut self, header: &TcpHeader, start: u64, ack: u64, now: Instant) {
        if (start, ack) >= (self.send.window_sequence, self.send.window_ack) {
            self.set_window(header, start, ack, now);
        }
    }

    pub(super) fn set_window(&mut self, header: &TcpHeader, start: u64, ack: u64, now: Instant) {
        let window = match header.flags.contains(TcpFlags::SYN) {
            true => header.window.into(),
            false => self.negotiated.peer_scale.window(header.window),
        };
        if self.send.window == 0 && window > 0 {
            // Probing is over. A byte that probed was not taken, or it would be acknowledged.
            self.rtt.clear_backoff();
            self.timers.clear(Timer::Retransmit);
            if self.send.nxt - self.send.una == 1 {
                self.send.board.lose_all(false);
            } else if !self.send.board.is_empty() {
                // The window shrank over what is under way, which may have been dropped.
                self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
            }
        }
        self.send.window = window;
        self.send.most_window = self.send.most_window.max(window);
        self.send.window_sequence = start;
        self.send.window_ack = ack;
    }

    /// Learns from a delivery what is lost, and moves the congestion window. The acknowledgment may
    /// be a duplicate, and by its timestamp may answer what was sent before anything was sent
    /// again.
    fn recover(
        &mut self,
        before: &Before,
        delivery: &Delivery,
        (is_duplicate, is_delayed): (bool, bool),
        cx: &mut Context<'_>,
    ) {
        let is_progress = self.send.una > before.una;
        if let Some(rtt) = delivery.rtt {
            // What was backed off stays so until there is a sample (RFC 6298, section 5).
            self.rtt.sample(rtt);
        }
        self.recovery.update(delivery, cx.now);
        self.count_duplicates(before, is_progress, is_duplicate);
        self.finish_tail_probe(is_progress || delivery.bytes > 0, cx);
        self.look_for_spurious(delivery, is_progress, is_delayed, cx);
        if self.recovery.mode != Mode::Open && self.send.una >= self.recovery.high {
            self.end_recovery();
            // What was sent during the recovery and lost begins another.
            if self.send.board.lost() > 0 {
                self.begin_recovery(before.una, cx);
            }
        }
        let lost = self.send.board.lost();
        self.detect_loss(before.una, cx);
        let is_more_lost = self.send.board.lost() > lost;
        if self.recovery.mode == Mode::Recovery {
            let delivered = match self.negotiated.sack {
                true => delivery.bytes,
                false if is_duplicate => self.segment_size(),
                false => delivery.bytes,
            };
            let threshold = self.congestion.get().window();
            let (pipe, segment_size) = (self.in_flight(), self.segment_size());
            let is_safe = is_progress && !is_more_lost;
            self.recovery
                .pace(delivered, pipe, threshold, segment_size, is_safe);
        } else if (is_progress || self.recovery.is_reordered()) && delivery.bytes > 0 {
            // Where the path reorders, most arrives behind a gap that is none.
            self.grow(before, delivery, cx.now);
        }
    }

    /// Lets the congestion window grow.
    fn grow(&mut self, before: &Before, delivery: &Delivery, now: Instant) {
        let control = self.congestion.get_mut();
        let (window, threshold) = (control.window(), control.slow_start_threshold());
        // In slow start a window of which half is used may double (RFC 7661, section 4.3).
        let is_used = window < threshold && before.in_flight.saturating_mul(2) > window;
        control.on_ack(&AckSample {
            now,
            acknowledged: delivery.bytes,
            rtt: self.rtt.smoothed().into(),
            is_limited: self.is_window_limited || is_used,
        });
    }

    /// Counts duplicate acknowledgments where there is no SACK (RFC 6582).
    fn count_duplicates(&mut self, before: &Before, is_progress: bool, is_duplicate: bool) {
        if self.negotiated.sack {
            return;
        }
        if is_duplicate {
            // No more segments can have arrived than are under way (RFC 5681, section 3.2).
            let most = (self.send.nxt - self.send.una).div_ceil(self.segment_size());
            let most = most.min(u32::MAX.into()) as u32;
            self.recovery.duplicates = self.recovery.duplicates.saturating_add(1).min(most);
        } else if is_progress {
            let segments = (self.send.una - before.una) / self.segment_size();
            self.recovery.duplicates = match self.recovery.mode {
                Mode::Open => 0,
                _ => self
                    .recovery
                    .duplicates
                    .saturating_sub(segments.min(u32::MAX.into()) as u32),
            };
        }
    }

    /// Marks what is lost, and begins a recovery if there is something. `una` is what was
    /// acknowledged before.
    pub(super) fn detect_loss(&mut self, una: u64, cx: &mut Context<'_>) {
        // What was marked before, because the path or the window did not take it, is no sign of
        // congestion.
        let lost = self.send.board.lost();
        if self.negotiated.sack {
            self.detect_by_time(cx.now);
        } else {
            let is_progress = self.send.una > una;
            let is_hole = self.recovery.mode == Mode::Recovery && is_progress;
            let is_enough = u64::from(self.recovery.duplicates) >= DUPLICATES;
            // A partial acknowledgment tells of one more loss (RFC 6582, section 3.2).
            if is_hole || (self.recovery.mode == Mode::Open && is_enough) {
                self.send.board.lose_first(self.segment_size());
            }
        }
        // A probe of the path that was too long is no sign of congestion either.
        let lost = lost + self.lose_path_probe(cx.now);
        if self.send.board.lost() > lost && self.recovery.mode == Mode::Open {
            self.begin_recovery(una, cx);
        }
    }

    /// RACK (RFC 8985, section 6.2, step 5).
    #[inline]
    fn detect_by_time(&mut self, now: Instant) {
        match self.recovery.newest {
            Some(newest) if self.send.board.has_gap() => self.detect_behind_gap(newest, now),
            // All that is left was sent after what has arrived.
            _ => self.timers.clear(Timer::Reorder),
        }
    }

    #[inline(never)]
    fn detect_behind_gap(&mut self, newest: Newest, now: Instant) {
        let is_certain = self.send.board.sacked_segments() >= DUPLICATES;
        let wait = self
            .recovery
            .wait(self.rtt.least(), self.rtt.smoothed(), is_certain);
        match self.send.board.detect(newest, wait, now) {
            Some(due) => self.timers.set(Timer::Reorder, due),
            None => self.timers.clear(Timer::Reorder),
        }
    }

    /// Something was lost: what is under way shrinks to what the algorithm says (RFC 6675,
    /// section 5; RFC 6937).
    fn begin_recovery(&mut self, una: u64, cx: &mut Context<'_>) {
        cx.counters.recoveries += 1;
        // One acknowledgment may tell of everything that was under way. What that was before is
        // the measure of the path (FlightSize).
        let flight = self.send.nxt - una;
        self.remember_congestion();
        self.congestion.get_mut().on_congestion(cx.now, flight);
        self.tell_reduced = self.negotiated.ecn;
        self.ecn_high = self.send.nxt;
        let window = self.in_flight() + self.segment_size();
        self.recovery.begin(self.send.nxt, flight, window);
        self.timers.clear(Timer::TailProbe);
        self.wanted.tail_probe = false;
    }

    /// An acknowledgment behind a tail loss probe (RFC 8985, section 7.4.2).
    fn finish_tail_probe(&mut self, is_news: bool, cx: &mut Context<'_>) {
        let Some(probe) = self.recovery.tail_probe else {
            return;
        };
        if self.send.una < probe.end {
            return;
        }
        let is_beyond = self.send.una > probe.end;
        // The original may have arrived: whether the probe did too, the next ones tell.
        if probe.is_retransmission && is_news && !is_beyond {
            return;
        }
        self.recovery.tail_probe = None;
        // Had the original arrived, the probe would have been reported as a duplicate: the probe
        // repaired a loss, which counts as congestion.
        if probe.is_retransmission && is_beyond && self.recovery.mode == Mode::Open {
            self.reduce(cx.now);
        }
    }

    /// There is congestion, but nothing to recover.
    fn reduce(&mut self, now: Instant) {
        let flight = self.send.nxt - self.send.una;
        let least = self.segment_size();
        self.congestion
            .get_mut()
            .on_congestion(now, flight.max(least));
        self.tell_reduced = self.negotiated.ecn;
        self.ecn_high = self.send.nxt;
    }

    /// The sender's side of ECN (RFC 3168, section 6.1.2): once in a round trip, as if something
    /// was lost.
    #[inline]
    fn take_congestion_mark(&mut self, header: &TcpHeader, cx: &mut Context<'_>) {
        if header.flags.contains(TcpFlags::ECE)
            && self.negotiated.ecn
            && self.send.una >= self.ecn_high
            && self.recovery.mode == Mode::Open
        {
            cx.counters.ecn_reductions += 1;
            self.reduce(cx.now);
        }
    }

    /// Something new was acknowledged.
    fn on_progress(&mut self, now: Instant) {
        self.timeouts_in_row = 0;
        if self.send.board.is_empty() {
            self.timers.clear(Timer::Retransmit);
            self.timers.clear(Timer::TailProbe);
            self.timers.clear(Timer::Reorder);
            self.timers.clear(Timer::User);
            self.timers.set(Timer::Idle, now + IDLE);
        } else {
            self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
            self.timers.set(Timer::User, now + self.user_timeout);
            self.arm_tail_probe(now);
        }
        if self.timers.is_set(Timer::Close) {
            self.timers
                .set(Timer::Close, now + self.options.close_timeout);
        }
        if self.wants_room && self.room() >= self.options.send_buffer / 3 {
            self.wants_room = false;
            self.readiness.writable = true;
        }
    }

    /// Nothing new was acknowledged. A peer that answers probes of a closed window is alive (RFC
    /// 9293, section 3.8.6.1).
    #[inline]
    fn keep_waiting(&mut self, now: Instant) {
        if self.send.window == 0 && self.timers.is_set(Timer::User) {
            self.timers.set(Timer::User, now + self.user_timeout);
        }
    }

    /// The peer knows that we have finished.
    fn on_finish_acknowledged(&mut self) {
        let next = match self.state {
            TcpState::FinWait1 => TcpState::FinWait2,
            TcpState::Closing => TcpState::TimeWait,
            TcpState::LastAck => {
                self.readiness.finished = true;
                return self.end(None);
            }
            _ => return,
        };
        self.state = next;
        self.readiness.finished = true;
    }
}
