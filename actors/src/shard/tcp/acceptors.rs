//! The tasks that wait at a listener.
//!
//! Each that calls `accept` has a seat in a line, and each connection is given to the first in
//! it, so a burst of connections wakes as many tasks. What was given to a task that does not want
//! it any more, because it was cancelled, is the next one's.

use std::collections::VecDeque;
use std::mem::{replace, take};
use std::task::Waker;

use virtroupe_wire::tcp::ConnectionId;

use super::connections::keep;
use crate::shard::Wakes;

/// Whose seat it is: a task's, until it has taken what it was given or waits no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(usize);

/// The tasks that wait at one listener: as many as an application has there.
#[derive(Debug)]
pub(super) struct Acceptors<T = ConnectionId> {
    seats: Vec<Seat<T>>,
    /// Seats that are free.
    free: Vec<Place>,
    /// Who waits, from front to back.
    line: VecDeque<Place>,
    /// What was given to a task that left, when nobody else waited: so nobody waits while there is
    /// something.
    left: VecDeque<T>,
    /// The last task that polled without a place.
    polled: Option<Waker>,
}

#[derive(Debug, Default)]
enum Seat<T> {
    #[default]
    Free,
    Waiting(Waker),
    /// What was given to the task, and was not taken yet.
    Given(T),
}

impl<T> Default for Acceptors<T> {
    fn default() -> Self {
        Acceptors {
            seats: Vec::new(),
            free: Vec::new(),
            line: VecDeque::new(),
            left: VecDeque::new(),
            polled: None,
        }
    }
}

impl<T> Acceptors<T> {
    /// Has a task wait without a place: the last that does is woken.
    pub(super) fn wait(&mut self, waker: &Waker) {
        keep(&mut self.polled, waker);
    }

    /// Has a task wait at its place, or at the end if it has none.
    pub(super) fn wait_in_line(&mut self, place: &mut Option<Place>, waker: &Waker) {
        if let Some(Seat::Waiting(kept)) = self.seat(*place) {
            return kept.clone_from(waker);
        }
        let last = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat::Free);
            Place(self.seats.len() - 1)
        });
        if let Some(seat) = self.seat(Some(last)) {
            *seat = Seat::Waiting(waker.clone());
        }
        self.line.push_back(last);
        *place = Some(last);
    }

    /// Whether somebody waits in the line.
    pub(super) fn is_awaited(&self) -> bool {
        !self.line.is_empty()
    }

    /// Has a connection be the first one's in the line, and wakes that. If nobody is there, whoever
    /// asks next has it.
    pub(super) fn give(&mut self, connection: T, wakes: &Wakes) {
        let first = self.line.pop_front();
        match self.seat(first) {
            Some(seat) => {
                if let Seat::Waiting(waker) = replace(seat, Seat::Given(connection)) {
                    wakes.push(waker);
                }
            }
            None => {
                self.left.push_back(connection);
                self.wake_polled(wakes);
            }
        }
    }

    /// What was given to the task that has `place`, which it gives up with that; or what is nobody's.
    #[inline]
    pub(super) fn take(&mut self, place: &mut Option<Place>) -> Option<T> {
        let seat = self.seat(*place);
        let given = seat.filter(|seat| matches!(seat, Seat::Given(_)));
        match given.map(take) {
            Some(Seat::Given(connection)) => {
                self.free.extend(place.take());
                Some(connection)
            }
            _ => self.left.pop_front(),
        }
    }

    /// A task waits no more. What was given to it goes to the next one.
    pub(super) fn leave(&mut self, place: Place, wakes: &Wakes) {
        let Some(seat) = self.seat(Some(place)) else {
            // All have left: see `end`.
            return;
        };
        match take(seat) {
            // Seldom: who waits is cancelled.
            Seat::Waiting(_) => self.line.retain(|waiting| *waiting != place),
            Seat::Given(connection) => self.give(connection, wakes),
            Seat::Free => return,
        }
        self.free.push(place);
    }

    /// Wakes a task that polled without a place.
    pub(super) fn wake_polled(&mut self, wakes: &Wakes) {
        wakes.take_from(&mut self.polled);
    }

    /// Has all tasks woken: there will be nothing more. What none of them has taken yet.
    pub(super) fn end(&mut self, wakes: &Wakes) -> impl Iterator<Item = T> + use<T> {
        self.wake_polled(wakes);
        self.line.clear();
        self.free.clear();
        let mut untaken = take(&mut self.left);
        for seat in self.seats.drain(..) {
            match seat {
                Seat::Waiting(waker) => wakes.push(waker),
                Seat::Given(connection) => untaken.push_back(connection),
                Seat::Free => {}
            }
        }
        untaken.into_iter()
    }

    fn seat(&mut self, place: Option<Place>) -> Option<&mut Seat<T>> {
        self.seats.get_mut(place?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has so many tasks wait, one behind the other.
    fn line(count: usize) -> (Acceptors<u32>, Vec<Option<Place>>) {
        let mut acceptors = Acceptors::default();
        let mut places = vec![None; count];
        for place in &mut places {
            acceptors.wait_in_line(place, Waker::noop());
        }
        (acceptors, places)
    }

    #[test]
    fn who_comes_to_a_seat_that_was_left_waits_behind_all_others() {
        let (mut acceptors, mut places) = line(3);
        let wakes = Wakes::default();
        acceptors.leave(places[0].take().expect("it waits"), &wakes);
        acceptors.give(1, &wakes);
        assert_eq!(acceptors.take(&mut places[1]), Some(1));
        assert_eq!(places[1], None);
        // Both seats have somebody else now.
        let (mut fourth, mut fifth) = (None, None);
        acceptors.wait_in_line(&mut fourth, Waker::noop());
        acceptors.wait_in_line(&mut fifth, Waker::noop());
        (2..=4).for_each(|connection| acceptors.give(connection, &wakes));
        assert_eq!(acceptors.take(&mut fifth), Some(4));
        assert_eq!(acceptors.take(&mut fourth), Some(3));
        assert_eq!(acceptors.take(&mut places[2]), Some(2));
        assert!(!acceptors.is_awaited());
        assert_eq!(acceptors.seats.len(), 3, "no more seats than ever waited");
    }

    #[test]
    fn what_was_given_to_who_leaves_is_the_next_ones_and_at_the_end_nobodys() {
        let (mut acceptors, mut places) = line(2);
        let wakes = Wakes::default();
        acceptors.give(1, &wakes);
        acceptors.leave(places[0].take().expect("it waits"), &wakes);
        assert!(!acceptors.is_awaited());
        let place = places[1].expect("it waits");
        acceptors.leave(place, &wakes);
        assert_eq!(acceptors.take(&mut None), Some(1));
        let mut given = None;
        acceptors.wait_in_line(&mut given, Waker::noop());
        acceptors.give(2, &wakes);
        acceptors.give(3, &wakes);
        assert_eq!(acceptors.end(&wakes).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(acceptors.take(&mut given), None);
        acceptors.leave(given.expect("it has not heard"), &wakes);
    }
}
