//! What arrived before what is in front of it (RFC 9293, section 3.10.7.4; RFC 2018, section 4).
//!
//! Pieces do not overlap and are sorted by position. Bytes that are there already win over those
//! that arrive again. How much may wait is bounded by the memory that pieces hold, not by their
//! bytes, so that a flood of tiny pieces does not help an attacker.

use std::collections::VecDeque;

use crate::buffer::Buffer;

/// A range of positions: from `start` up to, but without, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

#[derive(Debug)]
struct Piece<B> {
    start: u64,
    end: u64,
    payload: B,
}

/// Pieces that wait for what is in front of them.
#[derive(Debug)]
pub(crate) struct Reassembly<B> {
    pieces: VecDeque<Piece<B>>,
    /// What the pieces cover, sorted; ranges do not touch.
    ranges: Vec<Range>,
    /// A position in each of the ranges that changed last, newest first.
    recent: [u64; 4],
    /// Bytes of memory that the pieces hold.
    memory: usize,
}

impl<B: Buffer> Reassembly<B> {
    pub(crate) const fn new() -> Self {
        Reassembly {
            pieces: VecDeque::new(),
            ranges: Vec::new(),
            recent: [0; 4],
            memory: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Keeps `payload`, which begins at `start` and is not empty. Returns the part of it that
    /// was there already, if any: the first such range.
    pub(crate) fn insert(&mut self, start: u64, mut payload: B) -> Option<Range> {
        let mut new = Range {
            start,
            end: start + payload.len() as u64,
        };
        let duplicate = self.overlap(new);
        let mut index = self.pieces.partition_point(|piece| piece.start <= start);
        if let Some(before) = index.checked_sub(1).and_then(|at| self.pieces.get(at))
            && before.end > new.start
        {
            let known = before.end.min(new.end) - new.start;
            payload.trim_front(known as usize);
            new.start += known;
        }
        // A piece of the same start or within the new one, and longer than it, wins whole.
        while new.start < new.end
            && let Some(next) = self.pieces.get(index)
            && next.start < new.end
        {
            if next.end > new.end {
                payload.truncate((next.start - new.start) as usize);
                new.end = next.start;
                break;
            }
            self.memory -= next.payload.memory();
            self.pieces.remove(index);
        }
        index = index.min(self.pieces.len());
        if new.start < new.end {
            self.memory += payload.memory();
            let piece = Piece {
                start: new.start,
                end: new.end,
                payload,
            };
            self.pieces.insert(index, piece);
            self.cover(new);
        }
        self.touch(start);
        duplicate
    }

    /// Takes the piece that begins at or before `next`, if there is one, without the bytes
    /// before `next`; and the position behind it.
    pub(crate) fn take(&mut self, next: u64) -> Option<(B, u64)> {
        while self.pieces.front()?.start <= next {
            let mut piece = self.pieces.pop_front()?;
            self.memory -= piece.payload.memory();
            if piece.end > next {
                piece.payload.trim_front((next - piece.start) as usize);
                self.uncover(piece.end);
                return Some((piece.payload, piece.end));
            }
            self.uncover(piece.end);
        }
        None
    }

    /// Gives up the piece that is farthest ahead. Its range was announced by SACK, which is
    /// allowed to be taken back (RFC 2018, section 8). Returns whether there was one.
    pub(crate) fn give_up_last(&mut self) -> bool {
        let Some(piece) = self.pieces.pop_back() else {
            return false;
        };
        self.memory -= piece.payload.memory();
        if let Some(last) = self.ranges.last_mut() {
            last.end = piece.start;
            if last.start >= last.end {
                self.ranges.pop();
            }
        }
        true
    }

    /// What to announce: the range that changed last first, then others that changed before
    /// (RFC 2018, section 4). At most four.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Range> + '_ {
        let mut told = [Range::default(); 4];
        self.recent
            .iter()
            .enumerate()
            .filter_map(move |(index, position)| {
                let range = self.range_at(*position)?;
                if told.contains(&range) {
                    return None;
                }
                *told.get_mut(index)? = range;
                Some(range)
            })
    }

    fn range_at(&self, position: u64) -> Option<Range> {
        let index = self.ranges.partition_point(|range| range.end <= position);
        let range = *self.ranges.get(index)?;
        (range.start <= position).then_some(range)
    }

    /// The first part of `new` that is covered.
    fn overlap(&self, new: Range) -> Option<Range> {
        let index = self.ranges.partition_point(|range| range.end <= new.start);
        let range = self.ranges.get(index)?;
        (range.start < new.end).then(|| Range {
            start: range.start.max(new.start),
            end: range.end.min(new.end),
        })
    }

    /// Makes `new` part of the ranges.
    fn cover(&mut self, new: Range) {
        let first = self.ranges.partition_point(|range| range.end < new.start);
        let last = self.ranges.partition_point(|range| range.start <= new.end);
        let merged = self.ranges.get(first..last).unwrap_or_default();
        let whole = Range {
            start: merged
                .first()
                .map_or(new.start, |range| range.start.min(new.start)),
            end: merged
                .last()
                .map_or(new.end, |range| range.end.max(new.end)),
        };
        self.ranges.splice(first..last.max(first), [whole]);
    }

    /// Takes away everything before `position`.
    fn uncover(&mut self, position: u64) {
        let gone = self.ranges.partition_point(|range| range.end <= position);
        self.ranges.drain(..gone);
        if let Some(first) = self.ranges.first_mut() {
            first.start = first.start.max(position);
        }
    }

    /// Puts the range at `position` in front of the others.
    fn touch(&mut self, position: u64) {
        if self.range_at(position).is_none() {
            return;
        }
        let range = self.range_at(position);
        let at = self
            .recent
            .iter()
            .position(|recent| self.range_at(*recent) == range)
            .unwrap_or(self.recent.len() - 1);
        if let Some(shifted) = self.recent.get_mut(..=at) {
            shifted.rotate_right(1);
        }
        if let Some(newest) = self.recent.first_mut() {
            *newest = position;
        }
    }
}

#[cfg(test)]
#[path = "reassembly/tests.rs"]
mod tests;
