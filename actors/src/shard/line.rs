//! The line of senders that wait for room, and whose turn it is.
//!
//! Under [`TxReadyPolicy::Fair`] room is given out in turns: who is refused stands in line, and
//! while there is a line, only those whose turn it is may send, [`TURN`] frames each. Without
//! that, whoever happens to offer when room comes back would take it all, before those who were
//! told. A sender that did not ask for a notice stands in line all the same, and finds its turn
//! when it offers again; a turn that is not used passes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use virtroupe_wire::Instant;

use super::{TxReadyPolicy, Waiter};

/// Frames that a sender may put in when it is its turn.
const TURN: usize = 128;

/// How long a turn waits for its sender: longer than a message takes to an arbiter that sleeps, and
/// the answer back. Meanwhile its room is nobody else's.
const PATIENCE: Duration = Duration::from_micros(200);

/// Who waits, and who may send now.
#[derive(Debug)]
pub(super) struct Line {
    policy: TxReadyPolicy,
    order: VecDeque<Waiter>,
    /// For each in `order`, whether it asked for a notice.
    asked: HashMap<Waiter, bool>,
    turns: Vec<Turn>,
    /// When the last flush was that found the line busy.
    now: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    whose: Waiter,
    left: usize,
    since: Instant,
}

impl Line {
    pub(super) fn new(policy: TxReadyPolicy) -> Self {
        Line {
            policy,
            order: VecDeque::new(),
            asked: HashMap::new(),
            turns: Vec::new(),
            now: Instant::ZERO,
        }
    }

    /// Whether somebody waits, or has a turn that must pass if it is not used.
    pub(super) fn is_busy(&self) -> bool {
        !self.order.is_empty() || !self.turns.is_empty()
    }

