//! Bytes that were written and not yet acknowledged, as shared chunks.

use std::collections::VecDeque;

use super::payload::SharedPayload;
use super::spare;

/// Chunks, each with the position of its first byte.
pub(crate) type Chunks<S> = VecDeque<(u64, S)>;

/// The send queue. A chunk leaves it when its last byte is acknowledged; segments that a device
/// still reads hold references of their own.
#[derive(Debug)]
pub(crate) struct SendQueue<S> {
    chunks: Chunks<S>,
    /// The position behind the last byte.
    end: u64,
}

impl<S: SharedPayload> SendQueue<S> {
    /// An empty queue whose first byte will be at `start`.
    pub(crate) const fn new(start: u64) -> Self {
        SendQueue {
            chunks: VecDeque::new(),
            end: start,
        }
    }

    /// The position behind the last byte.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Puts `chunk` behind the others.
    pub(crate) fn push(&mut self, chunk: S) {
        let start = self.end;
        self.end += chunk.as_ref().len() as u64;
        if self.end > start {
            self.chunks.push_back((start, chunk));
        }
    }

    /// Everything before `position` was acknowledged.
    pub(crate) fn acknowledge(&mut self, position: u64) {
        while let Some((start, chunk)) = self.chunks.front()
            && start + chunk.as_ref().len() as u64 <= position
        {
            self.chunks.pop_front();
        }
    }

    /// Appends slices with the bytes from `start` to `end` to `out`.
    pub(crate) fn read(&self, start: u64, end: u64, out: &mut Vec<S>) {
        let first = self.chunks.partition_point(|(at, _)| *at <= start);
        for (at, chunk) in self
            .chunks
            .range(first.saturating_sub(1).min(self.chunks.len())..)
        {
            if *at >= end {
                break;
            }
            let from = start.saturating_sub(*at) as usize;
            let to = (end - at) as usize;
            let slice = chunk.slice(from, to);
            if !slice.as_ref().is_empty() {
                out.push(slice);
            }
        }
    }

    /// Gives back the memory of an empty queue.
    pub(crate) fn shrink(&mut self) {
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        spare::empty(&mut self.chunks);
    }

    /// Exchanges the memory of an empty queue, or of one that is needed no more.
    pub(crate) fn exchange_memory(&mut self, memory: Chunks<S>) -> Chunks<S> {
        std::mem::replace(&mut self.chunks, memory)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_range_that_is_not_acknowledged_can_be_read(
            lengths in proptest::collection::vec(0_usize..50, 1..20),
            from in 0_u64..500,
            length in 0_u64..200,
            acknowledged in 0_u64..500,
        ) {
            let mut queue = SendQueue::new(1000);
            let mut all = Vec::new();
            for length in lengths {
                let chunk: Vec<u8> = (0..length).map(|at| (all.len() + at) as u8).collect();
                all.extend_from_slice(&chunk);
                queue.push(Bytes::from(chunk));
            }
            prop_assert_eq!(queue.end(), 1000 + all.len() as u64);
            queue.acknowledge(1000 + acknowledged.min(from));
            let start = from.min(all.len() as u64);
            let end = (from + length).min(all.len() as u64);
            let mut slices = Vec::new();
            queue.read(1000 + start, 1000 + end, &mut slices);
            prop_assert_eq!(&slices.concat()[..], &all[start as usize..end as usize]);
            queue.acknowledge(queue.end());
            prop_assert!(queue.chunks.is_empty());
        }
    }
}
