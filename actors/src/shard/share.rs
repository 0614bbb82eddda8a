//! How datagrams and TCP share the room of a transmit queue that is too short for both.
//!
//! TCP has always something to send, and is asked first; senders of datagrams come when they like,
//! and take what room there is, however little, where TCP may need some more for a long segment. So
//! either could leave the other nothing. While both wait, neither may be further ahead of the other
//! than a [`turn`](Share::turn), counted in frames from when they began to.

/// Frames that either may be ahead: twice as many as the pieces of the longest segment, for which
/// TCP waits until there is room for all.
const TURN: usize = 266;

/// Who has had how much.
#[derive(Debug)]
pub(super) struct Share {
    turn: usize,
    /// Frames that datagrams may still send before TCP does, `0..=2 * turn`: the rest of that is
    /// what TCP may send before datagrams do.
    left: usize,
    /// Whether TCP found too little room when it was asked last.
    is_tcp_short: bool,
}

impl Share {
    /// For a transmit queue that takes `capacity` frames.
    pub(super) fn new(capacity: usize) -> Self {
        let turn = TURN.min(capacity);
        Share {
            turn,
            left: turn,
            is_tcp_short: false,
        }
    }

    /// How much of `room` datagrams may use now.
    pub(super) fn of_datagrams(&self, room: usize) -> usize {
        match self.is_tcp_short {
            true => room.min(self.left),
            false => room,
        }
    }

    /// Datagrams have used room for so many frames.
    pub(super) fn datagrams_sent(&mut self, frames: usize) {
        if self.is_tcp_short {
            self.left = self.left.saturating_sub(frames);
        }
    }

    /// How much of `room` TCP may use now, where senders of datagrams wait or not.
    pub(super) fn of_tcp(&self, room: usize, is_awaited: bool) -> usize {
        match is_awaited {
            true => room.min(2 * self.turn - self.left),
            false => room,
        }
    }

    /// TCP has used room for so many frames. `is_short`: it would have used more.
    pub(super) fn tcp_sent(&mut self, frames: usize, is_short: bool) {
        self.is_tcp_short = is_short;
        self.left = match is_short {
            true => (self.left + frames).min(2 * self.turn),
            // If it has to wait again, that begins anew.
            false => self.turn,
        };
    }
}
