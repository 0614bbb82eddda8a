//! What was taken for loss may have been delay or reordering: then the response to it is undone.
//!
//! Three things tell. An acknowledgment that echoes a timestamp from before anything was sent
//! again answers the original (Eifel detection, RFC 3522). After a timeout, what counts as lost
//! and was not sent again arrives (F-RTO, RFC 5682). And the peer reports each segment that was
//! sent again to have arrived twice (D-SACK, RFC 2883; RFC 3708).

use super::{Connection, Context};
use crate::buffer::Buffer;
use crate::tcp::header::TcpHeader;
use crate::tcp::payload::SharedPayload;
use crate::tcp::reassembly::Range;
use crate::tcp::recovery::{Frto, Mode, Undo};
use crate::tcp::scoreboard::Delivery;
use crate::tcp::sequence::SeqNumber;
use crate::time::Instant;

/// New segments that ask whether a timeout was needless (RFC 5682, section 3, step 2).
const QUESTIONS: u64 = 2;

impl<B: Buffer, S: SharedPayload> Connection<B, S> {
    /// Keeps the congestion window as it is, before it is reduced.
    pub(super) fn remember_congestion(&mut self) {
        self.recovery.undo = Some(Box::new(Undo {
            before: self.congestion.clone(),
            start: self.send.una,
            until: u64::MAX,
            stamp: None,
            resent: 0,
        }));
    }

    /// `length` bytes are sent again, in segments of `mss` bytes.
    pub(super) fn count_resent(&mut self, length: u64, mss: u64, now: Instant) {
        let stamp = self.timestamps(now).value;
        if let Some(undo) = &mut self.recovery.undo {
            undo.stamp.get_or_insert(stamp);
            let segments = length.div_ceil(mss.max(1)).min(u32::MAX.into()) as u32;
            undo.resent = undo.resent.saturating_add(segments);
        }
    }

    /// The peer reported that `range`, which was not a probe, arrived twice.
    pub(super) fn count_needless(&mut self, range: Range) {
        let segments = (range.end - range.start).div_ceil(self.segment_size());
        if let Some(undo) = &mut self.recovery.undo
            && range.start >= undo.start
        {
            let segments = segments.min(u32::MAX.into()) as u32;
            undo.resent = undo.resent.saturating_sub(segments);
        }
    }

    /// Whether an acknowledgment answers a segment from before anything was sent again, by its
    /// timestamp (RFC 3522, section 3.2, step 5).
    pub(super) fn answers_original(&self, header: &TcpHeader) -> bool {
        let stamp = self.recovery.undo.as_ref().and_then(|undo| undo.stamp);
        let (Some(stamp), Some(timestamps)) = (stamp, header.options.timestamps) else {
            return false;
        };
        self.negotiated.timestamps && SeqNumber(timestamps.echo).is_before(SeqNumber(stamp))
    }

    /// Undoes a response to loss, if it turns out that there was none.
    pub(super) fn look_for_spurious(
        &mut self,
        delivery: &Delivery,
        is_progress: bool,
        is_delayed: bool,
        cx: &mut Context<'_>,
    ) {
        let Some(undo) = &self.recovery.undo else {
            return;
        };
        if self.send.una > undo.until {
            self.recovery.undo = None;
            return;
        }
        let is_needless = undo.stamp.is_some() && undo.resent == 0;
        let is_spurious = match self.recovery.mode {
            Mode::Open => false,
            Mode::Recovery => self.is_recovery_spurious(is_progress && is_delayed),
            Mode::Loss => self.is_timeout_spurious(delivery, is_progress, is_delayed),
        };
        if is_needless || is_spurious {
            self.undo_congestion(cx);
        }
    }

    /// What was taken for lost has arrived late. Other gaps may be real: they are as long as
    /// something that was sent again has not been acknowledged, one way or the other.
    fn is_recovery_spurious(&mut self, is_delayed: bool) -> bool {
        if is_delayed {
            self.recovery.on_reordering();
        }
        let is_over = self.send.una >= self.recovery.high;
        is_delayed && (is_over || self.send.board.retransmitted() == 0)
    }

    /// F-RTO, and Eifel detection where there are timestamps.
    fn is_timeout_spurious(
        &mut self,
        delivery: &Delivery,
        is_progress: bool,
        is_delayed: bool,
    ) -> bool {
        let frto = self.recovery.frto;
        if is_progress && is_delayed {
            return true;
        }
        // What was not sent again has arrived. If it is acknowledged together with the first that
        // was, it may have waited for that, and it was the timeout that helped.
        let is_telling = !is_progress || matches!(frto, Frto::New(_));
        if frto != Frto::Off && delivery.is_found && is_telling {
            return true;
        }
        self.recovery.frto = match frto {
            // Step 2b: ask by new data, if there is some.
            Frto::First if is_progress && self.may_ask() => {
                Frto::New(self.send.nxt + QUESTIONS * self.segment_size())
            }
            // More is reported, but the first has not been acknowledged yet.
            Frto::First if !is_progress && delivery.bytes > 0 => Frto::First,
            _ => Frto::Off,
        };
        false
    }

    /// Whether there is something new that the peer takes, and something left to ask about.
    fn may_ask(&self) -> bool {
        let has_question = self.send.has_unsent() && self.send.usable_window() > 0;
        has_question && self.send.una < self.recovery.high
    }

    /// Nothing was lost: the window is what it was (RFC 4015, section 3.2, with the window of
    /// Linux: what was under way still is, so nothing leaves in a burst).
    fn undo_congestion(&mut self, cx: &mut Context<'_>) {
        let Some(undo) = self.recovery.undo.take() else {
            return;
        };
        cx.counters.undone += 1;
        self.undone = self.undone.saturating_add(1);
        self.recovery.on_reordering();
        let segment_size = self.segment_size();
        let mut before = undo.before;
        before.get_mut().set_segment_size(segment_size);
        if before.get().window() >= self.congestion.get().window() {
            self.congestion = before;
        }
        if self.recovery.mode != Mode::Open {
            self.timeouts_in_row = 0;
            self.send.board.lose_nothing();
            self.recovery.end();
        }
    }

    /// The recovery is over. For a round trip more the peer may tell that it was needless.
    pub(super) fn end_recovery(&mut self) {
        self.recovery.end();
        if let Some(undo) = &mut self.recovery.undo {
            undo.until = undo.until.min(self.send.nxt);
        }
    }
}
