//! What is under way: one record for each segment that was sent and not yet acknowledged, and
//! what SACK (RFC 2018, RFC 6675) and RACK (RFC 8985) say about it.
//!
//! Records are sorted by position and leave no gap. A record is split only at multiples of the
//! segment size, so their number is bounded whatever a peer reports; neighbours that were both
//! SACKed become one.

use std::collections::VecDeque;
use std::time::Duration;

use super::reassembly::Range;
use crate::time::Instant;

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
struct Record {
    start: u64,
    end: u64,
    /// When it was last sent.
    sent: Instant,
    fate: Fate,
    is_retransmitted: bool,
}

impl Record {
    fn length(&self) -> u64 {
        self.end - self.start
    }
}

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
    pub(crate) rtt: Option<Duration>,
    /// Whether one that was sent once arrived after one behind it.
    pub(crate) is_reordered: bool,
}

/// The records, and sums over them.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    records: VecDeque<Record>,
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

    pub(crate) fn records(&self) -> usize {
        self.records.len()
    }

    /// Gives back the memory of records, if there are none.
    pub(crate) fn shrink(&mut self) {
        if self.records.is_empty() {
            self.records = VecDeque::new();
        }
    }

    /// Whether the receiver has taken back what it reported by SACK: its first byte is missing
    /// no more, but is not acknowledged either (RFC 2018, section 8).
    pub(crate) fn is_reneged(&self) -> bool {
        let first = self.records.front();
        first.is_some_and(|record| record.fate == Fate::Sacked)
    }

    /// New bytes were sent.
    pub(crate) fn sent(&mut self, range: Range, now: Instant) {
        self.in_flight += range.end - range.start;
        self.records.push_back(Record {
            start: range.start,
            end: range.end,
            sent: now,
            fate: Fate::InFlight,
            is_retransmitted: false,
        });
    }

    /// Everything before `position` has arrived.
    pub(crate) fn acknowledge(
        &mut self,
        position: u64,
        now: Instant,
        least_rtt: Duration,
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
    }

    /// `block` has arrived out of order. Parts of a record count in multiples of `mss` only.
    pub(crate) fn sack(
        &mut self,
        block: Range,
        mss: u64,
        now: Instant,
        least_rtt: Duration,
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

    /// Marks what was sent before `newest`, and has not arrived in spite of `wait` more time, as
    /// lost. Returns the time after which what remains of it will be (RFC 8985, section 6.2,
    /// step 5).
    pub(crate) fn detect(
        &mut self,
        newest: Newest,
        wait: Duration,
        now: Instant,
    ) -> Option<Duration> {
        // Without gap or retransmission, all that is left was sent after what has arrived.
        if self.sacked == 0 && self.retransmitted == 0 {
            return None;
        }
        let mut longest = None;
        for index in 0..self.records.len() {
            let Some(record) = self.records.get(index) else {
                break;
            };
            let is_before = (record.sent, record.end) < (newest.sent, newest.end);
            if record.fate != Fate::InFlight || !is_before {
                // Those that were sent once are in the order of sending.
                if record.start >= self.highest_delivered && !record.is_retransmitted && !is_before
                {
                    break;
                }
                continue;
            }
            let due = record.sent + wait;
            if due <= now {
                self.set_fate(index, Fate::Lost);
            } else {
                longest = longest.max(Some(due.since(now)));
            }
        }
        longest
    }

    /// Marks the first `length` bytes as lost, if they are in flight.
    pub(crate) fn lose_first(&mut self, length: u64) {
        if let Some(first) = self.records.front()
            && first.fate == Fate::InFlight
        {
            self.split(0, first.start + length);
            self.set_fate(0, Fate::Lost);
        }
    }

    /// Marks everything that has not arrived as lost; with `renege`, what was SACKed too.
    pub(crate) fn lose_all(&mut self, renege: bool) {
        for index in 0..self.records.len() {
            let fate = self.records.get(index).map(|record| record.fate);
            if fate == Some(Fate::InFlight) || (renege && fate == Some(Fate::Sacked)) {
                self.set_fate(index, Fate::Lost);
            }
        }
    }

    /// Marks what is in flight and longer than `mss` as lost: a link on the path does not take
    /// it.
    pub(crate) fn lose_longer(&mut self, mss: u64) {
        for index in 0..self.records.len() {
            if let Some(record) = self.records.get(index)
                && record.fate == Fate::InFlight
                && record.length() > mss
            {
                self.set_fate(index, Fate::Lost);
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

    /// `range`, the front or the end of one record, was sent again.
    pub(crate) fn resent(&mut self, range: Range, now: Instant) {
        let mut index = self
            .records
            .partition_point(|record| record.end <= range.start);
        index += usize::from(self.split(index, range.start));
        self.split(index, range.end);
        self.set_fate(index, Fate::InFlight);
        if let Some(record) = self.records.get_mut(index) {
            record.sent = now;
            if !record.is_retransmitted {
                record.is_retransmitted = true;
                self.retransmitted += record.end - record.start;
            }
        }
    }

    /// Takes a record that has arrived into account.
    fn deliver(&self, record: &Record, now: Instant, least_rtt: Duration, delivery: &mut Delivery) {
        delivery.bytes += record.length();
        let elapsed = now.since(record.sent);
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
