//! Loss detection and recovery of one connection: RACK and tail loss probes (RFC 8985), the pace
//! of a recovery (PRR, RFC 6937), and what is needed to find out that nothing was lost (F-RTO, RFC
//! 5682; Eifel, RFC 3522 and RFC 4015).

use super::congestion::Controller;
use super::scoreboard::{Delivery, Newest};
use crate::time::{Instant, Span};

/// What a connection does about loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing is known to be lost.
    Open,
    /// Something was lost, and acknowledgments tell what.
    Recovery,
    /// Nothing was acknowledged in time.
    Loss,
}

/// What is known about a timeout (F-RTO, RFC 5682, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frto {
    /// Nothing is asked any more.
    Off,
    /// The first segment was sent again; the next acknowledgment tells how to go on (step 2).
    First,
    /// New bytes up to this position go before what counts as lost, to hear about that (step 3).
    New(u64),
}

/// A response to congestion that may turn out to have been needless.
#[derive(Debug)]
pub(crate) struct Undo {
    /// The window before it.
    pub(crate) before: Controller,
    /// What was sent again since then is from here on.
    pub(crate) start: u64,
    /// How long the peer may still tell: until this is acknowledged.
    pub(crate) until: u64,
    /// Our timestamp when something was first sent again.
    pub(crate) stamp: Option<u32>,
    /// Segments that were sent again, and not reported to have arrived twice.
    pub(crate) resent: u32,
}

/// Round trips for which a wider window of reordering is kept (RFC 8985, section 6.2, step 4).
const PERSIST: u8 = 16;

/// A tail loss probe that is not answered yet (RFC 8985, section 7.4).
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailProbe {
    /// What was the end of all that was sent.
    pub(crate) end: u64,
    /// Whether the probe sent again what had been sent before.
    pub(crate) is_retransmission: bool,
}

/// State of loss detection and recovery.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) mode: Mode,
    /// The recovery ends when this is acknowledged.
    pub(crate) high: u64,
    /// The segment sent last among those that arrived (RACK.xmit_ts, RACK.end_seq).
    pub(crate) newest: Option<Newest>,
    /// The round-trip time of that segment (RACK.rtt).
    rtt: Span,
    /// Whether the path was ever seen to reorder.
    is_reordered: bool,
    /// How many quarters of the least round-trip time reordering may take.
    multiplier: u8,
    persist: u8,
    /// The multiplier grows once in a round trip: until this is acknowledged.
    duplicate_round: u64,
    pub(crate) tail_probe: Option<TailProbe>,
    /// Acknowledgments that told nothing new, if there is no SACK (RFC 5681, section 3.2).
    pub(crate) duplicates: u32,
    /// Bytes that arrived, and that were sent, during this recovery.
    delivered: u64,
    sent: u64,
    /// Bytes that were under way at its start (RecoverFS).
    flight: u64,
    /// Bytes that may be under way, during a recovery.
    pub(crate) window: u64,
    pub(crate) frto: Frto,
    /// What the last response to congestion did, as long as it may be undone.
    pub(crate) undo: Option<Box<Undo>>,
}

impl Recovery {
    pub(crate) const fn new() -> Self {
        Recovery {
            mode: Mode::Open,
            high: 0,
            newest: None,
            rtt: Span::ZERO,
            is_reordered: false,
            multiplier: 1,
            persist: 0,
            duplicate_round: 0,
            tail_probe: None,
            duplicates: 0,
            delivered: 0,
            sent: 0,
            flight: 0,
            window: 0,
            frto: Frto::Off,
            undo: None,
        }
    }

    /// Takes into account what has arrived (RFC 8985, section 6.2, steps 2 and 3).
    pub(crate) fn update(&mut self, delivery: &Delivery, now: Instant) {
        self.is_reordered |= delivery.is_reordered;
        let Some(newest) = delivery.newest else {
            return;
        };
        self.rtt = now.span_since(newest.sent);
        let is_newer = self
            .newest
            .is_none_or(|known| (known.sent, known.end) < (newest.sent, newest.end));
        if is_newer {
            self.newest = Some(newest);
        }
    }

