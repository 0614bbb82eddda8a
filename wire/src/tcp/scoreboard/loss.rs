//! What is lost: by time (RACK), by count, by timeout, or because it was too long; and what
//! turns out not to be.

use super::{Fate, Newest, Resent, Scoreboard};
use crate::tcp::reassembly::Range;
use crate::time::{Instant, Span};

/// Entries of what was sent again beyond which those that say nothing any more are thrown out.
const MOST_STALE: usize = 64;

impl Scoreboard {
    /// Marks what was sent before `newest`, and has not arrived in spite of `wait` more time, as
    /// lost. Returns when more of it will be (RFC 8985, section 6.2, step 5).
    ///
    /// The RFC waits for all of it at once. Here it is the first: so each is marked when it is
    /// due, and nothing behind the first that is not needs to be looked at.
    pub(crate) fn detect(&mut self, newest: Newest, wait: Span, now: Instant) -> Option<Instant> {
        if self.sacked == 0 && self.retransmitted == 0 {
            self.forget_resent();
            return None;
        }
        let once = self.detect_sent_once(newest, wait, now);
        let again = self.detect_sent_again(newest, wait, now);
        match (once, again) {
            (Some(once), Some(again)) => Some(once.min(again)),
            (once, again) => once.or(again),
        }
    }

    /// Positions that were sent once are in the order of sending.
    fn detect_sent_once(&mut self, newest: Newest, wait: Span, now: Instant) -> Option<Instant> {
        let from = self.once_from;
        let mut index = self.records.partition_point(|record| record.end <= from);
        while let Some(record) = self.records.get(index).copied() {
            self.once_from = record.start;
            if record.fate == Fate::InFlight && !record.is_retransmitted {
                if (record.sent, record.end) >= (newest.sent, newest.end) {
                    return None;
                }
                let due = record.sent + wait;
                if due > now {
                    return Some(due);
                }
                self.set_fate(index, Fate::Lost);
            }
            self.once_from = record.end;
            index += 1;
        }
        None
    }

    fn detect_sent_again(&mut self, newest: Newest, wait: Span, now: Instant) -> Option<Instant> {
        while let Some(first) = self.first_resent() {
            let due = first.sent + wait;
            let mut index = self.first_of(&first);
            while let Some(record) = self.records.get(index).copied()
                && record.start < first.range.end
            {
                if record.fate == Fate::InFlight && record.sent == first.sent {
                    if (record.sent, record.end) >= (newest.sent, newest.end) {
                        return None;
                    }
                    if due > now {
                        return Some(due);
                    }
                    self.set_fate(index, Fate::Lost);
                }
                index += 1;
            }
            if let Some(again) = &mut self.again {
                again.pop_front();
            }
        }
        None
    }

    /// The index of the first record in a range.
    fn first_of(&self, resent: &Resent) -> usize {
        let start = resent.range.start;
        self.records.partition_point(|record| record.end <= start)
    }

    fn first_resent(&self) -> Option<Resent> {
        self.again.as_ref()?.front().copied()
    }

    /// Keeps in mind what was sent again.
    pub(super) fn remember_resent(&mut self, resent: Resent) {
        // Without SACK nobody looks, and what is marked otherwise stays in the list.
        let length = self.again.as_ref().map_or(0, |again| again.len());
        if length >= MOST_STALE + 2 * self.records.len() {
            self.collect_resent();
        }
        self.again.get_or_insert_default().push_back(resent);
    }

    fn forget_resent(&mut self) {
        if let Some(again) = &mut self.again {
            again.clear();
        }
    }

    /// Makes the list of what was sent again anew.
    fn collect_resent(&mut self) {
        let Some(again) = &mut self.again else {
            return;
        };
        again.clear();
        for record in &self.records {
            if record.is_retransmitted && record.fate == Fate::InFlight {
                let (start, end) = (record.start, record.end);
                again.push_back(Resent {
                    range: Range { start, end },
                    sent: record.sent,
                });
            }
        }
        let list = again.make_contiguous();
        list.sort_unstable_by_key(|resent| (resent.sent, resent.range.end));
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
        self.forget_resent();
    }

    /// Marks what is in flight in segments longer than `mss` as lost: a link on the path does not
    /// take them.
    pub(crate) fn lose_longer(&mut self, mss: u64) {
        for index in 0..self.records.len() {
            if let Some(record) = self.records.get(index)
                && record.fate == Fate::InFlight
                && record.length().min(record.mss.into()) > mss
            {
                self.set_fate(index, Fate::Lost);
            }
        }
    }

    /// Nothing was lost, it was only late: what counts as lost is on its way again.
    pub(crate) fn lose_nothing(&mut self) {
        for index in 0..self.records.len() {
            let fate = self.records.get(index).map(|record| record.fate);
            if fate == Some(Fate::Lost) {
                self.set_fate(index, Fate::InFlight);
            }
        }
        self.once_from = 0;
        self.collect_resent();
    }

    /// Bytes within `range` that count as lost.
    pub(crate) fn lost_within(&self, range: Range) -> u64 {
        let first = self
            .records
            .partition_point(|record| record.end <= range.start);
        let within = self.records.range(first.min(self.records.len())..);
        within
            .take_while(|record| record.start < range.end)
            .filter(|record| record.fate == Fate::Lost)
            .map(|record| record.end.min(range.end) - record.start.max(range.start))
            .sum()
    }
}
