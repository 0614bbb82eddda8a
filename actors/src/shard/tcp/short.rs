//! Writers that wait for packet memory.
//!
//! They are woken in their order, as many as there is memory for. Where there is none, those go on
//! that have so little under way that they may write to the heap: nobody tells when that is so, so
//! they are looked for, a few in each turn.

use std::collections::VecDeque;

use virtroupe_wire::tcp::ConnectionId;

use crate::shard::Shard;
use crate::tcp::TcpEventKind;

/// Packet slots of a writer that is woken because there is memory.
const SLOTS_EACH: usize = 8;

/// Writers that are looked at in one turn.
const LOOKS: usize = 64;

/// The line, each in it once.
#[derive(Debug)]
pub(super) struct Short<T = ConnectionId> {
    line: VecDeque<T>,
    /// How many in front were passed over by the last look.
    passed: usize,
}

impl<T> Short<T> {
    /// With nobody in it.
    pub(super) fn new() -> Self {
        Short {
            line: VecDeque::new(),
            passed: 0,
        }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Has one more wait, behind all others.
    pub(super) fn push(&mut self, writer: T) {
        self.line.push_back(writer);
    }

    /// Lets all go.
    pub(super) fn clear(&mut self) {
        self.line.clear();
    }

    /// Looks at the first, or goes on where the last look has ended, as the first may wait for
    /// long. Who `is_served` leaves the line; the others keep their places.
    fn look(&mut self, limit: usize, at_first: bool, mut is_served: impl FnMut(&T) -> bool) {
        let begin = match at_first || self.passed >= self.line.len() {
            true => 0,
            false => self.passed,
        };
        self.line.rotate_left(begin);
        let mut left = 0;
        for _ in 0..limit.min(self.line.len() - begin) {
            if let Some(next) = self.line.pop_front().filter(|next| !is_served(next)) {
                self.line.push_back(next);
                left += 1;
            }
        }
        self.passed = begin + left;
        self.line.rotate_right(self.passed);
    }
}

impl Shard {
    /// Wakes writers that wait for packet memory, if there is some: in their order, as many as
    /// it is for, a few slots each, or a long one; and those that need none.
    pub(super) fn wake_short(&mut self) {
        let ports = self.ports.clone();
        let mut turns = {
            let egress = &mut ports.borrow_mut().egress;
            let spare = Self::spare_slots(egress);
            spare.div_ceil(SLOTS_EACH) + egress.pool().available_long()
        };
        let mut short = std::mem::replace(&mut self.tcp.short, Short::new());
        short.look(LOOKS, turns > 0, |id| {
            if !self.tcp.sockets.contains_key(id) {
                return true;
            }
            let is_served = turns > 0 || self.tcp.may_use_heap(*id);
            if is_served {
                turns = turns.saturating_sub(1);
                self.wake_writer(*id);
            }
            is_served
        });
        self.tcp.short = short;
    }

    /// Tells a writer that there is packet memory.
    fn wake_writer(&mut self, id: ConnectionId) {
        let Some(socket) = self.tcp.sockets.get_mut(&id) else {
            return;
        };
        socket.flags.is_short = false;
        self.wakes.take_from(&mut socket.writer);
        let owes_notice = std::mem::take(&mut socket.flags.owes_notice);
        if let Some(delivery) = socket.delivery.as_ref().filter(|_| owes_notice) {
            delivery.tell(id, TcpEventKind::TxReady);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(numbers: impl IntoIterator<Item = u32>) -> Short<u32> {
        let mut short = Short::new();
        numbers.into_iter().for_each(|number| short.push(number));
        short
    }

    #[test]
    fn who_is_passed_over_keeps_the_place_in_the_line() {
        let mut short = line(0..10);
        short.look(6, true, |number| number % 3 == 0);
        assert_eq!(short.line, [1, 2, 4, 5, 6, 7, 8, 9]);
        short.look(100, true, |number| *number > 7);
        assert_eq!(short.line, [1, 2, 4, 5, 6, 7]);
        short.look(2, true, |_| true);
        assert_eq!(short.line, [4, 5, 6, 7]);
    }

    #[test]
    fn a_look_goes_on_where_the_last_one_has_ended() {
        let mut short = line(0..8);
        let mut looked_at = Vec::new();
        for at_first in [false, false, false, false, true] {
            short.look(3, at_first, |number| {
                looked_at.push(*number);
                *number == 4
            });
        }
        assert_eq!(looked_at, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 0, 1, 2]);
        assert_eq!(short.line, [0, 1, 2, 3, 5, 6, 7]);
    }
}