    /// Whether somebody waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.order.is_empty()
    }

    /// How much of `room` `sender` may use now; `None` is a sender without a name, which may use
    /// what is nobody's turn.
    pub(super) fn allowance(&self, sender: Option<Waiter>, room: usize) -> usize {
        if self.policy != TxReadyPolicy::Fair || !self.is_busy() {
            return room;
        }
        let Some(sender) = sender else {
            return room.saturating_sub(self.reserved());
        };
        let turn = self.turns.iter().find(|turn| turn.whose == sender);
        turn.map_or(0, |turn| turn.left.min(room))
    }

    /// `sender` has put in `frames`, and was refused more or not.
    pub(super) fn sent(&mut self, sender: Waiter, frames: usize, is_refused: bool) {
        if let Some(turn) = self.turns.iter_mut().find(|turn| turn.whose == sender) {
            turn.left = turn.left.saturating_sub(frames);
            if turn.left == 0 || is_refused {
                self.turns.retain(|turn| turn.whose != sender);
            }
        }
        if is_refused && self.policy == TxReadyPolicy::Fair {
            self.stand(sender, false);
        }
    }

    /// `sender` wants to be told. Returns whether it will be.
    pub(super) fn ask(&mut self, sender: Waiter) -> bool {
        let has_place = self.policy != TxReadyPolicy::First
            || self.order.is_empty()
            || self.asked.contains_key(&sender);
        if has_place {
            self.stand(sender, true);
        }
        has_place
    }

    fn stand(&mut self, sender: Waiter, asks: bool) {
        let order = &mut self.order;
        let asked = self.asked.entry(sender).or_insert_with(|| {
            order.push_back(sender);
            false
        });
        *asked |= asks;
    }

    /// `sender` is gone.
    pub(super) fn leave(&mut self, sender: Waiter) {
        if self.asked.remove(&sender).is_some() {
            self.order.retain(|waiter| *waiter != sender);
        }
        self.turns.retain(|turn| turn.whose != sender);
    }

    /// Everybody is gone.
    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.asked.clear();
        self.turns.clear();
    }

    /// A flush at `now`: turns that were not used for long pass.
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = now;
        self.turns.retain(|turn| now.since(turn.since) <= PATIENCE);
    }

    /// Room that is somebody's turn.
    fn reserved(&self) -> usize {
        self.turns.iter().map(|turn| turn.left).sum()
    }

    /// The next sender that is to be told of `room`, if there is one: `told` were already. It has a
    /// turn now. Those that did not ask get theirs in passing; `is_alive` says who still is.
    pub(super) fn next(
        &mut self,
        room: usize,
        told: usize,
        mut is_alive: impl FnMut(Waiter) -> bool,
    ) -> Option<Waiter> {
        loop {
            let free = room.saturating_sub(self.reserved());
            let is_enough = match self.policy {
                TxReadyPolicy::First => told == 0,
                TxReadyPolicy::All => true,
                TxReadyPolicy::Fair => free >= TURN || self.turns.is_empty(),
            };
            if !is_enough {
                return None;
            }
            let waiter = self.order.pop_front()?;
            let asked = self.asked.remove(&waiter).unwrap_or(false);
            // Who died passes its turn on.
            if !is_alive(waiter) {
                continue;
            }
            if self.policy == TxReadyPolicy::Fair {
                self.turns.push(Turn {
                    whose: waiter,
                    left: TURN,
                    since: self.now,
                });
            }
            if asked {
                return Some(waiter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::SubscriptionId;

    fn sender(number: u64) -> Waiter {
        Waiter::Subscription(SubscriptionId(number))
    }

    fn told(line: &mut Line, room: usize) -> Vec<Waiter> {
        let mut told = Vec::new();
        while let Some(next) = line.next(room, told.len(), |_| true) {
            told.push(next);
        }
        told
    }

    #[test]
    fn room_is_given_out_in_turns_to_those_who_were_refused_in_their_order() {
        let mut line = Line::new(TxReadyPolicy::Fair);
        assert_eq!(line.allowance(Some(sender(1)), 10), 10, "nobody waits");
        for number in [1, 2, 3] {
            line.sent(sender(number), 0, true);
            assert!(line.ask(sender(number)));
        }
        assert_eq!(line.allowance(Some(sender(1)), 10), 0, "not its turn yet");
        assert_eq!(told(&mut line, 2 * TURN), [sender(1), sender(2)]);
        assert_eq!(line.allowance(Some(sender(3)), 2 * TURN), 0);
        assert_eq!(line.allowance(Some(sender(1)), 2 * TURN), TURN);
        line.sent(sender(1), TURN, true);
        assert_eq!(
            line.allowance(Some(sender(1)), TURN),
            0,
            "to the end of the line"
        );
        assert_eq!(line.allowance(None, TURN + 3), 3);
        line.sent(sender(2), TURN, false);
        assert_eq!(
            told(&mut line, 5),
            [sender(3)],
            "one is told however little there is"
        );
    }

    #[test]
    fn a_turn_that_is_not_used_passes() {
        let mut line = Line::new(TxReadyPolicy::Fair);
        line.ask(sender(1));
        assert_eq!(told(&mut line, TURN), [sender(1)]);
        line.tick(Instant::ZERO + PATIENCE);
        assert!(line.is_busy());
        line.tick(Instant::ZERO + PATIENCE + Duration::from_nanos(1));
        assert!(!line.is_busy());
        assert_eq!(line.allowance(Some(sender(2)), 7), 7);
    }

    #[test]
    fn who_does_not_ask_has_a_turn_without_a_notice_and_the_dead_pass_theirs_on() {
        let mut line = Line::new(TxReadyPolicy::Fair);
        line.sent(sender(1), 0, true);
        line.ask(sender(2));
        line.ask(sender(3));
        line.leave(sender(3));
        let is_alive = |waiter| waiter != sender(2);
        assert_eq!(line.next(4 * TURN, 0, is_alive), None);
        assert_eq!(line.allowance(Some(sender(1)), 4 * TURN), TURN);
        assert!(!line.is_waiting());
    }

    #[test]
    fn the_other_policies_bound_nobody() {
        for (policy, expected) in [(TxReadyPolicy::First, 1), (TxReadyPolicy::All, 3)] {
            let mut line = Line::new(policy);
            let noted = (1..=3).filter(|number| line.ask(sender(*number))).count();
            assert_eq!(noted, expected);
            assert_eq!(line.allowance(Some(sender(9)), 5), 5);
            assert_eq!(told(&mut line, 1).len(), expected);
        }
    }
}
