//! The sending half of a connection: what was written, what is under way, and how much the peer
//! takes (RFC 9293, section 3.3.1: the send sequence variables).

use super::payload::SharedPayload;
use super::scoreboard::Scoreboard;
use super::send_queue::SendQueue;
use super::sequence::{Origin, SeqNumber};

/// The sending half. Positions count as [`Origin`] says.
#[derive(Debug)]
pub(crate) struct Sender<S> {
    pub(crate) origin: Origin,
    /// The first position that is not acknowledged (SND.UNA).
    pub(crate) una: u64,
    /// The first position that was never sent (SND.NXT).
    pub(crate) nxt: u64,
    /// What was written.
    pub(crate) queue: SendQueue<S>,
    /// What is under way.
    pub(crate) board: Scoreboard,
    /// Bytes that the peer takes from `una` on (SND.WND).
    pub(crate) window: u64,
    /// The largest window ever.
    pub(crate) most_window: u64,
    /// Where in the peer's stream the segment began that last set the window (SND.WL1).
    pub(crate) window_sequence: u64,
    /// What that segment acknowledged (SND.WL2).
    pub(crate) window_ack: u64,
    /// Whether we have finished: the FIN is behind the last byte.
    pub(crate) is_finished: bool,
}

impl<S: SharedPayload> Sender<S> {
    /// A half that begins with a SYN numbered `initial`.
    pub(crate) const fn new(initial: SeqNumber) -> Self {
        Sender {
            origin: Origin(initial),
            una: Origin::SYN,
            nxt: Origin::SYN,
            queue: SendQueue::new(Origin::SYN + 1),
            board: Scoreboard::new(),
            window: 0,
            most_window: 0,
            window_sequence: 0,
            window_ack: 0,
            is_finished: false,
        }
    }

    /// The position behind everything that there is to send, the FIN included.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.queue.end() + u64::from(self.is_finished)
    }

    /// Whether something was never sent.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.nxt < self.end()
    }

    /// Whether the peer knows that we have finished.
    pub(crate) fn is_fin_acknowledged(&self) -> bool {
        self.is_finished && self.una >= self.end()
    }

    /// Whether everything that was sent is acknowledged.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.una == self.nxt
    }

    /// Gives back the memory of empty queues.
    pub(crate) fn shrink(&mut self) {
        self.queue.shrink();
        self.board.shrink();
    }

    /// New bytes that the peer's window has room for.
    #[inline]
    pub(crate) fn usable_window(&self) -> u64 {
        (self.una + self.window).saturating_sub(self.nxt)
    }
}
