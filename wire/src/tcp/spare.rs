//! Memory of the queues of connections that have ended, for those that begin: so a server of short
//! connections does not ask the allocator three times for each.

use std::collections::VecDeque;

use super::scoreboard::Records;
use super::send_queue::Chunks;

/// Queues that are kept, at most.
const MOST: usize = 256;

/// Places of a queue that is kept, at most: that of a connection that moved much is given back.
const MOST_PLACES: usize = 8;

/// The memory of the queues of one connection. They are empty.
#[derive(Debug)]
pub(crate) struct Queues<B, S> {
    pub(crate) chunks: Chunks<S>,
    pub(crate) records: Records,
    pub(crate) received: VecDeque<B>,
}

impl<B, S> Queues<B, S> {
    /// Whether there is so little that it may be kept, and any.
    fn is_worth_it(&self) -> bool {
        let places = [
            self.chunks.capacity(),
            self.records.capacity(),
            self.received.capacity(),
        ];
        let most = places.into_iter().max().unwrap_or(0);
        (1..=MOST_PLACES).contains(&most)
    }
}

/// What is kept.
#[derive(Debug)]
pub(crate) struct Spare<B, S> {
    queues: Vec<Queues<B, S>>,
}

impl<B, S> Spare<B, S> {
    pub(crate) const fn new() -> Self {
        Spare { queues: Vec::new() }
    }

    /// Memory for a connection that begins, if there is some.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Queues<B, S>> {
        self.queues.pop()
    }

    /// Keeps the memory of a connection that has ended, or gives it back.
    pub(crate) fn keep(&mut self, mut queues: Queues<B, S>) {
        if queues.is_worth_it() && self.queues.len() < MOST {
            queues.chunks.clear();
            queues.records.clear();
            queues.received.clear();
            self.queues.push(queues);
        }
    }

    /// No connection is left: gives all back but the memory of one, so that a single one that comes
    /// and goes is cheap.
    pub(crate) fn shrink(&mut self) {
        self.queues.truncate(1);
        self.queues.shrink_to_fit();
    }
}

/// Empties a queue, and gives its memory back if it is much.
pub(crate) fn empty<T>(queue: &mut VecDeque<T>) {
    match queue.capacity() > MOST_PLACES {
        true => *queue = VecDeque::new(),
        false => queue.clear(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(places: usize) -> Queues<u8, u8> {
        let mut queues = Queues {
            chunks: Chunks::with_capacity(places),
            records: Records::new(),
            received: VecDeque::with_capacity(places),
        };
        queues.received.push_back(1);
        queues
    }

    #[test]
    fn what_is_kept_is_empty_and_bounded_in_number_and_length() {
        let mut spare = Spare::new();
        spare.keep(queues(1000));
        assert!(spare.take().is_none());
        (0..2 * MOST).for_each(|_| spare.keep(queues(4)));
        let mut kept = 0;
        while let Some(queues) = spare.take() {
            assert!(queues.received.is_empty() && queues.received.capacity() >= 4);
            kept += 1;
        }
        assert_eq!(kept, MOST);
    }
}
