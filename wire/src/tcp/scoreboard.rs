//! What is under way: one record for each segment that was sent and not yet acknowledged, and
//! what SACK (RFC 2018, RFC 6675) and RACK (RFC 8985) say about it.
//!
//! Records are sorted by position and leave no gap. A record is split only at multiples of the
//! segment size that it was sent with, so their number is bounded whatever a peer reports;
//! neighbours that were both SACKed become one.
//!
//! `loss` marks what is lost. What was sent once is in the order of sending; what was sent again
//! has a list in that order. So looking for losses goes on where it last stopped.

mod loss;

use std::collections::VecDeque;

use super::reassembly::Range;
use crate::time::{Instant, Span};

/// What is known about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// On its way, as far as we know.
    InFlight,
    /// Arrived out of order.
    Sacked,
    /// Lost; to be sent again.
    Lost,
}

/// A range that was sent at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    start: u64,
    end: u64,
    /// When it was last sent.
    sent: Instant,
    /// Payload bytes in each segment of it, but the last.
    mss: u16,
    fate: Fate,
    is_retransmitted: bool,
}

/// A range that was sent again, and when.
#[derive(Debug, Clone, Copy)]
struct Resent {
    range: Range,
    sent: Instant,
}

impl Record {
    fn length(&self) -> u64 {
        self.end - self.start
    }
}

/// Ranges under way, from front to back.
pub(crate) type Records = VecDeque<Record>;

/// What was sent again, in the order of that; boxed, as most connections never need it.
type Again = Option<Box<VecDeque<Resent>>>;

/// The segment that was sent last among those that arrived (RFC 8985, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) sent: Instant,
    pub(crate) end: u64,
}

/// What one acknowledgment told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delivery {
    /// Bytes that are now known to have arrived and were not before.
    pub(crate) bytes: u64,
    /// The newest segment among them; those that were sent again, and acknowledged sooner than
    /// any path allows, do not count (RFC 8985, section 6.2, step 2).
    pub(crate) newest: Option<Newest>,
    /// The least time since one of them was sent, which was sent only once (Karn's rule).
    pub(crate) rtt: Option<Span>,
    /// Whether one that was sent once arrived after one behind it.
    pub(crate) is_reordered: bool,
    /// Whether one arrived that counted as lost and was not sent again.
    pub(crate) is_found: bool,
}

/// The records, and sums over them.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    records: Records,
    in_flight: u64,
    sacked: u64,
    /// Segments that were reported to have arrived out of order, since the last time when there
    /// was no gap.
    sacked_segments: u64,
    lost: u64,
    /// Positions that were sent again and are not acknowledged yet.
    retransmitted: u64,
    /// The highest position that is known to have arrived.
    highest_delivered: u64,
    /// Nothing before this position is lost.
    lost_from: u64,
    /// Nothing before this position is in flight and was sent only once.
    once_from: u64,
    /// What was sent again, in the order of that. Some of it may have arrived, or be lost, since.
    again: Again,
}

impl Scoreboard {
    pub(crate) const fn new() -> Self {
        Scoreboard {
            records: VecDeque::new(),
            in_flight: 0,
            sacked: 0,
            sacked_segments: 0,
            lost: 0,
            retransmitted: 0,
            highest_delivered: 0,
            lost_from: 0,
            once_from: 0,
            again: None,
        }
    }

    /// Bytes on their way (the pipe of RFC 6675).
    #[inline]
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that arrived out of order.
    pub(crate) fn sacked(&self) -> u64 {
        self.sacked
    }

    /// Segments that arrived out of order, short ones too.
    pub(crate) fn sacked_segments(&self) -> u64 {
        match self.sacked {
            0 => 0,
            _ => self.sacked_segments,
        }
    }

    /// Bytes that are to be sent again.
    #[inline]
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether something that arrived out of order, or was sent again, may tell what is lost.
    #[inline]
    pub(crate) fn has_gap(&self) -> bool {
        self.sacked > 0 || self.retransmitted > 0 || self.again.is_some()
    }

    pub(crate) fn records(&self) -> usize {
        self.records.len()
    }

