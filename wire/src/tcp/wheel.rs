//! A hierarchical timing wheel: one deadline for each slab index.
//!
//! Six levels of 64 slots; a slot of level n spans 64^n ticks of 2^17 ns (131 us). An index is
//! in the slot in which its deadline lies, as seen from the last time that was handled, and
//! moves down a level when that slot comes. Arming, disarming and firing take constant time.
//! Deadlines are rounded up to a tick; beyond the horizon (104 days) an index comes due early,
//! which its owner finds out by looking at its own deadline.

use crate::time::Instant;

const TICK_BITS: u32 = 17;
const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 6;
/// The lists' heads are the first nodes.
const HEADS: u32 = (SLOTS * LEVELS) as u32;

/// A link of a circular, doubly linked list. A node that is in no list is linked to itself.
#[derive(Debug, Clone, Copy)]
struct Node {
    next: u32,
    previous: u32,
    /// When it fires. Of a head: not used.
    tick: u64,
}

/// Deadlines of slab indexes.
#[derive(Debug)]
pub(crate) struct Wheel {
    nodes: Vec<Node>,
    /// One bit for each slot that is not empty.
    occupied: [u64; LEVELS],
    /// All ticks before this one were handled.
    now: u64,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Wheel {
            nodes: (0..HEADS).map(Node::alone).collect(),
            occupied: [0; LEVELS],
            now: 0,
        }
    }

    /// Sets the deadline of `index`, whatever it was, at `now`.
    ///
    /// An index that would fire earlier than it has to is left where it is: most deadlines move
    /// back before they pass. So [`expire`](Self::expire) may name an index early.
    pub(crate) fn arm(&mut self, now: Instant, index: u32, deadline: Instant) {
        let id = index.saturating_add(HEADS);
        if self.occupied.iter().fold(0, |all, level| all | level) == 0 {
            // Nothing lies between, so the horizon begins here, wherever the epoch is.
            self.now = self.now.max(now.as_nanos() >> TICK_BITS);
        }
        let tick = tick_after(deadline).max(self.now + 1);
        if let Some(node) = self.node(id)
            && node.next != id
            && node.tick <= tick
        {
            return;
        }
        self.unlink(id);
        self.link(id, tick);
    }

    /// Reads what is kept of `index`, so that it is in the cache when it is armed.
    #[inline]
    pub(crate) fn touch(&self, index: u32) -> u64 {
        let node = self.nodes.get(index.saturating_add(HEADS) as usize);
        node.map_or(0, |node| node.tick)
    }

    /// Takes `index` off.
    pub(crate) fn disarm(&mut self, index: u32) {
        self.unlink(index.saturating_add(HEADS));
    }

    /// The next index whose deadline has passed at `now`, which is taken off.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<u32> {
        let target = now.as_nanos() >> TICK_BITS;
        while let Some((level, slot, start)) = self.next_slot()
            && start <= target
        {
            // Slots come in order, so nothing that is armed lies before this one.
            self.now = start;
            let head = (level * SLOTS + slot) as u32;
            if level == 0
                && let Some(Node { next: id, .. }) = self.node(head)
            {
                self.unlink(id);
                return id.checked_sub(HEADS);
            }
            self.cascade(head);
        }
        self.now = self.now.max(target);
        None
    }

    /// Moves what is in a slot that starts now to lower levels.
    fn cascade(&mut self, head: u32) {
        while let Some(Node { next: id, .. }) = self.node(head)
            && id != head
        {
            let tick = self.node(id).map_or(0, |node| node.tick);
            self.unlink(id);
            self.link(id, tick);
        }
    }

    /// When [`expire`](Self::expire) should be called: no later than the first deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (_, _, start) = self.next_slot()?;
        Some(Instant::from_nanos(start << TICK_BITS))
    }

    /// The first slot that is not empty: level, slot and the tick at which it starts.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let mut first: Option<(usize, usize, u64)> = None;
        for (level, occupied) in self.occupied.iter().enumerate() {
            if *occupied == 0 {
                continue;
            }
            let shift = LEVEL_BITS * level as u32;
            // The current slot of a higher level has been moved down; what is in it since is due
            // a whole round later.
            let from = (self.now >> shift) + u64::from(level > 0);
            let rotation = (from & (SLOTS as u64 - 1)) as u32;
            let unit = from + u64::from(occupied.rotate_right(rotation).trailing_zeros());
            let start = unit << shift;
            if first.is_none_or(|(_, _, earliest)| start < earliest) {
                first = Some((level, (unit & (SLOTS as u64 - 1)) as usize, start));
            }
        }
        first
    }

    /// Puts a node that is in no list into the slot of `tick`, which has not passed.
    fn link(&mut self, id: u32, tick: u64) {
        while self.nodes.len() <= id as usize {
            self.nodes.push(Node::alone(self.nodes.len() as u32));
        }
        let horizon = self.now + (1 << (LEVEL_BITS * LEVELS as u32)) - 1;
        let tick = tick.clamp(self.now, horizon);
        // The lowest level in whose current round the tick lies.
        let differing = 63_u32.saturating_sub((tick ^ self.now).leading_zeros());
        let level = (differing / LEVEL_BITS).min(LEVELS as u32 - 1);
        let slot = (tick >> (level * LEVEL_BITS)) & (SLOTS as u64 - 1);
        let head = level * SLOTS as u32 + slot as u32;
        let last = self.node(head).map_or(head, |node| node.previous);
        if let Some(node) = self.nodes.get_mut(id as usize) {
            *node = Node {
                next: head,
                previous: last,
                tick,
            };
        }
        self.set_next(last, id);
        self.set_previous(head, id);
        self.set_occupied(head, true);
    }

    /// Takes a node out of its list, if it is in one.
    fn unlink(&mut self, id: u32) {
        let Some(Node { next, previous, .. }) = self.node(id) else {
            return;
        };
        if next == id {
            return;
        }
        self.set_next(previous, next);
        self.set_previous(next, previous);
        if next == previous && next < HEADS {
            self.set_occupied(next, false);
        }
        if let Some(node) = self.nodes.get_mut(id as usize) {
            *node = Node::alone(id);
        }
    }

    fn node(&self, id: u32) -> Option<Node> {
        self.nodes.get(id as usize).copied()
    }

    fn set_next(&mut self, id: u32, next: u32) {
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.next = next;
        }
    }

    fn set_previous(&mut self, id: u32, previous: u32) {
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.previous = previous;
        }
    }

    fn set_occupied(&mut self, head: u32, is_occupied: bool) {
        if let Some(level) = self.occupied.get_mut(head as usize / SLOTS) {
            let bit = 1 << (head as usize % SLOTS);
            match is_occupied {
                true => *level |= bit,
                false => *level &= !bit,
            }
        }
    }
}