    /// Whether nothing is lost, and nothing that was done about loss may still turn out to have been
    /// needless.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.mode == Mode::Open && self.tail_probe.is_none() && self.undo.is_none()
    }

    /// The path was seen to reorder: what was taken for lost was only late.
    pub(crate) fn on_reordering(&mut self) {
        self.is_reordered = true;
    }

    /// Whether the path was ever seen to reorder.
    pub(crate) fn is_reordered(&self) -> bool {
        self.is_reordered
    }

    /// The peer reported a duplicate: the window of reordering is too narrow (step 4).
    pub(crate) fn on_duplicate(&mut self, una: u64, nxt: u64) {
        if una >= self.duplicate_round {
            self.duplicate_round = nxt;
            self.multiplier = self.multiplier.saturating_add(1);
            self.persist = PERSIST;
        }
    }

    /// How long after the newest segment those before it may arrive: RACK.rtt, and the window of
    /// reordering (step 4), which is none as long as no reordering was seen and enough arrived
    /// (`is_certain`).
    pub(crate) fn wait(&self, least_rtt: Span, smoothed: Span, is_certain: bool) -> Span {
        let is_strict = !self.is_reordered && (self.mode != Mode::Open || is_certain);
        if is_strict {
            return self.rtt;
        }
        let quarter = Span::from_nanos(least_rtt.as_nanos() / 4);
        self.rtt + quarter.times(self.multiplier.into()).min(smoothed)
    }

    /// Begins a recovery: `flight` bytes are unacknowledged, up to `high`.
    pub(crate) fn begin(&mut self, high: u64, flight: u64, window: u64) {
        self.mode = Mode::Recovery;
        self.high = high;
        self.delivered = 0;
        self.sent = 0;
        self.flight = flight.max(1);
        // The first retransmission is always allowed (RFC 9937, section 7).
        self.window = window;
        self.tail_probe = None;
    }

    /// Everything up to `high` counts as lost. Whether that is so is asked if this `is_first`
    /// timeout in a row (RFC 5682, section 3, step 1).
    pub(crate) fn begin_loss(&mut self, high: u64, is_first: bool) {
        self.mode = Mode::Loss;
        self.high = high;
        self.tail_probe = None;
        self.duplicates = 0;
        self.frto = if is_first { Frto::First } else { Frto::Off };
    }

    /// Ends a recovery.
    pub(crate) fn end(&mut self) {
        if self.mode == Mode::Recovery && self.persist > 0 {
            self.persist -= 1;
            if self.persist == 0 {
                self.multiplier = 1;
            }
        }
        self.mode = Mode::Open;
        self.frto = Frto::Off;
        self.duplicates = 0;
    }

    /// Bytes were sent.
    pub(crate) fn on_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// The window of a recovery after `delivered` more bytes arrived and `pipe` bytes are under
    /// way: the window shrinks to `threshold` in proportion to what arrives, and grows back to
    /// it as in slow start if it fell below (RFC 6937, section 3).
    pub(crate) fn pace(
        &mut self,
        delivered: u64,
        pipe: u64,
        threshold: u64,
        segment_size: u64,
        is_progress: bool,
    ) {
        self.delivered += delivered;
        let quota = if pipe > threshold {
            let share = u128::from(self.delivered) * u128::from(threshold);
            let share = share.div_ceil(u128::from(self.flight)) as u64;
            share.saturating_sub(self.sent)
        } else {
            let most = self.delivered.saturating_sub(self.sent).max(delivered);
            // Slow start only while nothing more is lost (the safe bound).
            let most = most + if is_progress { segment_size } else { 0 };
            most.min(threshold - pipe)
        };
        self.window = pipe + quota;
        if self.sent == 0 {
            self.window = self.window.max(pipe + segment_size);
        }
    }
}