    /// Gives back the memory of records, if there are none.
    pub(crate) fn shrink(&mut self) {
        if self.records.is_empty() {
            self.records = VecDeque::new();
            self.again = None;
        }
    }

    /// Exchanges the memory of records, if there are none or they are needed no more.
    pub(crate) fn exchange_memory(&mut self, memory: Records) -> Records {
        std::mem::replace(&mut self.records, memory)
    }

    /// Whether the receiver has taken back what it reported by SACK: its first byte is missing
    /// no more, but is not acknowledged either (RFC 2018, section 8).
    pub(crate) fn is_reneged(&self) -> bool {
        let first = self.records.front();
        first.is_some_and(|record| record.fate == Fate::Sacked)
    }

    /// Positions that were sent again and are not acknowledged yet.
    pub(crate) fn retransmitted(&self) -> u64 {
        self.retransmitted
    }

    /// New bytes were sent, in segments of `mss` bytes.
    pub(crate) fn sent(&mut self, range: Range, mss: u16, now: Instant) {
        self.in_flight += range.end - range.start;
        self.records.push_back(Record {
            start: range.start,
            end: range.end,
            sent: now,
            mss: mss.max(1),
            fate: Fate::InFlight,
            is_retransmitted: false,
        });
    }

    /// Everything before `position` has arrived.
    pub(crate) fn acknowledge(
        &mut self,
        position: u64,
        now: Instant,
        least_rtt: Span,
        delivery: &mut Delivery,
    ) {
        let mut is_repeated = false;
        while let Some(&first) = self.records.front()
            && first.start < position
        {
            let part = Record {
                end: first.end.min(position),
                ..first
            };
            self.forget(&part);
            if part.fate != Fate::Sacked {
                self.deliver(&part, now, least_rtt, delivery);
                is_repeated |= part.is_retransmitted;
            }
            match self.records.front_mut() {
                Some(record) if record.end > position => record.start = position,
                _ => drop(self.records.pop_front()),
            }
        }
        if is_repeated {
            // What was sent once has waited at the receiver for what was sent again.
            delivery.rtt = None;
        }
        self.highest_delivered = self.highest_delivered.max(position);
        if let Some(again) = &mut self.again {
            while again
                .front()
                .is_some_and(|first| first.range.end <= position)
            {
                again.pop_front();
            }
        }
    }

    /// `block` has arrived out of order. Parts of a record count as whole segments only.
    pub(crate) fn sack(
        &mut self,
        block: Range,
        now: Instant,
        least_rtt: Span,
        delivery: &mut Delivery,
    ) {
        if self.sacked == 0 {
            self.sacked_segments = 0;
        }
        let mut index = self
            .records
            .partition_point(|record| record.end <= block.start);
        while let Some(record) = self.records.get(index).copied()
            && record.start < block.end
        {
            if record.fate == Fate::Sacked {
                index += 1;
                continue;
            }
            let mss = u64::from(record.mss);
            let start = record.start
                + block
                    .start
                    .saturating_sub(record.start)
                    .next_multiple_of(mss);
            let end = match record.end <= block.end {
                true => record.end,
                false => record.start + (block.end - record.start) / mss * mss,
            };
            if start >= end {
                index += 1;
                continue;
            }
            index += usize::from(self.split(index, start));
            self.split(index, end);
            if let Some(&part) = self.records.get(index) {
                self.deliver(&part, now, least_rtt, delivery);
                self.set_fate(index, Fate::Sacked);
                self.sacked_segments += part.length().div_ceil(mss);
                self.highest_delivered = self.highest_delivered.max(part.end);
                index = self.merge(index) + 1;
            }
        }
    }

    /// The first range to send again.
    pub(crate) fn first_lost(&mut self) -> Option<Range> {
        if self.lost == 0 {
            return None;
        }
        let from = self.lost_from;
        let first = self.records.partition_point(|record| record.end <= from);
        let mut behind = self.records.range(first..);
        let lost = behind.find(|record| record.fate == Fate::Lost)?;
        self.lost_from = lost.start;
        Some(Range {
            start: lost.start,
            end: lost.end,
        })
    }

