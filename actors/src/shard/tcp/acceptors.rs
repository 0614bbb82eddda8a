//! The tasks that wait at a listener.
//!
//! Each that calls `accept` has a place in a line, and each connection is given to the first in
//! it, so a burst of connections wakes as many tasks. What was given to a task that does not want
//! it any more, because it was cancelled, is the next one's.

use std::collections::VecDeque;
use std::task::Waker;

use virtroupe_wire::tcp::ConnectionId;

use super::connections::keep;
use super::deliver::wake;
use crate::shard::Wakes;

/// A place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

/// The tasks that wait at one listener: as many as an application has there.
#[derive(Debug, Default)]
pub(super) struct Acceptors {
    /// Who waits. Places go up from front to back, here and below.
    line: VecDeque<(Place, Waker)>,
    /// What was given to whom, and was not taken yet.
    given: VecDeque<(Place, ConnectionId)>,
    /// What was given to a task that left, when nobody else waited.
    left: VecDeque<ConnectionId>,
    /// The number of the next place.
    next: u64,
    /// The last task that polled without a place.
    polled: Option<Waker>,
}

impl Acceptors {
    /// Has a task wait without a place: the last that does is woken.
    pub(super) fn wait(&mut self, waker: &Waker) {
        keep(&mut self.polled, waker);
    }

    /// Has a task wait at its place, or at the end if it has none.
    pub(super) fn wait_in_line(&mut self, place: &mut Option<Place>, waker: &Waker) {
        let found = place.and_then(|place| find(&self.line, place));
        if let Some((_, kept)) = found.and_then(|index| self.line.get_mut(index)) {
            return kept.clone_from(waker);
        }
        let last = Place(self.next);
        self.next += 1;
        self.line.push_back((last, waker.clone()));
        *place = Some(last);
    }

    /// Whether somebody waits in the line.
    pub(super) fn is_awaited(&self) -> bool {
        !self.line.is_empty()
    }

    /// Has a connection be the first one's in the line, and wakes that. If nobody is there, whoever
    /// asks next has it.
    pub(super) fn give(&mut self, connection: ConnectionId, wakes: &Wakes) {
        match self.line.pop_front() {
            Some((place, waker)) => {
                self.given.push_back((place, connection));
                wakes.push(waker);
            }
            None => {
                self.left.push_back(connection);
                self.wake_polled(wakes);
            }
        }
    }

    /// What was given to a task, or is nobody's.
    pub(super) fn take(&mut self, place: Option<Place>) -> Option<ConnectionId> {
        let given = place.and_then(|place| find(&self.given, place));
        let given = given.and_then(|index| self.given.remove(index));
        given
            .map(|(_, connection)| connection)
            .or_else(|| self.left.pop_front())
    }

    /// A task waits no more. What was given to it goes to the next one.
    pub(super) fn leave(&mut self, place: Place, wakes: &Wakes) {
        if let Some(index) = find(&self.line, place) {
            self.line.remove(index);
        } else if let Some(index) = find(&self.given, place)
            && let Some((_, connection)) = self.given.remove(index)
        {
            self.give(connection, wakes);
        }
    }

    /// Wakes a task that polled without a place.
    pub(super) fn wake_polled(&mut self, wakes: &Wakes) {
        wake(wakes, &mut self.polled);
    }

    /// Has all tasks woken: there will be nothing more. What none of them has taken yet.
    pub(super) fn end(&mut self, wakes: &Wakes) -> impl Iterator<Item = ConnectionId> + use<> {
        self.wake_polled(wakes);
        self.line.drain(..).for_each(|(_, waker)| wakes.push(waker));
        let given = std::mem::take(&mut self.given).into_iter();
        let left = std::mem::take(&mut self.left);
        given.map(|(_, connection)| connection).chain(left)
    }
}

/// Where a place is in a list that is sorted by places.
fn find<T>(list: &VecDeque<(Place, T)>, place: Place) -> Option<usize> {
    list.binary_search_by_key(&place, |it| it.0).ok()
}