impl Node {
    const fn alone(id: u32) -> Self {
        Node {
            next: id,
            previous: id,
            tick: 0,
        }
    }
}

/// The first tick that does not start before `deadline`.
fn tick_after(deadline: Instant) -> u64 {
    deadline.as_nanos().div_ceil(1 << TICK_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain map: nothing fires more than a tick late, and nothing is lost.
        #[test]
        fn every_deadline_fires_once_and_in_time(
            steps in proptest::collection::vec((0_u32..20, any::<u64>(), 0_u32..45, any::<bool>()), 1..200),
        ) {
            let mut wheel = Wheel::new();
            let mut deadlines = BTreeMap::new();
            let mut now = Instant::ZERO;
            for (index, nanoseconds, shift, is_disarmed) in steps {
                let span = Duration::from_nanos(nanoseconds & ((1 << shift) - 1));
                if is_disarmed {
                    wheel.disarm(index);
                    deadlines.remove(&index);
                } else if index < 10 {
                    wheel.arm(now, index, now + span);
                    deadlines.insert(index, now + span);
                } else {
                    now = now + span;
                    while let Some(index) = wheel.expire(now) {
                        let deadline = deadlines.remove(&index);
                        prop_assert!(deadline.is_some(), "{index} is not armed");
                        // Named early, it is armed again, as its owner would.
                        if let Some(deadline) = deadline.filter(|deadline| *deadline > now) {
                            wheel.arm(now, index, deadline);
                            deadlines.insert(index, deadline);
                        }
                    }
                    let tick = Duration::from_nanos(1 << TICK_BITS);
                    prop_assert!(deadlines.values().all(|deadline| *deadline + tick > now));
                    prop_assert!(wheel.next_deadline().is_none_or(|deadline| deadline > now));
                }
                let next = wheel.next_deadline();
                let tick = Duration::from_nanos(1 << TICK_BITS);
                if let Some(first) = deadlines.values().min() {
                    prop_assert!(next.is_some_and(|next| next <= (*first).max(now) + tick));
                } else {
                    prop_assert!(next.is_none());
                }
            }
        }
    }
}