    /// The last `length` bytes that have not arrived, for a probe (RFC 8985, section 7.3).
    pub(crate) fn last(&self, length: u64) -> Option<Range> {
        let last = self.records.back()?;
        (last.fate != Fate::Sacked).then(|| Range {
            start: last.start.max(last.end.saturating_sub(length)),
            end: last.end,
        })
    }

    /// `range`, the front or the end of one record, was sent again, in segments of `mss` bytes.
    pub(crate) fn resent(&mut self, range: Range, mss: u16, now: Instant) {
        let mut index = self
            .records
            .partition_point(|record| record.end <= range.start);
        index += usize::from(self.split(index, range.start));
        self.split(index, range.end);
        self.set_fate(index, Fate::InFlight);
        if let Some(record) = self.records.get_mut(index) {
            record.sent = now;
            record.mss = mss.max(1);
            if !record.is_retransmitted {
                record.is_retransmitted = true;
                self.retransmitted += record.end - record.start;
            }
        }
        self.remember_resent(Resent { range, sent: now });
    }

    /// Takes a record that has arrived into account.
    fn deliver(&self, record: &Record, now: Instant, least_rtt: Span, delivery: &mut Delivery) {
        delivery.bytes += record.length();
        delivery.is_found |= record.fate == Fate::Lost && !record.is_retransmitted;
        let elapsed = now.span_since(record.sent);
        if record.is_retransmitted {
            if elapsed < least_rtt {
                return;
            }
        } else {
            delivery.rtt = Some(delivery.rtt.map_or(elapsed, |rtt| rtt.min(elapsed)));
            delivery.is_reordered |= record.end < self.highest_delivered;
        }
        let newest = Newest {
            sent: record.sent,
            end: record.end,
        };
        let is_newer = delivery
            .newest
            .is_none_or(|other| (other.sent, other.end) < (newest.sent, newest.end));
        if is_newer {
            delivery.newest = Some(newest);
        }
    }

    /// Takes a record out of the sums.
    fn forget(&mut self, record: &Record) {
        *self.sum(record.fate) -= record.length();
        if record.is_retransmitted {
            self.retransmitted -= record.length();
        }
    }

    fn sum(&mut self, fate: Fate) -> &mut u64 {
        match fate {
            Fate::InFlight => &mut self.in_flight,
            Fate::Sacked => &mut self.sacked,
            Fate::Lost => &mut self.lost,
        }
    }

    fn set_fate(&mut self, index: usize, fate: Fate) {
        if let Some(record) = self.records.get_mut(index) {
            let before = std::mem::replace(&mut record.fate, fate);
            let (start, length) = (record.start, record.length());
            if fate == Fate::Lost {
                self.lost_from = self.lost_from.min(start);
            }
            *self.sum(before) -= length;
            *self.sum(fate) += length;
        }
    }

    /// Splits the record at `index` in two, if `position` is within it.
    fn split(&mut self, index: usize, position: u64) -> bool {
        let Some(record) = self.records.get_mut(index) else {
            return false;
        };
        if position <= record.start || position >= record.end {
            return false;
        }
        let rest = Record {
            start: position,
            ..*record
        };
        record.end = position;
        self.records.insert(index + 1, rest);
        true
    }

    /// Makes the record at `index` one with its neighbours, if all are SACKed; returns its index.
    fn merge(&mut self, mut index: usize) -> usize {
        for first in [index, index.wrapping_sub(1)] {
            let (Some(one), Some(other)) = (
                self.records.get(first),
                self.records.get(first.wrapping_add(1)),
            ) else {
                continue;
            };
            if one.fate != Fate::Sacked || other.fate != Fate::Sacked {
                continue;
            }
            let (end, other_length) = (other.end, other.length());
            let (is_one, is_other) = (one.is_retransmitted, other.is_retransmitted);
            // What counts as sent again is only used up to here: both count as the first does.
            if is_other != is_one {
                match is_one {
                    true => self.retransmitted += other_length,
                    false => self.retransmitted -= other_length,
                }
            }
            self.records.remove(first + 1);
            if let Some(one) = self.records.get_mut(first) {
                one.end = end;
            }
            index = first;
        }
        index
    }
}

#[cfg(test)]
#[path = "scoreboard/tests.rs"]
mod tests;
